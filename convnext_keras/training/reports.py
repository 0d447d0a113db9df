"""Directory of a training run: model, charts, predictions and model card."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from convnext_keras.checkpoints import save_weights
from convnext_keras.files import atomic_path
from convnext_keras.hub import save_pretrained
from convnext_keras.model import get_pretrained_info
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION
from convnext_keras.training.charts import plot_curves, plot_errors, plot_results
from convnext_keras.training.checkpointing import HISTORY_FILE, history_to_csv
from convnext_keras.training.evaluation import Evaluation, predict_scores
from convnext_keras.training.finetuning import TrainingResult
from convnext_keras.training.multi_label import MultiLabelEvaluation
from convnext_keras.training.predictions import format_metrics, prediction_rows, predictions_to_csv
from convnext_keras.training.presets import TrainingConfig
from convnext_keras.training.regression import RegressionEvaluation

PREDICTIONS_FILE = "predictions.csv"


def save_training_result(trained: TrainingResult, folder: str | os.PathLike, name: str = "") -> None:
    """Writes a trained model with its charts, metrics and model card, atomically.

    The folder is a repository in this library's own form, so `create_model(folder)` and every command take it; it can
    be pushed to the hub as it is. With the weights come `model.keras`, `history.csv`, `predictions.csv`,
    `results.json`, the charts and the card, `README.md`; and, of the best epoch and the last, the weights that the
    model does not have, as
    `best.safetensors` or `last.safetensors`.

    Args:
        trained: What `fine_tune` gave.
        folder: Folder to write to; it must not exist, or be empty.
        name: Name for the title of the card; by default that of the folder.

    Raises:
        ValueError: If the folder has files.
        ImportError: If matplotlib is missing.
        OSError: If the disk is full; nothing is left of the folder then.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty. Choose another folder.")
    with atomic_path(folder) as partial:
        whole = partial.with_name(name or folder.name)
        results = trained.evaluation.summary()
        figures: Any = {f"validation {name}": value for name, value in format_metrics(trained.evaluation).items()}
        save_pretrained(trained.model, whole, "keras", metrics=figures, intended_use=_intended_use(trained))
        trained.model.save(whole / "model.keras")
        _save_others(trained, whole)
        charts = plot_results(trained.evaluation)
        if trained.history:
            charts["curves"] = plot_curves(trained.history)
            (whole / HISTORY_FILE).write_text(history_to_csv(trained.history), encoding="utf-8")
        for chart, figure in charts.items():
            figure.savefig(whole / f"{chart}.png", dpi=110)
        sheet = plot_errors(trained.validation, trained.evaluation)
        if sheet:
            sheet.save(whole / "mistakes.png", optimize=True)
        (whole / PREDICTIONS_FILE).write_text(training_predictions(trained), encoding="utf-8", errors="surrogateescape")
        settings = {"config": dataclasses.asdict(trained.config), "validation": results}
        (whole / "results.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        with (whole / "README.md").open("a", encoding="utf-8") as stream:
            stream.write(render_card(trained, [*charts, *(["mistakes"] if sheet else [])]))
        whole.rename(partial)


def _save_others(trained: TrainingResult, folder: Path) -> None:
    """Writes the weights of the best or the last epoch, if they are not those of the model."""
    own = trained.model.get_weights()
    for name, weights in trained.checkpoints.items():
        if any((mine != other).any() for mine, other in zip(own, weights, strict=True)):
            trained.model.set_weights(weights)
            save_weights(trained.model, folder / f"{name}.safetensors")
    trained.model.set_weights(own)


def _intended_use(trained: TrainingResult) -> str:
    names = trained.training.class_names
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} others" if len(names) > 20 else "")
    if trained.training.problem_type == REGRESSION:
        return f"Regression of images to {len(names)} value{'s' if len(names) > 1 else ''}: {shown}."
    if trained.training.problem_type == MULTI_LABEL:
        return f"Labels of images, any number of {len(names)}: {shown}."
    return f"Classification of images into {len(names)} classes: {shown}."


def changed_fields(config: TrainingConfig) -> dict[str, Any]:
    """Returns the fields of a config that differ from their defaults."""
    values = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def render_card(trained: TrainingResult, charts: list[str]) -> str:
    """Returns the part of a card that says how a model was trained, and how well it does on each class."""
    result, origin = trained.evaluation, get_pretrained_info(trained.model)
    license = (origin and origin.license) or "not stated"
    facts = {
        "Started from": f"{(origin and origin.weights_name) or 'random weights'} (license: {license})",
        "Images": f"{len(trained.training)} to train on, {len(trained.validation)} to validate with",
        "Left out": f"{len(trained.training.skipped)} that could not be read",
        "Epochs": f"{len(trained.history)}{'' if trained.is_complete else ', interrupted'}",
        "Config": ", ".join(f"{key}={value}" for key, value in changed_fields(trained.config).items()),
        **{name[0].upper() + name[1:]: value for name, value in format_metrics(result).items()},
    }
    if isinstance(result, Evaluation):
        facts["Mean over classes"] = f"{100 * result.mean_class_accuracy:.2f} %"
        facts["Expected calibration error"] = f"{100 * result.expected_calibration_error:.2f} %"
    lines = ["", "## Training", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]
    chosen = ", by which the epoch was chosen too" if trained.config.save_best or trained.config.patience else ""
    lines += ["", f"The results are those on the validation images{chosen}.", ""]
    lines += [line for note in trained.notes for line in (note, "")]
    if isinstance(result, MultiLabelEvaluation):
        lines += ["The threshold of each label was chosen on the same validation images.", ""]
    lines += _class_table(trained)
    lines += ["", *(f"![{chart}]({chart}.png)" for chart in charts), ""]
    return "\n".join(lines)


def _class_table(trained: TrainingResult) -> list[str]:
    """Returns the results of each class, or each value of a regression, as lines of a Markdown table."""
    result = trained.evaluation
    if isinstance(result, RegressionEvaluation):
        rows = [[name, *(f"{value:.4g}" for value in row.values())] for name, row in result.summary()["values"].items()]
        heading = ["value", "R2", "mean absolute error", "correlation"]
    else:
        is_single = isinstance(result, Evaluation)
        metrics = result.precision_recall_f1 if is_single else result.class_metrics
        counts, tested = trained.training.class_counts, trained.validation.class_counts
        rows = []
        for name, row in metrics.items():
            cells = [f"{100 * value:.1f} %" if tested.get(name) else "" for value in row.values()]
            rows.append([name.replace("|", "/"), str(counts.get(name, 0)), str(tested.get(name, 0)), *cells])
        heading = ["class", "training images", "validation images", "precision", "recall", "F1"]
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def training_predictions(trained: TrainingResult) -> str:
    """Returns the predictions of all images of a run as the text of a `.csv` file.

    The model predicts the training images once more; validation images have the scores of the evaluation.
    """
    known: Any = trained.model.pretrained_info  # which `fine_tune` sets
    options: Any = {"batch_size": trained.config.batch_size, "problem_type": trained.training.problem_type}
    scores = predict_scores(trained.model, trained.training.images, known.transform, **options)
    rows = [*prediction_rows(trained.training, scores, trained.evaluation, "train")]
    rows += prediction_rows(trained.validation, trained.evaluation.scores, trained.evaluation, "validation")
    return predictions_to_csv(rows)
