"""The folder that training leaves: whole, loadable, and true; and the commands that make and read it."""

import csv
import json
import os

import numpy as np
import pytest
from backends import needs_training
from digit_images import digits
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import create_model, load_weights, training
from convnext_keras.cli import app
from convnext_keras.data.images import open_image
from convnext_keras.training import charts, finetuning

pytestmark = [needs_training, pytest.mark.any_backend]
DIGITS = "convnext_mini.digits"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, (pixels, label) in enumerate(zip(*digits(60), strict=True)):
        if label < 4:
            (folder / f"kind {label}").mkdir(exist_ok=True)
            Image.fromarray(pixels).resize((24, 24)).save(folder / f"kind {label}" / f"{number}.png")
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def train(images, output, *others):
    changes = ("--set", "epochs=2", "--set", "batch_size=3", "--set", "min_steps=0")
    return run("train", images, "--output", output, "--weights", DIGITS, *changes, *others)


@pytest.mark.slow
def test_train_writes_a_classifier_for_all_commands(images, tmp_path):
    output = tmp_path / "kinds"
    assert "on 5 validation images" in train(images, output).stdout
    assert not [path for path in tmp_path.iterdir() if path != output]
    with (output / "history.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2"]
    results = json.loads((output / "results.json").read_text())
    assert results["config"]["epochs"] == 2
    card = (output / "README.md").read_text()
    assert f"{100 * results['validation']['top1_accuracy']:.2f} %" in card
    assert "Started from | convnext_mini.digits (license: apache-2.0)" in card
    for chart in ("confusion_matrix", "curves", "reliability"):
        assert f"![{chart}]({chart}.png)" in card
        assert open_image(output / f"{chart}.png").width > 300
    for path in (output, output / "model.keras"):
        classified = json.loads(run("classify", images / "kind 3", "--weights", path, "--json").stdout)
        assert {row["name"] for row in classified[0]["predictions"]} == {f"kind {number}" for number in range(4)}
        measured = json.loads(run("evaluate", path, images, "--json").stdout)
        assert measured["class_names"] == [f"kind {number}" for number in range(4)]
        assert measured["top1_accuracy"] > 0.8
    chart = tmp_path / "chart.png"
    assert "kind 2" in run("evaluate", output, images, "--tta-flip", "--confusion-matrix", chart).stdout
    assert open_image(chart).height > 200


def test_train_rejects_invalid_options(images, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken exists. Choose another folder"):
        train(images, tmp_path / "taken")
    with pytest.raises(ValueError, match="--set takes name=value with a field of the config: accumulation_steps"):
        train(images, tmp_path / "new", "--set", "epoch=1")
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        train(images, tmp_path / "new", "--set", "epochs=many")
    with pytest.raises(ValueError, match="has no subdirectories"):
        train(images / "kind 1", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def trained():
    model = create_model(DIGITS)
    examples = training.load_dataset((np.zeros((3, 8, 8, 3), "uint8"), [0, 1, 1]))
    scores = np.array([[0.9, 0.1], [0.3, 0.7], [0.95, 0.05]])
    result = training.Evaluation(scores, np.array([0, 1, 1]), ("a|b", "c"))
    return training.TrainingResult(model, [], result, training.TrainingConfig(), examples, examples)


def test_the_worst_mistakes_are_shown_first():
    result = training.Evaluation(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([1, 1, 1]), ("cat", "dog"))
    examples = training.load_dataset((np.zeros((3, 8, 8, 3), "uint8"), [1, 0, 1]))
    assert charts.plot_errors(examples, result).width == 2 * (charts.ERROR_CELL_SIZE + 4)
    right = training.Evaluation(np.eye(2), np.array([0, 1]), ("cat", "dog"))
    assert charts.plot_errors(examples, right) is None


@pytest.mark.parametrize("step", ["savefig", "save_pretrained"])
def test_full_disk_leaves_no_files(step, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, os.strerror(28))

    target = (
        "matplotlib.figure.Figure.savefig" if step == "savefig" else "convnext_keras.training.reports.save_pretrained"
    )
    monkeypatch.setattr(target, full)
    with pytest.raises(OSError, match="No space left"):
        training.save_training_result(trained(), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_train_rejects_directories_with_files(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists and is not empty"):
        training.save_training_result(trained(), tmp_path)


@pytest.mark.parametrize(("kept", "other"), [("last", "best"), ("best", "last")])
def test_the_best_epoch_and_the_last_are_both_kept(kept, other, tmp_path, monkeypatch):
    losses = iter((1.0, 2.0))
    monkeypatch.setattr(
        finetuning, "validation_metrics", lambda *parts: lambda model: {"val_loss": next(losses), "val_accuracy": 0.5}
    )
    config = training.TrainingConfig(epochs=2, batch_size=8, save_best=kept == "best")
    trained = training.fine_tune(DIGITS, digits(40), config)
    output = tmp_path / "kept"
    training.save_training_result(trained, output)
    assert sorted(path.name for path in output.glob("*.safetensors")) == sorted(
        [f"{other}.safetensors", "model.safetensors"]
    )
    model = create_model(output)
    for mine, expected in zip(trained.model.get_weights(), trained.checkpoints[kept], strict=True):
        np.testing.assert_array_equal(mine, expected)
    load_weights(model, output / f"{other}.safetensors")
    for mine, expected in zip(model.get_weights(), trained.checkpoints[other], strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6)
    assert any((a != b).any() for a, b in zip(*trained.checkpoints.values(), strict=True))


@pytest.mark.slow
def test_average_writes_the_mean_or_the_greedy_soup(images, tmp_path):
    for seed in range(2):
        train(images, tmp_path / f"kinds-{seed}", "--seed", seed)
    folders = [tmp_path / "kinds-0", tmp_path / "kinds-1"]
    assert "average of 2 models" in run("average", *folders, "--output", tmp_path / "mean").stdout
    assert "greedy soup" in run("average", *folders, "--output", tmp_path / "soup", "--data", images).stdout
    models = [create_model(folder) for folder in (*folders, tmp_path / "mean")]
    kernels = [model.layers[-1].get_weights()[0] for model in models]
    np.testing.assert_allclose(kernels[2], (kernels[0] + kernels[1]) / 2, rtol=1e-5, atol=1e-7)
    assert models[2].pretrained_info.class_names == models[0].pretrained_info.class_names
    accuracies = [
        training.evaluate(model, images).accuracy() for model in (*models[:2], create_model(tmp_path / "soup"))
    ]
    assert accuracies[2] >= max(accuracies[:2])
