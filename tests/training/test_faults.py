"""Data and commands as practitioners have them: splits, labels of every kind, callbacks, and runs that diverge."""

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from backends import needs_training
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import create_model, training
from convnext_keras.cli import app
from convnext_keras.cli.run_settings import RunSettings
from convnext_keras.training.checkpointing import TrainingCheckpoint, history_to_csv
from convnext_keras.training.splits import train_val_split

pytestmark = [pytest.mark.any_backend, needs_training]
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), "uint8")
SHORT = training.TrainingConfig(epochs=2, batch_size=6, learning_rate=1e-3, min_steps=0)


@pytest.fixture
def folder(tmp_path):
    def write(counts, below="data"):
        for name, count in counts.items():
            (tmp_path / below / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(PIXELS[number]).save(tmp_path / below / name / f"{number}.png")
        return tmp_path / below

    return write


@pytest.mark.filterwarnings("ignore:x has no images")
@pytest.mark.parametrize("kind", ["float32", "float64", "int8", "uint16", "int64"])
def test_whole_numbers_of_any_type_are_labels(kind):
    labels = np.array([0, 1, 2, 10] * 3).astype(kind)
    examples = training.load_dataset((PIXELS, labels), class_names=[str(number) for number in range(11)], name="x")
    assert examples.labels.tolist() == [0, 1, 2, 10] * 3


def test_float_labels_raise():
    with pytest.raises(ValueError, match="Received: 0.5.*regression"):
        training.load_dataset((PIXELS, np.linspace(0, 5.5, 12)))


def test_classes_of_a_loader_keep_their_names_and_keys_can_be_named():
    class Loader(list):
        class_names = ("cat", "dog")

    assert training.load_dataset(Loader([(PIXELS, [0, 1] * 6)])).class_names == ("cat", "dog")
    rows = [{"img": pixels, "fine_label": number % 2} for number, pixels in enumerate(PIXELS)]
    assert training.load_dataset(rows).class_counts == {"0": 6, "1": 6}
    odd = [{"scan": pixels, "kind": number % 2} for number, pixels in enumerate(PIXELS)]
    with pytest.raises(ValueError, match=r"keys scan, kind.*keys=\(IMAGE, LABEL\)"):
        training.load_dataset(odd)
    assert training.load_dataset(odd, keys=("scan", "kind")).class_counts == {"0": 6, "1": 6}


@pytest.mark.parametrize("heading", ["split", "Split", "subset"])
@pytest.mark.parametrize("words", [("train", "val"), ("training", "validation"), ("train", "test"), ("TRAIN", "Valid")])
def test_split_column_defines_the_parts(heading, words, folder):
    data = folder({"a": 6, "b": 6})
    rows = [f"{name}/{number}.png,{name},{words[number > 3]}" for name in "ab" for number in range(6)]
    (data / "list.csv").write_text(f"path,label,{heading}\n" + "\n".join(rows) + "\n")
    kept, held_out = train_val_split(data / "list.csv", 0.2, None, 0, "raise")
    assert [path.name for path in kept.images] == [f"{number}.png" for number in range(4)] * 2
    assert [path.name for path in held_out.images] == ["4.png", "5.png"] * 2


def test_unknown_split_values_raise(folder):
    data = folder({"a": 2, "b": 2})
    (data / "list.csv").write_text("path,label,split\na/0.png,a,dev\nb/0.png,b,train\n")
    with pytest.raises(ValueError, match="split column must have .*Received: 'dev'"):
        train_val_split(data / "list.csv", 0.2, None, 0, "raise")


def test_classes_with_one_image_or_without_validation_images(folder):
    data = folder({"a": 5, "b": 5, "rare": 1})
    other = folder({"a": 2, "b": 2}, "other")
    with pytest.warns(UserWarning, match="other has no images of rare"):
        kept, held_out = train_val_split(data, other, None, 0, "raise")
    assert (kept.class_counts["rare"], held_out.class_counts["rare"]) == (1, 0)
    split = folder({"train/a": 3, "train/b": 3, "val/a": 2}, "split")
    with pytest.warns(UserWarning, match="val has no images of b"):
        _, held_out = train_val_split(split, 0.2, None, 0, "raise")
    assert held_out.class_counts == {"a": 2, "b": 0}


@pytest.mark.slow
def test_the_command_takes_a_class_with_one_image(folder, tmp_path):
    data = folder({"a": 8, "b": 8, "rare": 1})
    options = ["--preset", "linear_probe", "--weights", "convnext_mini.digits", "--output", str(tmp_path / "model")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(app, ["train", str(data), *options])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["validation"]["class_accuracy"]["rare"] is None
    done = CliRunner().invoke(
        app, ["save", str(tmp_path / "model" / "model.keras"), str(tmp_path / "saved"), "--format", "keras"]
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "callback",
    [keras.callbacks.ReduceLROnPlateau(), keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_that_cannot_work_are_refused_before_training(callback):
    with pytest.raises(ValueError, match=f"{type(callback).__name__} cannot be used: the config sets"):
        training.fine_tune("convnext_mini.digits", (PIXELS, [0, 1] * 6), SHORT, callbacks=[callback])


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_loss"])
def test_callbacks_see_the_usual_figures(monitor, tmp_path):
    path = tmp_path / "best.weights.h5"
    callbacks = [
        keras.callbacks.EarlyStopping(monitor=monitor, patience=1),
        keras.callbacks.ModelCheckpoint(path, monitor=monitor, save_best_only=True, save_weights_only=True),
    ]
    trained = training.fine_tune("convnext_mini.digits", (PIXELS, [0, 1] * 6), SHORT, callbacks=callbacks)
    assert monitor in trained.history[0]
    assert path.is_file()


class Diverging(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.trainable_variables[0].assign(self.model.trainable_variables[0] * np.nan)


def test_diverged_training_stops_with_an_error(tmp_path):
    options = {"state": tmp_path / "state", "callbacks": [Diverging()]}
    with pytest.warns(UserWarning, match="The loss of epoch 1 is not finite: training has diverged"):
        trained = training.fine_tune("convnext_mini.digits", (PIXELS, [0, 1] * 6), SHORT, **options)
    assert len(trained.history) == 1
    assert np.isnan(trained.history[0]["val_loss"])


@pytest.mark.parametrize("written", ["nan", "NaN", "inf", "Infinity", "-inf"])
def test_histories_with_numbers_that_are_not_finite_are_read(written, tmp_path):
    model = create_model("convnext_mini.digits")
    model.compile("sgd", "categorical_crossentropy")
    progress = TrainingCheckpoint(tmp_path, {"config": {}})
    progress.keep(model, {"epoch": 1, "loss": 1.0, "val_loss": 2.0}, model.get_weights())
    (tmp_path / "history.csv").write_text(history_to_csv(progress.history).replace("1.0", written))
    again = TrainingCheckpoint(tmp_path, {"config": {}})
    assert again.resume(model) == 1
    assert not np.isfinite(again.history[0]["loss"])


def test_the_users_number_of_epochs_counts():
    preset = training.TrainingConfig(min_steps=9)
    assert RunSettings("", None, ["epochs=10"], {}).resolve(preset).min_steps == 0
    assert RunSettings("", None, ["epochs=10", "min_steps=7"], {}).resolve(preset).min_steps == 7
    assert RunSettings("", None, ["batch_size=4"], {}).resolve(preset).min_steps == preset.min_steps


def test_state_of_another_training_names_the_difference(tmp_path):
    data = (PIXELS, [0, 1] * 6)
    training.fine_tune("convnext_mini.digits", data, SHORT, state=tmp_path / "state")
    other = dataclasses.replace(SHORT, batch_size=4)
    with pytest.raises(ValueError, match=r"other batch_size \(then 6, now 4\)"):
        training.fine_tune("convnext_mini.digits", data, other, state=tmp_path / "state")
    with pytest.raises(ValueError, match=r"other images, seed"):
        training.fine_tune("convnext_mini.digits", data, SHORT, seed=5, state=tmp_path / "state")
    longer = dataclasses.replace(SHORT, epochs=3)
    assert len(training.fine_tune("convnext_mini.digits", data, longer, state=tmp_path / "state").history) == 3


@pytest.mark.integration
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_exported_models_are_evaluated(suffix, tmp_path):
    from convnext_keras import export, samples

    pixels, labels = samples.load_digits()
    model = create_model("convnext_mini.digits")
    names = [str(number) for number in range(10)]
    export.export(model, tmp_path / f"digits{suffix}", verify=False)
    exported = export.ExportedModel(tmp_path / f"digits{suffix}")
    expected = training.evaluate(model, (pixels[:100], labels[:100]), class_names=names)
    found = training.evaluate(exported, (pixels[:100], labels[:100]), class_names=names)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_several_files_of_texts_are_embedded(tmp_path):
    (tmp_path / "a.txt").write_text("a red star\na blue circle\n")
    (tmp_path / "b.txt").write_text("a green star\n")
    output = tmp_path / "vectors.safetensors"
    options = ["--output", str(output), "--weights", "convnext_mini.shapes"]
    done = CliRunner().invoke(app, ["embed", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), *options])
    assert done.exit_code == 0, done.output
    assert "3 vectors" in done.output
    mixed = CliRunner().invoke(app, ["embed", str(tmp_path / "a.txt"), str(tmp_path / "b.png"), *options])
    assert mixed.exit_code == 1
    assert "two commands" in str(mixed.exception)
