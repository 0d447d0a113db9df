"""Charts, tables and model card of a training run."""

import csv
import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.checkpoints import save_weights
from convnext_keras.contact_sheet import contact_sheet
from convnext_keras.files import atomic_path
from convnext_keras.hub import save_pretrained
from convnext_keras.model import get_pretrained_info
from convnext_keras.training.checkpointing import HISTORY_FILE, history_to_csv
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.evaluation import Evaluation, predict_scores
from convnext_keras.training.finetuning import TrainingResult
from convnext_keras.training.presets import TrainingConfig

INSTALL_HINT = 'Curves and other charts need matplotlib: pip install "convnext-keras[training]"'
MAX_CLASS_LABELS = 40  # of classes that a chart has room for
PREDICTIONS_FILE = "predictions.csv"
# Columns of the history in each chart, with their labels.
LOSSES = {"loss": "training", "val_loss": "validation"}
ACCURACIES = {
    "accuracy": "accuracy, training",
    "val_accuracy": "accuracy, validation",
    "pixel_accuracy": "pixel accuracy, training",
    "val_pixel_accuracy": "pixel accuracy, validation",
    "val_mean_iou": "mean IoU, validation",
    "recall_at_1": "recall at 1, validation",
    "zero_shot_accuracy": "zero-shot accuracy",
}
COLORS = {
    **{"training": "C0", "validation": "C1", "accuracy, training": "C0", "accuracy, validation": "C1"},
    **{"recall at 1, validation": "C1", "zero-shot accuracy": "C2"},
    **{"pixel accuracy, training": "C0", "pixel accuracy, validation": "C1", "mean IoU, validation": "C2"},
}
MAX_ERRORS, ERRORS_PER_ROW, ERROR_CELL_SIZE = 24, 6, 150  # images on the sheet, in a row, and pixels of one


def new_figure(width: float, height: float) -> Any:
    """Returns an empty chart of matplotlib, in inches.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(INSTALL_HINT) from error
    return Figure((width, height), layout="constrained")


def plot_curves(history: list[dict[str, float]]) -> Any:
    """Draws loss and accuracy, or recall of a ConvNeXt-CLIP, by epoch."""
    figure = new_figure(9, 3.5)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, names, factor in ((losses, LOSSES, 1), (accuracies, ACCURACIES, 100)):
        for name in (name for name in names if name in history[0]):
            axes.plot(epochs, [factor * row[name] for row in history], label=names[name], color=COLORS[names[name]])
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set(xlabel="epoch", ylabel="loss (cross-entropy)", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="%", ylim=(0, 101))
    return figure


def plot_confusion_matrix(result: Evaluation) -> Any:
    """Plots the confusion matrix."""
    names, counts = result.class_names, result.confusion_matrix
    edge = min(12.0, 3 + 0.35 * len(names))
    figure = new_figure(edge + 1, edge)
    axes = figure.subplots()
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="is")
    if len(names) <= MAX_CLASS_LABELS:
        indices = range(len(names))
        axes.set_xticks(indices, names, rotation=90)
        axes.set_yticks(indices, names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if parts[row, column] > 0.5 else "black"
            options = {"ha": "center", "va": "center", "fontsize": 7, "color": color}
            axes.text(column, row, counts[row, column], **options)
    return figure


def plot_reliability(result: Evaluation) -> Any:
    """Plots accuracy against confidence."""
    figure = new_figure(4.5, 4)
    axes = figure.subplots()
    counts, confidences, right = zip(*result.reliability_bins, strict=True)
    axes.plot([0, 1], [0, 1], color="gray", linestyle="--", label="calibrated")
    sizes = [20 + 300 * count / sum(counts) for count in counts]
    axes.scatter(confidences, right, s=sizes, label="images, by confidence")
    axes.set(xlabel="confidence", ylabel="right", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.set_title(f"expected calibration error {100 * result.expected_calibration_error:.1f} %", fontsize=10)
    axes.legend(loc="lower right")
    return figure


def plot_errors(examples: ImageDataset, result: Evaluation) -> Any:
    """Returns a sheet of the images that the model was most sure of and wrong; None if there are none."""
    taken = result.scores.argmax(axis=1)
    wrong = np.flatnonzero(taken != result.labels)
    worst = wrong[np.argsort(-result.scores.max(axis=1)[wrong], kind="stable")][:MAX_ERRORS]
    cells = []
    for place in worst.tolist():
        true, said = (result.class_names[number] for number in (result.labels[place], taken[place]))
        text = f"{true[:9]}, not {said[:9]} {result.scores[place].max():.2f}"
        cells.append((examples.images[place], text, "black"))
    rows = [cells[start : start + ERRORS_PER_ROW] for start in range(0, len(cells), ERRORS_PER_ROW)]
    return contact_sheet(rows, ERROR_CELL_SIZE) if rows else None


def predictions_to_csv(trained: TrainingResult) -> str:
    """Returns a `.csv` text with one row per image: path, label, prediction, score, and split.

    Args:
        trained: The result of `fine_tune`. Its model predicts the training images once more; validation images have
            the scores of its evaluation.
    """
    known: Any = trained.model.pretrained_info  # which `fine_tune` sets
    names = trained.evaluation.class_names
    training = predict_scores(trained.model, trained.training.images, known.transform, trained.config.batch_size)
    parts = {
        "train": (trained.training, training),
        "validation": (trained.validation, trained.evaluation.scores),
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "label", "prediction", "score", "split"])
    for split, (examples, scores) in parts.items():
        for index, (label, row) in enumerate(zip(examples.labels, scores, strict=True)):
            best = int(row.argmax())
            writer.writerow([examples.image_name(index), names[label], names[best], f"{row[best]:.6f}", split])
    return stream.getvalue()


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
        figures: Any = {"validation accuracy": f"{100 * results['top1_accuracy']:.2f} %"}
        save_pretrained(trained.model, whole, "keras", metrics=figures, intended_use=_intended_use(trained))
        trained.model.save(whole / "model.keras")
        _save_others(trained, whole)
        charts = {
            "confusion_matrix": plot_confusion_matrix(trained.evaluation),
            "reliability": plot_reliability(trained.evaluation),
        }
        if trained.history:
            charts["curves"] = plot_curves(trained.history)
            (whole / HISTORY_FILE).write_text(history_to_csv(trained.history), encoding="utf-8")
        for chart, figure in charts.items():
            figure.savefig(whole / f"{chart}.png", dpi=110)
        sheet = plot_errors(trained.validation, trained.evaluation)
        if sheet:
            sheet.save(whole / "mistakes.png", optimize=True)
        (whole / PREDICTIONS_FILE).write_text(predictions_to_csv(trained), encoding="utf-8", errors="surrogateescape")
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
    return f"Classification of images into {len(names)} classes: {shown}."


def changed_fields(config: TrainingConfig) -> dict[str, Any]:
    """Returns the fields of a config that differ from their defaults."""
    values = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def render_card(trained: TrainingResult, charts: list[str]) -> str:
    """Returns the part of a card that says how a model was trained, and how well it does on each class."""
    result, origin = trained.evaluation, get_pretrained_info(trained.model)
    counts, tested, class_accuracy = (
        trained.training.class_counts,
        trained.validation.class_counts,
        result.class_accuracy,
    )
    license = (origin and origin.license) or "not stated"
    facts = {
        "Started from": f"{(origin and origin.weights_name) or 'random weights'} (license: {license})",
        "Images": f"{len(trained.training)} to train on, {len(trained.validation)} to validate with",
        "Left out": f"{len(trained.training.skipped)} that could not be read",
        "Epochs": f"{len(trained.history)}{'' if trained.is_complete else ', interrupted'}",
        "Recipe": ", ".join(f"{key}={value}" for key, value in changed_fields(trained.config).items()),
        "Top-1": f"{100 * result.accuracy():.2f} %",
        "Mean over classes": f"{100 * result.mean_class_accuracy:.2f} %",
        "Expected calibration error": f"{100 * result.expected_calibration_error:.2f} %",
    }
    lines = ["", "## Training", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]
    chosen = ", by which the epoch was chosen too" if trained.config.save_best or trained.config.patience else ""
    lines += ["", f"The results are those on the validation images{chosen}.", ""]
    lines += [line for note in trained.notes for line in (note, "")]
    lines += ["| class | trained on | validated with | right |", "|---|---:|---:|---:|"]
    for name in result.class_names:
        part = class_accuracy[name]
        right = "" if part is None else f"{100 * part:.1f} %"
        lines.append(f"| {name.replace('|', '/')} | {counts.get(name, 0)} | {tested.get(name, 0)} | {right} |")
    lines += ["", *(f"![{chart}]({chart}.png)" for chart in charts), ""]
    return "\n".join(lines)
