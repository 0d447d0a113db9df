"""Evaluation of multi-label classifiers: average precision, F1, thresholds."""

import dataclasses
from typing import Any

import numpy as np

from convnext_keras.problem_types import DEFAULT_THRESHOLD


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns the area under the steps of the precision-recall curve of one label; None without positives.

    The definition is that of scikit-learn's `average_precision_score`: the sum over the thresholds of the precision
    times the step in recall.

    Args:
        scores: Scores `(N,)`.
        labels: Booleans `(N,)`.

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
        0.8333333333333333
    """
    if not labels.any():
        return None
    precision, recall, _ = precision_recall(scores, labels)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns precision, recall and score at each distinct score, from the highest on."""
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(labels[order])
    ends = np.flatnonzero(np.diff(ranked, append=-np.inf))  # the last image of each distinct score
    return found[ends] / (ends + 1), found[ends] / max(1, found[-1]), ranked[ends]


def choose_thresholds(scores: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Returns the threshold of each label with the highest F1; 0.5 for labels without positives.

    Args:
        scores: Probabilities `(N, C)` of validation images.
        labels: 0 and 1, `(N, C)`.

    Example:
        >>> choose_thresholds(np.array([[0.2], [0.4], [0.1]]), np.array([[1], [1], [0]]))
        (0.15000000000000002,)
    """
    return tuple(_best_threshold(*column) for column in zip(scores.T, labels.T >= 0.5, strict=True))


def _best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    if not labels.any():
        return DEFAULT_THRESHOLD
    precision, recall, values = precision_recall(scores.astype("float64"), labels)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    lower = values[best + 1] if best + 1 < len(values) else 0.0
    return float((values[best] + lower) / 2)  # halfway to the next score, so that scores above it are predicted


@dataclasses.dataclass(frozen=True)
class MultiLabelEvaluation:
    """Scores of a multi-label classifier for images with known labels, and the metrics.

    Attributes:
        scores: Probabilities `(N, C)`.
        labels: 0 and 1, `(N, C)`.
        class_names: Names in the order of the columns.
        thresholds: Score of each label above which it is predicted, `(C,)`.

    Example:
        >>> scores, labels = np.array([[0.9, 0.2], [0.4, 0.6]]), np.array([[1, 0], [1, 1]])
        >>> MultiLabelEvaluation(scores, labels, ("cat", "dog"), (0.5, 0.5)).micro_f1
        0.8
    """

    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]

    def __repr__(self) -> str:
        size = f"{len(self.labels)} images, {len(self.class_names)} labels"
        return f"<{type(self).__name__}: {size}, mean_average_precision={self.mean_average_precision:.4f}>"

    @property
    def positives(self) -> np.ndarray:
        """Returns which labels the images have, `(N, C)` bool."""
        return self.labels >= 0.5

    @property
    def predicted(self) -> np.ndarray:
        """Returns which labels are predicted, `(N, C)` bool."""
        return self.scores > np.array(self.thresholds)

    @property
    def loss(self) -> float:
        """Returns the mean binary cross-entropy in nats."""
        scores = np.clip(self.scores, 1e-7, 1 - 1e-7)
        return float(-np.mean(self.labels * np.log(scores) + (1 - self.labels) * np.log(1 - scores)))

    @property
    def average_precisions(self) -> dict[str, float | None]:
        """Returns the average precision 0..1 of each label; None for one without images."""
        columns = zip(self.class_names, self.scores.T, self.positives.T, strict=True)
        return {name: average_precision(scores, labels) for name, scores, labels in columns}

    @property
    def mean_average_precision(self) -> float:
        """Returns the mean of `average_precisions` over the labels with images."""
        values = [value for value in self.average_precisions.values() if value is not None]
        return float(np.mean(values)) if values else float("nan")

    @property
    def class_metrics(self) -> dict[str, dict[str, float]]:
        """Returns precision, recall and F1 of each label at its threshold; 0 where nothing is predicted."""
        found = (self.predicted & self.positives).sum(axis=0)
        predicted, positives = self.predicted.sum(axis=0), self.positives.sum(axis=0)
        rows = zip(self.class_names, found.tolist(), predicted.tolist(), positives.tolist(), strict=True)
        return {
            name: {
                "precision": hits / max(1, predicted),
                "recall": hits / max(1, positives),
                "f1": 2 * hits / max(1, predicted + positives),
            }
            for name, hits, predicted, positives in rows
        }

    @property
    def macro_f1(self) -> float:
        """Returns the mean F1 over the labels with images."""
        metrics = [*self.class_metrics.values()]
        values = [metrics[index]["f1"] for index in np.flatnonzero(self.positives.any(axis=0))]
        return float(np.mean(values)) if values else float("nan")

    @property
    def micro_f1(self) -> float:
        """Returns the F1 of all labels of all images together."""
        hits = int((self.predicted & self.positives).sum())
        return 2 * hits / max(1, int(self.predicted.sum() + self.positives.sum()))

    @property
    def metrics(self) -> dict[str, float]:
        """Returns the most important metrics, the first of all first."""
        return {
            "mean_average_precision": self.mean_average_precision,
            "macro_f1": self.macro_f1,
            "micro_f1": self.micro_f1,
        }

    def summary(self) -> dict[str, Any]:
        """Returns all metrics as plain data."""
        return {
            "num_images": len(self.labels),
            **self.metrics,
            "loss": self.loss,
            "average_precision": self.average_precisions,
            "class_metrics": self.class_metrics,
            "class_names": [*self.class_names],
            "thresholds": [*self.thresholds],
        }
