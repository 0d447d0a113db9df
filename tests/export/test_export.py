"""Exports are what the model is, by the program that each format is for; wrong ones leave nothing behind."""

import json
import re

import keras
import numpy as np
import pytest
from backends import BACKEND, outputs, randomize, to_numpy
from typer.testing import CliRunner

from convnext_keras import ConvNeXt, clip, create_model, export, feature_extractor, samples
from convnext_keras.cli import app
from convnext_keras.data import transforms
from convnext_keras.export import FORMATS, api

pytestmark = pytest.mark.integration

DIGITS = "convnext_mini.digits"
OWN = [name for name, row in FORMATS.items() if row.backend == BACKEND]
SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}


@pytest.fixture(scope="module")
def pixels():
    transform = create_model(DIGITS).pretrained_info.transform
    return np.stack([transform(digit) for digit in samples.load_digits()[0][::40]]).astype("float32")


def inside_onnx(path):
    import onnx

    (row,) = onnx.load(path).metadata_props
    return row.value


def inside_torch(path):
    import torch

    files = {"convnext_keras.json": ""}
    torch.export.load(str(path), extra_files=files)
    return files["convnext_keras.json"]


INSIDE = {"onnx": inside_onnx, "torch": inside_torch}  # where the description is read from


@pytest.mark.parametrize("format", OWN)
def test_exported_classifier_equals_keras(format, pixels, tmp_path):
    path = tmp_path / f"digits{FORMATS[format].suffix}"
    written = export.export(create_model(DIGITS), path, format)
    assert written.max_relative_error < 1e-5
    assert written.size_bytes > 1e6
    read = export.ExportedModel(path)
    assert read.outputs == ["probabilities"]
    assert read.pretrained_info.license == "apache-2.0"
    if format in INSIDE:
        assert json.loads(INSIDE[format](path))["sha256"] == create_model(DIGITS).pretrained_info.sha256
    assert read.pretrained_info.transform == create_model(DIGITS).pretrained_info.transform
    expected = outputs(create_model(DIGITS), pixels)
    for rows in (pixels, pixels[:2]):
        np.testing.assert_allclose(read(rows), expected[: len(rows)], atol=1e-5)
    assert sorted(row.name for row in tmp_path.iterdir() if row.suffix != ".bin") == [path.name, f"{path.name}.json"]


@pytest.mark.parametrize("format", OWN)
def test_exported_towers_equal_keras(format, tmp_path):
    model = clip.create_model("shapes")
    path = tmp_path / f"text{FORMATS[format].suffix}"
    export.export(model.text_encoder, path, format, verify=False)
    texts = ["three red stars", "a small blue circle on white", "green"]
    tokens = model.tokenizer(texts)
    vectors = export.ExportedModel(path)(tokens)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, model.encode_text(texts), atol=1e-5)
    classifier = clip.ZeroShotClassifier(model, ["a red star", "a blue circle"], "{}")
    path = tmp_path / f"zero{FORMATS[format].suffix}"
    export.export(classifier, path, format, verify=False)
    read = export.ExportedModel(path)
    assert read.pretrained_info.class_names == (("a red star",) * 2, ("a blue circle",) * 2)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype("uint8")
    np.testing.assert_allclose(read(images), classifier.predict_proba(images), atol=1e-5)


def small(**options):
    return randomize(ConvNeXt(**SMALL, **{"weights": None, "classes": 5, "input_shape": (40, 48, 3), **options}))


@pytest.mark.parametrize("format", OWN)
def test_layout_type_and_batch_can_be_chosen(format, tmp_path):
    path = tmp_path / f"small{FORMATS[format].suffix}"
    model = small(classifier_activation=None)
    export.export(model, path, format, batch_size=2, layout="nchw", input_dtype="uint8", verify=False)
    assert json.loads((tmp_path / f"{path.name}.json").read_text())["shape"] == [2, 3, 40, 48]
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3)).astype("uint8")
    expected = outputs(model, images.astype("float32"))
    np.testing.assert_allclose(export.ExportedModel(path)(images), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("format", OWN)
def test_features_and_backbones(format, tmp_path):
    backbone = small(include_top=False)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 40, 48, 3)).astype("float32")
    for model, names in (
        (backbone, ["features"]),
        (feature_extractor(backbone, (1, 3)), ["features_0", "features_1"]),
    ):
        path = tmp_path / f"{len(names)}{FORMATS[format].suffix}"
        export.export(model, path, format, verify=False)
        read = export.ExportedModel(path)
        assert read.outputs == names
        for found, expected in zip(read.run_raw(pixels), keras.tree.flatten(model(pixels)), strict=True):
            np.testing.assert_allclose(found, to_numpy(expected), atol=1e-5 * np.abs(to_numpy(expected)).max())


@pytest.mark.any_backend
def test_a_model_built_on_a_backbone(tmp_path):
    model = keras.Sequential([small(include_top=False, pooling="avg"), keras.layers.Dense(3, name="mine")])
    export.export(model, tmp_path / "mine.pt2", verify=False)
    with pytest.raises(ValueError, match="Received: streams=2 for torch"):
        export.ExportedModel(tmp_path / "mine.pt2", streams=2)
    read, pixels = export.ExportedModel(tmp_path / "mine.pt2"), np.zeros((2, 40, 48, 3), "float32")
    assert read.outputs == ["logits"]
    np.testing.assert_allclose(read(pixels), outputs(model, pixels), atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's format")
def test_dynamic_image_size_is_exported(tmp_path):
    model = small(include_top=False, pooling="avg", input_shape=(None, None, 3))
    export.export(model, tmp_path / "free", "saved_model", verify=False)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 72, 56, 3)).astype("float32")
    expected = outputs(model, pixels)
    np.testing.assert_allclose(export.ExportedModel(tmp_path / "free")(pixels), expected, atol=1e-4)


@pytest.mark.any_backend
def test_export_runs_another_backend_in_a_subprocess(pixels, tmp_path):
    path = tmp_path / "digits.tflite"
    assert export.export(create_model(DIGITS), path).max_relative_error < 1e-5
    np.testing.assert_allclose(export.ExportedModel(path)(pixels), outputs(create_model(DIGITS), pixels), atol=1e-5)


@pytest.mark.any_backend
def test_export_with_normalized_input(pixels, tmp_path):
    model = create_model(DIGITS)
    export.export(model, tmp_path / "plain.onnx", normalized=True, opset=18, verify=False)
    read = export.ExportedModel(tmp_path / "plain.onnx")
    np.testing.assert_allclose(read(pixels), outputs(model, pixels), atol=1e-5)
    normalized = transforms.normalize(pixels, read.statistics)
    np.testing.assert_allclose(read.run_raw(normalized)[0], outputs(model, pixels), atol=1e-5)


@pytest.mark.any_backend
def test_export_command_and_classify(pixels, tmp_path):
    from PIL import Image

    image, path = tmp_path / "digit.png", tmp_path / "digits.onnx"
    Image.fromarray(samples.load_digits()[0][0]).save(image)

    def run(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False).stdout

    shown = run("export", DIGITS, "--output", path)
    assert float(re.search(r"differs by (\S+) of", shown)[1]) < 1e-5
    results = [json.loads(run("classify", image, "--weights", row, "--json")) for row in (DIGITS, path)]
    for one, two in zip(*(row[0]["predictions"] for row in results), strict=True):
        assert (one["id"], one["name"]) == (two["id"], two["name"])
        assert one["score"] == pytest.approx(two["score"], abs=1e-5)
    shapes = ("export", "convnext_mini.shapes", "--output", tmp_path / "zero.pt2")
    with pytest.raises(ValueError, match="format must be 'onnx' or 'openvino' for both towers"):
        run(*shapes)
    with pytest.raises(ValueError, match="--features requires a classifier or an image tower"):
        run(*shapes, "--labels", "a, b", "--features")
    with pytest.raises(ValueError, match="--tower must be image or text"):
        run(*shapes, "--tower", "both")
    run(*shapes, "--labels", "a red star, a blue circle", "--template", "{}", "--no-verify")
    (row,) = json.loads(run("classify", image, "--weights", tmp_path / "zero.pt2", "--json"))
    assert {best["name"] for best in row["predictions"]} == {"a red star", "a blue circle"}


def nothing_left(folder):
    return not [*folder.iterdir()]


@pytest.mark.any_backend
def test_export_rejects_invalid_arguments(tmp_path, monkeypatch):
    model = create_model(DIGITS)
    with pytest.raises(ValueError, match=r"format must be .* Received: format='onxx'. Did you mean 'onnx'"):
        export.export(model, tmp_path / "x", "onxx")
    with pytest.raises(ValueError, match=r"x.bin must end in '.tflite', '.onnx'"):
        export.export(model, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="layout must be 'nhwc' or 'nchw'"):
        export.export(model, tmp_path / "x.onnx", layout="hwcn")
    foreign = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="no ConvNeXt blocks to fold. Give a model of this library"):
        export.export(foreign, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="has two towers"):
        export.export(clip.create_model("shapes"), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="onnx needs a fixed size, such as input_size=224. 'saved_model' supports"):
        export.export(small(include_top=False, input_shape=(None, None, 3)), tmp_path / "x.onnx")
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ImportError, match=r'onnx needs onnxscript: pip install "convnext-keras\[onnx\]"'):
        export.export(model, tmp_path / "x.onnx")
    assert nothing_left(tmp_path)


@pytest.mark.any_backend
def test_transform_has_the_exported_size(tmp_path):
    model = create_model(DIGITS, include_top=False, input_shape=(None, None, 3))
    export.export(model, tmp_path / "x.xml", input_size=(48, 64), verify=False)
    assert export.ExportedModel(tmp_path / "x.xml").pretrained_info.transform.size == (48, 64)


@pytest.mark.any_backend
@pytest.mark.parametrize("model", [None, 3, np.zeros(2)], ids=["none", "number", "array"])
@pytest.mark.parametrize("function", ["export", "export_clip", "export_immich", "export_onnx_web"])
def test_what_is_no_model_is_a_clear_error(function, model, tmp_path):
    with pytest.raises(TypeError, match=f"^model must be .* Received: {type(model).__name__}"):
        getattr(export, function)(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.any_backend
def test_overwrite_is_required_to_replace_a_file(tmp_path):
    path = tmp_path / "x.pt2"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="x.pt2 exists. Choose another path"):
        export.export(create_model(DIGITS), path)
    assert path.read_bytes() == b"precious"
    (tmp_path / "y.bin").write_bytes(b"precious")
    with pytest.raises(ValueError, match="y.bin exists"):
        export.export(create_model(DIGITS), tmp_path / "y.xml", verify=False)
    assert (tmp_path / "y.bin").read_bytes() == b"precious"
    assert not (tmp_path / "y.xml").exists()
    with pytest.raises(ValueError, match="is a directory that `export` did not write"):
        export.export(create_model(DIGITS), tmp_path, "saved_model", overwrite=True)
    export.export(create_model(DIGITS), path, overwrite=True, verify=False)
    assert path.stat().st_size > 1e6


@pytest.mark.any_backend
def test_failed_export_leaves_no_files(tmp_path, monkeypatch):
    model, write = create_model(DIGITS), api.write_model

    def of_another_model(format, ready, path, description):
        wrong = keras.models.clone_model(ready)
        wrong.set_weights([value * np.float32(1.001) for value in ready.get_weights()])
        write(format, wrong, path, description)

    monkeypatch.setattr(api, "write_model", of_another_model)
    with pytest.raises(ValueError, match=r"differs by \S+ of the largest output. The limit for float32 is 1e-04"):
        export.export(model, tmp_path / "x.onnx")
    monkeypatch.setattr(api, "write_model", lambda format, ready, path, description: path.write_bytes(b"no program"))
    with pytest.raises(ValueError, match="The exported model failed to run"):
        export.export(model, tmp_path / "x.onnx")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api, "write_model", full)
    with pytest.raises(OSError, match="No space left"):
        export.export(model, tmp_path / "x.onnx")
    assert nothing_left(tmp_path)


@pytest.mark.any_backend
def test_exported_model_rejects_other_files(tmp_path):
    (tmp_path / "x.onnx").touch()
    assert not export.is_exported_model(tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="x.onnx has no metadata file x.onnx.json"):
        export.ExportedModel(tmp_path / "x.onnx")
