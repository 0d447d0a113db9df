import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
from backends import BACKEND, needs_training, outputs, randomize
from PIL import Image
from typer.testing import CliRunner
from waiting import TIMEOUT

from convnext_keras import clip, create_model, decode_predictions, retrieval, samples, save_weights, training
from convnext_keras.checkpoints import load_registry
from convnext_keras.checkpoints.download import VerifiedFile
from convnext_keras.cli import COMMANDS, app, main
from convnext_keras.contact_sheet import LABEL_HEIGHT
from convnext_keras.data.transforms import ImageTransform, normalize

DIGITS = "convnext_mini.digits"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def digit(tmp_path):
    digits, labels = samples.load_digits()
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")
    assert labels[0] == 0
    return tmp_path / "digit.png"


@pytest.mark.any_backend
def test_demo_prints_accuracy_and_writes_images(tmp_path):
    result = run("demo", "--output", tmp_path / "images")
    assert "356 of 359 held-out digits right, 99.16 %" in result.stdout
    right = re.search(r"(\d+) of 48 held-out images have their own caption first", result.stdout)
    assert int(right[1]) >= 46
    assert result.stdout.count("Look at") == 3
    pixels = re.search(r"([\d.]+) % of the pixels of 4 drawn scenes right", result.stdout)
    assert float(pixels[1]) > 95
    assert np.asarray(Image.open(tmp_path / "images" / "segmentation.png")).shape[1] > 4 * 160
    digits = np.asarray(Image.open(tmp_path / "images" / "predictions.png")).astype(int)
    assert (digits @ (-1, 1, 0)).max() > 60  # There are green numbers and red ones.
    assert (digits @ (1, -1, 0)).max() > 120
    found = np.asarray(Image.open(tmp_path / "images" / "search.png"))[LABEL_HEIGHT : LABEL_HEIGHT + 128, :128]
    assert (found.astype(int) @ (-1, 1, 0) > 80).mean() > 0.05  # The stars found first are green.


@pytest.mark.slow
@needs_training
@pytest.mark.any_backend
def test_demo_train_writes_a_model(tmp_path, monkeypatch):
    """Uses fewer steps than the demo."""
    transform = dataclasses.replace(training.TRAINING_PRESETS["fine_tune_small_data"], epochs=6, min_steps=0)
    monkeypatch.setitem(training.TRAINING_PRESETS, "fine_tune_small_data", transform)
    shown = run("demo", "--train", "--output", tmp_path).stdout
    before, after = (float(figure) for figure in re.findall(r"([\d.]+) % +│", shown))
    assert before < 60
    assert after > 75
    assert (tmp_path / "colored-digits-model" / "curves.png").is_file()
    assert len([*(tmp_path / "colored-digits").glob("*/*.png")]) == 359
    with pytest.raises(ValueError, match="colored-digits exists"):
        run("demo", "--train", "--output", tmp_path)


@pytest.fixture
def shapes(tmp_path):
    images, captions = samples.load_shapes()
    folder = tmp_path / "shapes"
    folder.mkdir()
    for pixels, caption in zip(images[:9], captions[:9], strict=True):
        Image.fromarray(pixels).save(folder / f"{caption}.png")
    return folder


@pytest.mark.any_backend
def test_zero_shot(shapes):
    paths = sorted(shapes.iterdir())
    colors = [path.stem.split()[2] for path in paths]
    labels = "red, green,blue, yellow,purple,orange"
    arguments = ["zero-shot", shapes, "--labels", labels, "--template", "a {} shape", "--weights", "shapes"]
    rows = json.loads(run(*arguments, "--template", "{}", "--json", "--top-k", 2).stdout)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert [row["predictions"][0]["label"] for row in rows] == colors
    assert all(set(row["predictions"][1]) == {"label", "probability", "cosine"} for row in rows)
    table = run(*arguments, "--top-k", 1, "--threshold", 1.1).stdout
    assert table.count("none of these") == 9


@pytest.mark.any_backend
def test_embed_images_and_texts(shapes, tmp_path):
    (tmp_path / "texts.txt").write_text("a red circle\na blue star\n")
    for inputs, count in ((shapes, 9), (tmp_path / "texts.txt", 2)):
        output = tmp_path / f"{count}.safetensors"
        result = run("embed", inputs, "--output", output, "--weights", "shapes", "--batch-size", 4)
        assert f"{count} vectors of 96" in result.stdout
        with safetensors.safe_open(output, "numpy") as file:
            vectors, names = file.get_tensor("vectors"), json.loads(file.metadata()["names"])
        assert vectors.shape == (count, 96)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert len(names) == count
    assert names == ["a red circle", "a blue star"]


@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["float16", "int8", "ubinary"])
@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_embed_writes_other_types_of_vectors(suffix, dtype, tmp_path):
    texts = ["a red circle", "a blue star"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    output = tmp_path / f"texts{suffix}"
    run("embed", tmp_path / "texts.txt", "--output", output, "--weights", "shapes", "--dtype", dtype)
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(output)
        vectors, metadata = np.array(table.column("vector").to_pylist()), table.schema.metadata
        assert metadata[b"dtype"] == dtype.encode()
    else:
        vectors = safetensors.numpy.load_file(output)["vectors"]
    expected = retrieval.quantize(clip.create_model("shapes").encode_text(texts), dtype)
    np.testing.assert_allclose(vectors.astype("float32"), expected.astype("float32"), atol=1e-3)


@pytest.mark.any_backend
def test_index_and_search(shapes, tmp_path):
    folder = tmp_path / "shapes.index"
    moved = tmp_path / "later.png"
    sorted(shapes.iterdir())[0].rename(moved)
    assert "8 images added, 8 in all" in run("index", shapes, "--output", folder, "--weights", "shapes").stdout
    moved.rename(shapes / "later.png")
    assert "1 images added, 9 in all" in run("index", shapes, "--output", folder, "--weights", "shapes").stdout
    assert "0 images added, 9 in all" in run("index", shapes, "--output", folder, "--weights", "shapes").stdout
    wanted = sorted(shapes.iterdir())[4]
    query = wanted.stem
    hits = json.loads(run("search", folder, query, "--top-k", 3, "--json").stdout)
    assert hits[0]["name"] == str(wanted)
    assert len(hits) == 3
    by_image = run("search", folder, wanted, "--top-k", 1, "--contact-sheet", tmp_path / "found.png").stdout
    assert "1.000" in by_image
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.size == (204, 222)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-shot", "{digit}", "--labels", " , "], "labels must have at least one"),
        (["zero-shot", "{digit}", "--labels", "a,b", "--template", "no place"], "in the place of the label"),
        (["zero-shot", "missing.png", "--labels", "a,b", "--weights", "shapes"], "missing.png cannot be read"),
        (["zero-shot", "{digit}", "--labels", "a,b", "--weights", "shape"], "Did you mean"),
        (["embed", "{digit}", "--output", "out.npy", "--weights", "shapes"], ".safetensors or .parquet"),
        (["search", "{folder}", "words"], "holds no index"),
        (["index", "{folder}/missing", "--output", "x"], "is not a folder"),
        (["serve", "--host", "0.0.0.0"], "must listen at 127.0.0.1"),
        (["serve", "--index", "folder"], "must be NAME=FOLDER"),
        (["serve", "--image-urls", "all"], "Received: 'all'"),
        (["serve", "--api-keys-file", "{folder}/missing"], "No such file"),
    ],
)
def test_clip_errors_are_one_sentence(arguments, message, digit, monkeypatch, capsys):
    places = {"digit": digit, "folder": digit.parent}
    monkeypatch.setattr(sys, "argv", ["convnext-keras", *(text.format(**places) for text in arguments)])
    monkeypatch.chdir(digit.parent)
    with pytest.raises(SystemExit) as stop:
        main()
    assert message in str(stop.value.code)
    assert str(stop.value.code).startswith("convnext-keras: ")
    assert [path.name for path in digit.parent.iterdir()] == ["digit.png"]


@pytest.mark.any_backend
def test_classify(digit):
    result = run("classify", digit, "--weights", DIGITS, "--top-k", 2)
    assert "zero" in result.stdout


@pytest.mark.any_backend
def test_classify_a_folder_of_more_than_one_batch(tmp_path):
    digits, labels = samples.load_digits()
    for number in range(40):
        Image.fromarray(digits[number]).save(tmp_path / f"{number:02}.png")
    rows = json.loads(run("classify", tmp_path, "--weights", DIGITS, "--top-k", 1, "--json").stdout)
    assert [row["image"] for row in rows] == [str(tmp_path / f"{number:02}.png") for number in range(40)]
    right = sum(row["predictions"][0]["id"] == str(label) for row, label in zip(rows, labels, strict=False))
    assert right >= 38


@pytest.mark.any_backend
def test_classify_as_json(digit):
    rows = json.loads(run("classify", digit, digit, "--weights", DIGITS, "--json").stdout)
    assert [row["image"] for row in rows] == [str(digit)] * 2
    best = rows[0]["predictions"][0]
    assert (best["id"], best["name"]) == ("0", "zero")
    assert best["score"] > 0.5
    assert len(rows[0]["predictions"]) == 5


def listed(*arguments):
    return [row["name"] for row in json.loads(run("models", *arguments, "--json").stdout)]


@pytest.mark.any_backend
def test_models():
    assert listed() == list(load_registry())
    assert listed("*mini*") == [DIGITS]
    assert listed("--license", "cc-by-nc-4.0", "--size", 512) == [
        "convnextv2_huge.fcmae_ft_in22k_in1k_512",
        "convnextv2_huge.hf_22k_512",
    ]
    assert listed("convnext_small.*", "--labels", "imagenet-12k") == ["convnext_small.in12k"]
    assert listed("resnet*") == []
    assert "not for commercial use" in " ".join(run("models").stdout.split())


@pytest.mark.any_backend
def test_classify_works_with_defaults(tmp_path, monkeypatch):
    """A local file replaces the download; transform, statistics and labels are those of the weight set."""
    model = randomize(create_model("test_convnext", weights=None, classifier_activation=None))
    save_weights(model, tmp_path / "model.safetensors")
    file = VerifiedFile(tmp_path / "model.safetensors", "0" * 64)
    monkeypatch.setattr("convnext_keras.checkpoints.fetch_weights", lambda row, top: file)
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), "uint8")
    Image.fromarray(image).save(tmp_path / "photo.png")
    arguments = ("--weights", "test_convnext.r160_in1k", "--json")
    (row,) = json.loads(run("classify", tmp_path / "photo.png", *arguments).stdout)
    transform = ImageTransform(160, 0.95, "shortest", "bicubic", "half")
    plain = create_model("test_convnext", weights=None, include_preprocessing=False)
    plain.set_weights(model.get_weights())
    expected = decode_predictions(outputs(plain, normalize(transform(image)[None], "half")))[0]
    assert row["predictions"][0]["id"] == expected[0][0]
    assert row["predictions"][0]["score"] == pytest.approx(expected[0][2], rel=0.05)


@pytest.mark.any_backend
def test_fetch():
    assert run("fetch", DIGITS).stdout.strip().endswith("convnext_mini.digits.safetensors")


@pytest.mark.any_backend
@pytest.mark.parametrize("command", [*COMMANDS])
def test_help_has_an_example(command):
    assert f"convnext-keras {command} " in run(command, "--help").stdout
    assert command in run("--help").stdout


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "missing.png", "--weights", DIGITS], "missing.png cannot be read as an image"),
        (["classify", __file__], "cannot be read as an image"),
        (["classify", "x.png", "--weights", "convnext_mini.digit"], "Did you mean 'convnext_mini.digits'"),
        (["fetch", "resnet50"], "'resnet50' is no weight set"),
        (["fetch", "convnext_tiny.imagenet"], "CONVNEXT_KERAS_OFFLINE"),
    ],
)
def test_errors_are_one_sentence_on_standard_error(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convnext-keras", *arguments])
    with pytest.raises(SystemExit, match=message) as raised:
        main()
    assert str(raised.value).startswith("convnext-keras: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [ValueError, OSError, ImportError, RuntimeError])
def test_each_kind_of_error_is_one_sentence(kind, monkeypatch):
    def fail():
        raise kind("photos/1.png and following: the worker ended")

    monkeypatch.setattr("convnext_keras.cli.app", fail)
    with pytest.raises(SystemExit, match="^convnext-keras: photos/1.png and following: the worker ended$"):
        main()


@pytest.mark.slow
@pytest.mark.any_backend
def test_installed_command_exits_with_one(tmp_path):
    command = [Path(sys.executable).with_name("convnext-keras"), "classify", tmp_path / "no.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("convnext-keras: ")


ALONE = """
import json, socket, sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else super().find_spec(name, path, target)

def refuse(*arguments, **options):
    raise OSError("no network")

blocked, commands = json.loads(sys.argv[1])
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from convnext_keras.contact_sheet import LABEL_HEIGHT
from convnext_keras.cli import app
for command in commands:
    app(command, standalone_mode=False)
print("tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_clip_runs_without_peers_network_and_other_backends(shapes, tmp_path):
    """Every command of ConvNeXt-CLIP, from the bundled checkpoint."""
    blocked = {"timm", "open_clip", "torchvision", "transformers", "torch", "tensorflow"} - {BACKEND}
    index = str(tmp_path / "shapes.index")
    commands = [
        ["zero-shot", str(shapes), "--labels", "red,blue", "--weights", "shapes"],
        ["index", str(shapes), "--output", index, "--weights", "shapes"],
        ["search", index, "red circles", "--contact-sheet", str(tmp_path / "found.png")],
    ]
    command = [sys.executable, "-c", ALONE, json.dumps([sorted(blocked), commands])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found.png").is_file()
    # Keras imports TensorFlow by itself under OpenVINO if it is there; here it is not.
    assert done.stdout.splitlines()[-1] == str(BACKEND == "tensorflow")


@pytest.mark.any_backend
def test_contact_sheet_shows_images_of_the_indexed_directory_only(shapes, tmp_path, monkeypatch, capsys):
    """An index from elsewhere names any files; those outside of its folder are not opened."""
    model = clip.create_model("shapes")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    index = retrieval.InMemoryIndex(model)
    index.add([np.zeros((64, 64, 3), "uint8")], names=[str(secret)])
    index.save(tmp_path / "elsewhere" / "index")
    arguments = [
        "search",
        str(tmp_path / "elsewhere" / "index"),
        "black",
        "--contact-sheet",
        str(tmp_path / "found.png"),
    ]
    monkeypatch.setattr(sys, "argv", ["convnext-keras", *arguments])
    with pytest.raises(SystemExit, match=r"secret\.png is no file below the folders.*--images"):
        main()
    assert not (tmp_path / "found.png").exists()
    run(*arguments, "--image-dir", tmp_path)
    assert (tmp_path / "found.png").exists()


@pytest.mark.any_backend
def test_help_lists_the_names_of_the_library():
    """The command repeats these tables, since `--help` imports no library."""
    from convnext_keras import explain, export
    from convnext_keras.cli import options
    from convnext_keras.clip.constructors import BUNDLED_CLIP
    from convnext_keras.clip.zero_shot import DEFAULT_TEMPLATE
    from convnext_keras.problem_types import PROBLEM_TYPES
    from convnext_keras.retrieval import ivf_tuning, vector_types
    from convnext_keras.training import presets
    from convnext_keras.training.losses import LOSS_NAMES

    assert tuple(export.FORMATS) == options.EXPORT_FORMATS
    assert export.PRECISIONS == options.EXPORT_PRECISIONS
    assert vector_types.VECTOR_TYPES == options.VECTOR_TYPES
    assert ivf_tuning.QUANTIZATIONS == options.QUANTIZATIONS
    assert explain.METHODS == options.EXPLAIN_METHODS
    assert tuple(training.TRAINING_PRESETS) == options.PRESETS
    assert tuple(field.name for field in dataclasses.fields(training.TrainingConfig)) == options.PRESET_FIELDS
    assert (tuple(PROBLEM_TYPES), LOSS_NAMES, presets.OPTIMIZERS) == (
        *(options.PROBLEM_TYPES, options.LOSS_NAMES, options.OPTIMIZERS),
    )
    assert (BUNDLED_CLIP, DEFAULT_TEMPLATE) == (options.BUNDLED_CLIP, options.TEMPLATE)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["classify", "--wieghts", "x"], "--weights"),
        (["train", "--patience", "3"], "--set patience=VALUE"),
        (["train", "--learning-rte=3"], "--learning-rate"),
        (["train", "--see", "3"], "--seed"),
    ],
)
def test_unknown_options_suggest_a_spelling(arguments, hint):
    result = run(*arguments)
    assert result.exit_code == 2
    assert hint in " ".join(result.output.replace("│", " ").split())


@pytest.mark.any_backend
def test_help_shows_no_type_for_flags():
    text = "".join(run(command, "--help").stdout for command in COMMANDS) + run("--help").stdout
    assert "<bool>" not in text
    assert "--json" in text
