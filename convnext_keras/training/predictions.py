"""Predictions per image as text and as a table."""

import csv
import io
import json
from collections.abc import Iterable, Iterator

import numpy as np

from convnext_keras.problem_types import REGRESSION, SINGLE_LABEL, select_labels
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.evaluation import AnyEvaluation, Evaluation
from convnext_keras.training.multi_label import MultiLabelEvaluation

METRIC_NAMES = {  # as text; True for percent
    "accuracy": ("accuracy", True),
    "mean_average_precision": ("mean average precision", True),
    "macro_f1": ("macro F1", True),
    "micro_f1": ("micro F1", True),
    "r2": ("R2", False),
    "mean_absolute_error": ("mean absolute error", False),
    "correlation": ("correlation", False),
}


def format_metrics(result: AnyEvaluation) -> dict[str, str]:
    """Returns the most important metrics by their names, as text.

    Example:
        >>> result = Evaluation(np.array([[0.9, 0.1]]), np.array([0]), ("cat", "dog"))
        >>> format_metrics(result)
        {'accuracy': '100.00 %'}
    """
    values = ((METRIC_NAMES[name], value) for name, value in result.metrics.items())
    return {name: f"{100 * value:.2f} %" if percent else f"{value:.4g}" for (name, percent), value in values}


def prediction_text(examples: ImageDataset, scores: np.ndarray, result: AnyEvaluation) -> str:
    """Returns the predicted labels of one image joined by `|`, or its values; scores are `(C,)`."""
    if examples.problem_type == REGRESSION:
        return "|".join(f"{value:g}" for value in scores)
    thresholds = np.array(result.thresholds) if isinstance(result, MultiLabelEvaluation) else None
    top_k = 1 if examples.problem_type == SINGLE_LABEL else None
    best = select_labels(scores, examples.problem_type, thresholds, top_k)
    return "|".join(result.class_names[label] for label in best)


def prediction_rows(
    examples: ImageDataset, scores: np.ndarray, result: AnyEvaluation, split: str
) -> Iterator[list[str]]:
    """Yields path, label, prediction, score, scores and split of each image.

    Args:
        examples: The images.
        scores: Scores `(N, C)` of the images.
        result: Evaluation with the class names and thresholds.
        split: Name of the part of the data.
    """
    for index, row in enumerate(scores):
        score = "" if examples.problem_type == REGRESSION else f"{row.max():.6f}"
        every = json.dumps([round(float(value), 6) for value in row])
        label, prediction = examples.label_text(index), prediction_text(examples, row, result)
        yield [examples.image_name(index), label, prediction, score, every, split]


def predictions_to_csv(rows: Iterable[list[str]]) -> str:
    """Returns the rows of `prediction_rows` as the text of a `.csv` file with headings."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([["path", "label", "prediction", "score", "scores", "split"], *rows])
    return stream.getvalue()


def worst_images(result: AnyEvaluation, count: int) -> list[int]:
    """Returns the indices of at most `count` images with errors, the largest error first."""
    if isinstance(result, Evaluation):
        wrong = result.scores.argmax(axis=1) != result.labels
        sizes = np.where(wrong, result.scores.max(axis=1), 0)
    elif isinstance(result, MultiLabelEvaluation):
        sizes = np.where(result.predicted != result.positives, np.abs(result.scores - result.labels), 0).max(axis=1)
    else:
        sizes = np.abs(result.errors / np.maximum(result.labels.std(axis=0), 1e-12)).max(axis=1)
    order = np.argsort(-sizes, kind="stable")[:count]
    return [int(index) for index in order if sizes[index] > 0]
