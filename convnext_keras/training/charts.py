"""Charts of a training run and of an evaluation."""

from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.contact_sheet import contact_sheet
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.evaluation import MAX_CONFUSED, AnyEvaluation, Evaluation
from convnext_keras.training.multi_label import MultiLabelEvaluation, precision_recall
from convnext_keras.training.predictions import prediction_text, worst_images
from convnext_keras.training.regression import RegressionEvaluation

INSTALL_HINT = 'Curves and other charts need matplotlib: pip install "convnext-keras[training]"'
MAX_CLASS_LABELS = 40  # of classes that a chart has room for
MAX_CURVES = 9  # labels or values in one chart
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
    "val_mean_average_precision": "mean average precision, validation",
    "val_macro_f1": "macro F1, validation",
    "val_r2": "R2, validation",
    "val_correlation": "correlation, validation",
}
COLORS = {
    **{"training": "C0", "validation": "C1", "accuracy, training": "C0", "accuracy, validation": "C1"},
    **{"recall at 1, validation": "C1", "zero-shot accuracy": "C2"},
    **{"pixel accuracy, training": "C0", "pixel accuracy, validation": "C1", "mean IoU, validation": "C2"},
    **{"mean average precision, validation": "C1", "macro F1, validation": "C2"},
    **{"R2, validation": "C1", "correlation, validation": "C2"},
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
    """Plots the loss and the metrics by epoch."""
    figure = new_figure(9, 3.5)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    is_percent = "val_r2" not in history[0]
    for axes, names, factor in ((losses, LOSSES, 1), (accuracies, ACCURACIES, 100 if is_percent else 1)):
        for name in (name for name in names if name in history[0]):
            axes.plot(epochs, [factor * row[name] for row in history], label=names[name], color=COLORS[names[name]])
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    accuracies.set(xlabel="epoch", **({"ylabel": "%", "ylim": (0, 101)} if is_percent else {"ylim": (-0.1, 1.02)}))
    return figure


def plot_confusion_matrix(result: Evaluation) -> Any:
    """Plots the confusion matrix, of at most `MAX_CONFUSED` classes."""
    if len(result.class_names) > MAX_CONFUSED:
        raise ValueError(
            f"A confusion matrix is drawn for at most {MAX_CONFUSED:,} classes. Received: {len(result.class_names):,}. "
            "See `result.precision_recall_f1` for the classes one by one."
        )
    names, counts = result.class_names, result.confusion_matrix
    edge = min(12.0, 3 + 0.35 * len(names))
    figure = new_figure(edge + 1, edge)
    axes = figure.subplots()
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
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
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.set_title(f"expected calibration error {100 * result.expected_calibration_error:.1f} %", fontsize=10)
    axes.legend(loc="lower right")
    return figure


def plot_precision_recall(result: MultiLabelEvaluation) -> Any:
    """Plots the precision-recall curve of each label, with its threshold as a dot."""
    figure = new_figure(6, 4.5)
    axes = figure.subplots()
    columns = zip(result.class_names, result.scores.T, result.positives.T, strict=True)
    shown = [row for row in columns if row[2].any()][:MAX_CURVES]
    for name, scores, labels in shown:
        precision, recall, _ = precision_recall(scores, labels)
        (line,) = axes.step(recall, precision, where="post", label=name[:24])
        metrics = result.class_metrics[name]
        axes.plot(metrics["recall"], metrics["precision"], "o", color=line.get_color(), markersize=5)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    title = f"mean average precision {100 * result.mean_average_precision:.1f} %, dots: thresholds"
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(fontsize=8, loc="lower left")
    return figure


def plot_scatter(result: RegressionEvaluation) -> Any:
    """Plots predicted against true values, one chart per value."""
    names = result.class_names[:MAX_CURVES]
    rows, columns = -(-len(names) // 3), min(3, len(names))
    figure = new_figure(4.4 * columns, 4 * rows)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        true, predicted = result.labels[:, index], result.scores[:, index]
        ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
        axes.plot(ends, ends, color="gray", linestyle="--", label="exact")
        axes.scatter(true, predicted, s=12, alpha=0.6, label="images")
        axes.set(xlabel=f"{name}, true", ylabel=f"{name}, predicted")
        metrics = RegressionEvaluation(predicted[:, None], true[:, None], (name,))
        axes.set_title(f"R2 {metrics.r2:.3f}, mean absolute error {metrics.mean_absolute_error:.3g}", fontsize=10)
        axes.legend(fontsize=8)
    return figure


def plot_results(result: AnyEvaluation) -> dict[str, Any]:
    """Returns the charts of an evaluation by their names."""
    if isinstance(result, MultiLabelEvaluation):
        return {"precision_recall": plot_precision_recall(result)}
    if isinstance(result, RegressionEvaluation):
        return {"scatter": plot_scatter(result)}
    confusion = {"confusion_matrix": plot_confusion_matrix(result)} if len(result.class_names) <= MAX_CONFUSED else {}
    return {**confusion, "reliability": plot_reliability(result)}


def plot_errors(examples: ImageDataset, result: AnyEvaluation) -> Any:
    """Returns a sheet of the images with the largest errors, with file name and labels; None without errors."""
    cells = []
    for index in worst_images(result, MAX_ERRORS):
        true, predicted = examples.label_text(index), prediction_text(examples, result.scores[index], result)
        name = Path(examples.image_name(index)).name
        text = f"{_shorten(name, 22)}\n{_shorten(true or 'none', 10)}, not {_shorten(predicted or 'none', 10)}"
        cells.append((examples.images[index], text, "black"))
    rows = [cells[start : start + ERRORS_PER_ROW] for start in range(0, len(cells), ERRORS_PER_ROW)]
    return contact_sheet(rows, ERROR_CELL_SIZE) if rows else None


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
