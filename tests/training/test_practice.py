"""Duplicates, predictions, notes, given splits, zero-shot evaluation, CLIP histories."""

import csv
import json

import keras
import numpy as np
import pytest
from backends import needs_training
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import clip, create_model, training
from convnext_keras.cli import app
from convnext_keras.training.checkpointing import HISTORY_FILE, read_history

pytestmark = [pytest.mark.any_backend, needs_training]
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), "uint8")
SHORT = training.TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-3, min_steps=0)


def write_images(folder, counts, first=0):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(PIXELS[first + number]).save(folder / name / f"{number}.png")
    return folder


def shapes_folder(folder, splits=("",)):
    colors = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    for split in splits:
        for name, color in colors.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.full((64, 64, 3), color, "uint8")
                pixels[: 4 * number + 1] = 10 * number
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_find_duplicates_compares_contents_of_files_and_arrays(tmp_path):
    kept = training.load_dataset(write_images(tmp_path / "train", {"a": 3, "b": 3}))
    held_out = training.load_dataset(write_images(tmp_path / "val", {"a": 2, "b": 1}, first=2))
    assert [tuple(name[-7:] for name in pair) for pair in training.find_duplicates(kept, held_out)] == [
        ("a/0.png", "a/2.png"),
        ("b/0.png", "a/2.png"),
    ]
    arrays = training.load_dataset((PIXELS[[0, 1, 2, 0]], [0, 1, 0, 1]))
    assert training.find_duplicates(arrays.select([0, 1]), arrays.select([2, 3])) == [("image 1", "image 0")]


def test_drop_duplicates_leaves_the_other_training_images():
    examples = training.load_dataset((PIXELS[[0, 1, 2, 3, 0, 4]], [0, 1, 0, 1, 0, 1]))
    kept = training.drop_duplicates(examples.select([0, 1, 2, 3]), examples.select([4, 5]))
    assert [image.tobytes() for image in kept.images] == [PIXELS[index].tobytes() for index in (1, 2, 3)]


def test_find_duplicates_reads_each_image_once(monkeypatch):
    reads = []
    monkeypatch.setattr("convnext_keras.training.splits._content_hash", lambda image: reads.append(1) or str(image))
    examples = training.ImageDataset([*map(str, range(10_000))], np.arange(10_000) % 2, ("a", "b"))
    assert training.find_duplicates(examples, examples.select(range(5_000, 10_000)))[0] == ("5000", "5000")
    assert len(reads) == 15_000


def test_notes_name_duplicates_gap_and_rise():
    examples = training.load_dataset((PIXELS, [0, 1] * 6))
    scores = np.full((12, 2), 0.5, "float32")
    evaluation = training.Evaluation(scores, examples.labels, examples.class_names)
    history = [
        {"epoch": 1, "loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.7},
        {"epoch": 2, "loss": 0.03, "accuracy": 0.99, "val_loss": 1.93, "val_accuracy": 0.6},
    ]
    model = create_model("convnext_mini.digits")
    trained = training.TrainingResult(model, history, evaluation, SHORT, examples, examples)
    duplicates, gap, rise = trained.notes
    assert "12 of 12 validation images are in the training data too" in duplicates
    assert "99.0 % on training images and 60.0 % on validation" in gap
    assert "lowest after epoch 1 (0.6) and is 1.93" in rise
    assert "save_best=True" in rise
    quiet = training.TrainingResult(model, history[:1], evaluation, SHORT, examples.select([0]), examples.select([1]))
    assert quiet.notes == []


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("practice")
    data = write_images(root / "data" / "train", {"a": 6, "b": 6}).parent
    write_images(root / "data" / "val", {"a": 2, "b": 2}, first=6)
    arguments = ["train", str(data), "--weights", "convnext_mini.digits", "--output", str(root / "model")]
    run = CliRunner().invoke(app, [*arguments, "--set", "epochs=2", "--set", "batch_size=4"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return root / "model", run.output


def test_train_writes_predictions_of_all_images(trained_folder):
    folder, _ = trained_folder
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert [row["split"] for row in rows] == ["train"] * 12 + ["validation"] * 4
    assert {row["label"] for row in rows} == {row["prediction"] for row in rows} | {"a", "b"}
    confusion = json.loads((folder / "results.json").read_text())["validation"]["confusion_matrix"]
    right = sum(row["label"] == row["prediction"] for row in rows if row["split"] == "validation")
    assert right == np.trace(confusion)
    model = create_model(folder)
    pixels = model.pretrained_info.transform(rows[0]["path"])
    assert float(rows[0]["score"]) == pytest.approx(model.predict(pixels[None], verbose=0).max(), abs=2e-3)


def test_train_records_learning_rate_and_training_accuracy(trained_folder):
    folder, output = trained_folder
    history = read_history(folder)
    assert [set(row) >= {"accuracy", "val_accuracy", "learning_rate"} for row in history] == [True, True]
    assert history[0]["learning_rate"] > history[1]["learning_rate"] >= 0
    assert "Note: 4 of 4 validation images are in the training data too" not in output
    assert "Note:" not in output or "validation" in output


@pytest.mark.parametrize("layout", ["folders", "csv", "tsv", "semicolons"])
def test_evaluate_uses_the_validation_part(layout, tmp_path):
    write_images(tmp_path / "train", {"zero": 3, "one": 3})
    write_images(tmp_path / "val", {"zero": 2, "one": 1}, first=6)
    data = tmp_path
    if layout != "folders":
        separator = {"csv": ",", "tsv": "\t", "semicolons": ";"}[layout]
        files = sorted(tmp_path.rglob("*.png"))
        rows = [("path", "label", "split"), *((str(p), p.parent.name, p.parent.parent.name) for p in files)]
        data = tmp_path / f"list.{'tsv' if layout == 'tsv' else 'csv'}"
        data.write_text("\n".join(separator.join(row) for row in rows))
    assert len(training.evaluate("convnext_mini.digits", data).labels) == 3


def test_evaluate_measures_zero_shot_classification(tmp_path):
    data = shapes_folder(tmp_path / "colors")
    templates = "a {} background"
    result = training.evaluate("convnext_mini.shapes", data, templates=templates)
    assert (result.accuracy(), result.class_names) == (1.0, ("blue", "red"))
    model = clip.create_model("convnext_mini.shapes")
    expected = clip.ZeroShotClassifier(model, ["blue", "red"], templates).predict_proba(sorted(data.rglob("*.png")))
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    run = CliRunner().invoke(app, ["evaluate", "convnext_mini.shapes", str(data), "--template", templates, "--json"])
    assert json.loads(run.stdout)["top1_accuracy"] == 1.0
    with pytest.raises(ValueError, match="are of classifiers"):
        training.evaluate(model, data, flip=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("convnext_mini.shapes"), r"Use convnext_keras.clip.create_model"),
        (lambda: clip.create_model("convnext_mini.digits"), r"Use convnext_keras.create_model"),
        (lambda: training.fine_tune("convnext_mini.shapes", (PIXELS, [0, 1] * 6), SHORT), "use fine_tune_clip"),
    ],
)
def test_the_other_kind_of_model_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_classify_gives_probabilities_of_a_model_with_logits(tmp_path):
    model = create_model("convnext_mini.digits", classifier_activation=None)
    model.save(tmp_path / "logits.keras")
    Image.fromarray(PIXELS[0]).save(tmp_path / "image.png")
    arguments = ["classify", str(tmp_path / "image.png"), "--weights", str(tmp_path / "logits.keras"), "--json"]
    run = CliRunner().invoke(app, [*arguments, "--top-k", "10"], catch_exceptions=False)
    scores = [row["score"] for row in json.loads(run.stdout)[0]["predictions"]]
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def pairs_of(count):
    images = [np.full((64, 64, 3), 20 * number, "uint8") for number in range(count)]
    return images, [f"gray level {number}" for number in range(count)]


@pytest.mark.slow
def test_clip_training_goes_on_after_an_interruption(tmp_path):
    config = training.TrainingConfig(epochs=3, batch_size=2, learning_rate=1e-4)
    model = clip.create_model("convnext_mini.shapes")
    pairs = training.load_image_text_pairs(pairs_of(6))
    recall = [training.RetrievalRecall(pairs)]
    whole = training.fine_tune_clip(model, pairs, config, state=tmp_path / "whole", callbacks=recall)

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        training.fine_tune_clip(model, pairs, config, state=tmp_path / "cut", callbacks=[*recall, Killed()])
    assert len(read_history(tmp_path / "cut")) == 2
    resumed = training.fine_tune_clip(model, pairs, config, state=tmp_path / "cut", callbacks=recall)
    for mine, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    histories = [read_history(tmp_path / name) for name in ("whole", "cut")]
    assert [row["loss"] for row in histories[0]] == [row["loss"] for row in histories[1]]
    assert {"recall_at_1", "learning_rate"} <= set(histories[0][0])
    other = training.TrainingConfig(epochs=3, batch_size=2, learning_rate=1e-3)
    with pytest.raises(ValueError, match="other learning_rate"):
        training.fine_tune_clip(model, pairs, other, state=tmp_path / "cut", callbacks=recall)


@pytest.mark.parametrize("interpolate", ["0", "auto"])
def test_train_on_pairs_writes_history_and_interpolates(interpolate, tmp_path):
    images, texts = pairs_of(8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    rows = "\n".join(f"{number}.png\t{text}" for number, text in enumerate(texts))
    (tmp_path / "pairs.tsv").write_text(f"path\tcaption\n{rows}\n")
    data = str(tmp_path / "pairs.tsv")
    arguments = [
        "train",
        data,
        "--weights",
        "convnext_mini.shapes",
        "--output",
        str(tmp_path / "out"),
        "--replay-data",
        data,
    ]
    options = ["--interpolate", interpolate, "--set", "epochs=1", "--set", "batch_size=4"]
    run = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert run.output.count("before") == run.output.count("after") == 2
    assert "median rank" in run.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "validation: text to image recall at 10" in card
    assert (tmp_path / "out" / "curves.png").exists()
    assert len(read_history(tmp_path / "out")) == 1
    assert (tmp_path / "out" / HISTORY_FILE).exists()
    assert not (tmp_path / "out.partial").exists()
    if interpolate == "auto":
        assert "weight of the new model: " in run.output
        return
    same, original = clip.create_model(tmp_path / "out"), clip.create_model("convnext_mini.shapes")
    for mine, theirs in zip(same.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
