"""Several labels and regressions, from a table to a server, an exported file and the hub's formats."""

import csv
import json

import numpy as np
import pytest
from backends import needs_training
from PIL import Image
from serving import asked, data_uri
from typer.testing import CliRunner

from convnext_keras import create_model, export, save_pretrained, training
from convnext_keras.cli import app
from convnext_keras.convnext import ConvNeXt
from convnext_keras.data.images import open_image
from convnext_keras.distributed import classify as classify_job
from convnext_keras.model import get_problem_type
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION
from convnext_keras.server import create_app

pytestmark = [needs_training, pytest.mark.integration, pytest.mark.slow, pytest.mark.any_backend]
START = "convnext_mini.digits"
CONFIG = training.TrainingConfig(epochs=6, batch_size=16, learning_rate=1e-3, head_init="linear_probe")


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def read_rows(path):
    with path.open(newline="") as stream:
        return [*csv.DictReader(stream)]


def draw(rng):
    """An image with bright bars of random length at the top, the left, or both; its tags and the total length."""
    pixels, tags, total = rng.integers(0, 60, (32, 32), "uint8"), [], 0
    for name in ("top", "left"):
        if rng.random() < 0.5:
            length = int(rng.integers(10, 30))
            bar = (slice(2, 7), slice(0, length)) if name == "top" else (slice(0, length), slice(2, 7))
            pixels[bar] = rng.integers(180, 256)
            tags.append(name)
            total += length
    return np.repeat(pixels[..., None], 3, axis=2), tags, total


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "tags", "length", "patient"])
        for number in range(120):
            pixels, tags, total = draw(rng)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", "|".join(tags), total / 10, number // 4])
    return folder / "table.csv"


OPTIONS = {
    MULTI_LABEL: ["--label-column", "tags", "--separator", "|"],
    REGRESSION: ["--label-column", "length", "--problem-type", REGRESSION],
}


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """Folders of trained models, by problem type."""
    folder = tmp_path_factory.mktemp("trained")
    for problem_type, options in OPTIONS.items():
        run(
            *("train", table, "--weights", START, "--output", folder / problem_type, *options),
            *("--epochs", 6, "--batch-size", 16, "--learning-rate", 1e-3, "--image-size", 32),
            *("--set", "head_init=linear_probe", "--log", "csv"),
        )
    return folder


@pytest.mark.parametrize("problem_type", OPTIONS)
def test_trained_folder_has_model_charts_predictions_and_card(trained, problem_type):
    folder = trained / problem_type
    model = create_model(folder)
    assert get_problem_type(model) == problem_type
    rows = read_rows(folder / "predictions.csv")
    assert len(rows) == 120
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert len(json.loads(rows[0]["scores"])) == len(model.pretrained_info.class_names)
    results = json.loads((folder / "results.json").read_text())["validation"]
    card = (folder / "README.md").read_text()
    if problem_type == MULTI_LABEL:
        assert results["mean_average_precision"] > 0.9
        assert results["macro_f1"] > 0.8
        assert len(model.pretrained_info.thresholds) == 2
        assert "Mean average precision" in card
        assert open_image(folder / "precision_recall.png").width > 400
    else:
        assert results["r2"] > 0.6
        assert "| value | R2 |" in card
        assert open_image(folder / "scatter.png").width > 400
    assert (trained / f"{problem_type}-logs" / "log.csv").read_text().count("\n") > 6


@pytest.mark.parametrize("problem_type", OPTIONS)
@pytest.mark.parametrize("suffix", ["", ".onnx", ".xml"])
def test_evaluate_gives_the_same_metrics_for_folder_and_exports(trained, table, problem_type, suffix, tmp_path):
    model = create_model(trained / problem_type)
    source = trained / problem_type
    if suffix:
        source = tmp_path / f"model{suffix}"
        run("export", trained / problem_type, "--output", source, "--precision", "float32")
    columns = [option for option in OPTIONS[problem_type] if option not in ("--problem-type", REGRESSION)]
    found = json.loads(run("evaluate", source, table, *columns, "--json", "--predictions", tmp_path / "p.csv"))
    scores = training.evaluate(model, table, label_column="tags" if problem_type == MULTI_LABEL else "length",
                               separator="|" if problem_type == MULTI_LABEL else None)  # fmt: skip
    for name, value in scores.metrics.items():
        assert found[name] == pytest.approx(value, abs=1e-4)
    assert len(read_rows(tmp_path / "p.csv")) == 120
    exported = export.ExportedModel(source) if suffix else None
    assert exported is None or exported.pretrained_info.problem_type == problem_type


@pytest.mark.parametrize("problem_type", OPTIONS)
def test_classify_job_and_server_give_labels_or_values(trained, table, problem_type, tmp_path):
    model, image = create_model(trained / problem_type), table.parent / "3.png"
    pixels = model.pretrained_info.transform(image)[None].astype("float32")
    (scores,) = np.asarray(model.predict_on_batch(pixels))
    names = [name for _, name in model.pretrained_info.class_names]
    (found,) = json.loads(run("classify", image, "--weights", trained / problem_type, "--json"))
    body = {"input": [{"image": data_uri(image.read_bytes())}]}
    (answer,) = asked(create_app(str(trained / problem_type)), "/v1/classify", body).json()["data"]
    classify_job(str(trained / problem_type), str(image), tmp_path / "job")
    import pyarrow.parquet

    (row,) = pyarrow.parquet.read_table(tmp_path / "job").to_pylist()
    if problem_type == REGRESSION:
        assert answer["values"] == pytest.approx(dict(zip(names, scores.tolist(), strict=True)), abs=1e-4)
        assert [one["score"] for one in found["predictions"]] == pytest.approx(scores.tolist(), abs=1e-4)
        assert row["scores"] == pytest.approx(scores.tolist(), abs=1e-4)
    else:
        above = {
            name
            for name, score, limit in zip(names, scores, model.pretrained_info.thresholds, strict=True)
            if score > limit
        }
        assert {one["name"] for one in found["predictions"]} == {*answer["labels"]} == {*row["labels"]} == above


@pytest.mark.parametrize("problem_type", OPTIONS)
@pytest.mark.parametrize("form", ["timm", "transformers", "keras"])
@pytest.mark.filterwarnings("ignore:.*pixels may be shifted by one")
def test_saved_repositories_state_the_problem_type(problem_type, form, tmp_path):
    labels = [["a"], ["a", "b"], []] * 2 if problem_type == MULTI_LABEL else [0.5, 20, 30] * 2
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), "uint8")
    backbone = ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16), include_top=False, input_shape=(32, 32, 3), pooling="avg")
    config = training.TrainingConfig(epochs=1, batch_size=2)
    model = training.fine_tune(backbone, (pixels, labels), config, problem_type=problem_type, validation=0.4).model
    save_pretrained(model, tmp_path / "saved", form)
    name = "convnext_keras.json" if form == "keras" else "config.json"
    assert json.loads((tmp_path / "saved" / name).read_text())["problem_type"] == problem_type
    again = create_model(tmp_path / "saved")
    assert get_problem_type(again) == problem_type
    inputs = pixels.astype("float32")
    np.testing.assert_allclose(again.predict_on_batch(inputs), model.predict_on_batch(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("problem_type", OPTIONS)
def test_explain_finds_the_region_of_a_label(trained, table, problem_type, tmp_path):
    from convnext_keras.explain import explain_images

    model = create_model(trained / problem_type)
    (found,) = explain_images(model, [table.parent / "3.png"], "top" if problem_type == MULTI_LABEL else None)
    assert np.isfinite(found.score)
    if problem_type == MULTI_LABEL:
        assert 0 < found.score < 1


def test_cross_validation_keeps_groups_together(table, tmp_path):
    text = run(
        *("train", table, "--weights", START, "--output", tmp_path / "cv", *OPTIONS[MULTI_LABEL], "--folds", 2),
        *("--group-column", "patient", "--preset", "linear_probe", "--image-size", 32),
    )
    assert "standard deviation" in text
    summary = json.loads((tmp_path / "cv" / "folds.json").read_text())
    values = summary["mean_average_precision"]["folds"]
    assert summary["mean_average_precision"]["mean"] == pytest.approx(np.mean(values))
    parts = [
        {row["path"] for row in read_rows(tmp_path / "cv" / f"fold-{n}" / "predictions.csv")
         if row["split"] == "validation"}
        for n in (1, 2)
    ]  # fmt: skip
    groups = [{int(path.rpartition("/")[2].partition(".")[0]) // 4 for path in part} for part in parts]
    assert not groups[0] & groups[1]


def test_a_trained_folder_continues_at_another_size_with_another_seed(trained, table, tmp_path):
    run(
        *("train", table, "--weights", trained / MULTI_LABEL, "--output", tmp_path / "more", *OPTIONS[MULTI_LABEL]),
        *("--epochs", 1, "--image-size", 40, "--seed", 1, "--learning-rate", 1e-4),
    )
    result = json.loads((tmp_path / "more" / "results.json").read_text())["validation"]
    assert create_model(tmp_path / "more").pretrained_info.transform.size == 40
    assert result["mean_average_precision"] > 0.8  # the classifier was kept


def test_config_file_and_options_override_the_preset(table, tmp_path):
    (tmp_path / "run.toml").write_text('epochs = 3\nlearning_rate = 0.5\nloss = "focal"\n')
    (tmp_path / "run.yaml").write_text("epochs: 3\nlearning_rate: 0.5\nloss: focal\n")
    for name in ("run.toml", "run.yaml"):
        run(
            *("train", table, "--weights", START, "--output", tmp_path / name[4:], *OPTIONS[MULTI_LABEL]),
            *("--config", tmp_path / name, "--epochs", 1, "--set", "learning_rate=0.001", "--image-size", 32),
        )
        config = json.loads((tmp_path / name[4:] / "results.json").read_text())["config"]
        assert (config["epochs"], config["learning_rate"], config["loss"]) == (1, 0.001, "focal")
    (tmp_path / "bad.toml").write_text("epoch = 3\n")
    result = CliRunner().invoke(
        app, ["train", str(table), "--weights", START, "--output", str(tmp_path / "x"), "--config",
              str(tmp_path / "bad.toml"), *OPTIONS[MULTI_LABEL]]
    )  # fmt: skip
    assert "Did you mean 'epochs'" in str(result.exception)


def test_batch_size_is_halved_when_memory_runs_out(monkeypatch):
    import keras

    sizes, fit = [], keras.Model.fit

    def limited(self, batches, **options):
        first = next(batches)
        sizes.append(len(first[0]))
        if len(first[0]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return fit(self, batches, **options)

    monkeypatch.setattr(keras.Model, "fit", limited)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), "uint8")
    config = training.TrainingConfig(epochs=1, batch_size=8)
    with pytest.warns(UserWarning, match="needs too much memory. Training restarts with batch_size="):
        result = training.fine_tune(START, (pixels, [0, 1] * 5), config, auto_batch_size=True)
    assert sizes == [8, 4, 2]
    assert (result.config.batch_size, result.config.accumulation_steps) == (2, 4)
    with pytest.raises(RuntimeError, match="out of memory"):
        training.fine_tune(START, (pixels, [0, 1] * 5), config)


def test_own_loss_metric_optimizer_and_augmentation_are_used():
    import keras

    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), "uint8")
    calls = []

    def augment(image, rng):
        calls.append(1)
        return np.full((32, 32, 3), rng.integers(0, 256), "uint8")

    result = training.fine_tune(
        START,
        (pixels, [0, 1] * 5),
        training.TrainingConfig(epochs=2, batch_size=4),
        size=32,
        loss=keras.losses.CategoricalHinge(),
        metrics=[keras.metrics.CategoricalCrossentropy(from_logits=True, name="crossentropy")],
        optimizer=keras.optimizers.SGD(0.125),
        augmentation=augment,
    )
    assert len(calls) >= 16
    assert {"crossentropy", "accuracy", "val_accuracy"} <= {*result.history[0]}
    assert [row["learning_rate"] for row in result.history] == [0.125, 0.125]


@pytest.mark.parametrize("optimizer", training.presets.OPTIMIZERS)
def test_every_optimizer_trains(optimizer):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), "uint8")
    config = training.TrainingConfig(epochs=2, batch_size=4, optimizer=optimizer, layer_decay=0.8, accumulation_steps=2)
    result = training.fine_tune(START, (pixels, [0, 1] * 4), config)
    assert np.isfinite([row["loss"] for row in result.history]).all()


def test_find_learning_rate_suggests_a_rate_and_draws_a_chart(table, tmp_path):
    options = {"label_column": "tags", "separator": "|"}
    test = training.find_learning_rate(
        START, table, training.TrainingConfig(batch_size=8), steps=40, size=32, **options
    )
    assert 1e-6 < test.suggestion < 1
    assert len(test.losses) == len(test.learning_rates) <= 40
    test.plot(tmp_path / "rates.png")
    assert open_image(tmp_path / "rates.png").width > 300


def test_classify_averages_the_scores_of_mirrored_images(trained, table):
    model, image = create_model(trained / REGRESSION), table.parent / "3.png"
    pixels = model.pretrained_info.transform(image)[None].astype("float32")
    both = np.concatenate([pixels, pixels[:, :, ::-1]])
    expected = np.asarray(model.predict_on_batch(both)).mean()
    (found,) = json.loads(run("classify", image, "--weights", trained / REGRESSION, "--tta-flip", "--json"))
    assert found["predictions"][0]["score"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        *(["--folds", "2", "--log", "csv"], ["--folds", "2", "--teacher", START], ["--freeze-tower", "image"]),
        *(["--teacher", START, "--skip"], ["--batch-size", "many"]),
    ],
    ids=" ".join,
)
def test_train_refuses_options_that_it_would_ignore(table, options, tmp_path):
    arguments = ["train", str(table), "--weights", START, "--output", str(tmp_path / "x")]
    result = CliRunner().invoke(app, [*arguments, "--label-column", "tags", "--separator", "|", *options])
    assert "is not for" in str(result.exception) or "must be a number or auto" in str(result.exception)
    assert not (tmp_path / "x").exists()
