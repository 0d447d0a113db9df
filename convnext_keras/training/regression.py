"""Evaluation of regressions, and the standardization of their targets."""

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np


class Standardization(NamedTuple):
    """Mean and standard deviation of the targets `(K,)`, with which the network is trained.

    The classifier of the finished model contains them: its outputs are in the user's units.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, targets: np.ndarray) -> "Standardization":
        """Returns those of targets `(N, K)`; a constant target has a standard deviation of 1."""
        std = targets.std(axis=0)
        return cls(targets.mean(axis=0).astype("float32"), np.where(std > 0, std, 1).astype("float32"))

    def __call__(self, targets: np.ndarray) -> np.ndarray:
        """Returns standardized targets."""
        return (targets - self.mean) / self.std

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Returns values in the user's units."""
        return values * self.std + self.mean

    def fold_into(self, head: Any) -> None:
        """Changes a dense layer so that its outputs are in the user's units instead of standardized."""
        kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in (head.kernel, head.bias))
        head.kernel.assign(kernel * self.std)
        head.bias.assign(bias * self.std + self.mean)

    def unfold_from(self, head: Any) -> None:
        """Reverses `fold_into`."""
        kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in (head.kernel, head.bias))
        head.kernel.assign(kernel / self.std)
        head.bias.assign((bias - self.mean) / self.std)


@dataclasses.dataclass(frozen=True)
class RegressionEvaluation:
    """Values of a regression for images with known values, and the metrics.

    Attributes:
        scores: Predicted values `(N, K)`.
        labels: True values `(N, K)`.
        class_names: Names of the values, in the order of the columns.

    Example:
        >>> values = np.array([[1.0], [2.0], [3.0]])
        >>> RegressionEvaluation(values + 0.5, values, ("age",)).mean_absolute_error
        0.5
    """

    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        size = f"{len(self.labels)} images, {len(self.class_names)} values"
        return f"<{type(self).__name__}: {size}, r2={self.r2:.4f}>"

    @property
    def errors(self) -> np.ndarray:
        """Returns prediction minus truth, `(N, K)`."""
        return np.asarray(self.scores, "float64") - self.labels

    @property
    def loss(self) -> float:
        """Returns the mean squared error divided by the variance of the true values, 1 - R2 for one value."""
        variance = np.asarray(self.labels, "float64").var(axis=0)
        return float(np.mean((self.errors**2).mean(axis=0) / np.where(variance > 0, variance, 1)))

    @property
    def mean_absolute_error(self) -> float:
        """Returns the mean absolute error, in the unit of the values."""
        return float(np.abs(self.errors).mean())

    @property
    def root_mean_squared_error(self) -> float:
        """Returns the square root of the mean squared error, in the unit of the values."""
        return float(np.sqrt((self.errors**2).mean()))

    @property
    def r2(self) -> float:
        """Returns the coefficient of determination, the mean over the values."""
        return 1 - self.loss

    @property
    def correlation(self) -> float:
        """Returns Pearson's correlation of prediction and truth, the mean over the values; 0 for a constant."""
        centered = [np.asarray(rows, "float64") - np.mean(rows, axis=0) for rows in (self.scores, self.labels)]
        norms = np.prod([np.linalg.norm(rows, axis=0) for rows in centered], axis=0)
        return float(
            np.mean(np.where(norms > 0, (centered[0] * centered[1]).sum(axis=0) / np.maximum(norms, 1e-12), 0))
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Returns the most important metrics, the first of all first."""
        return {"r2": self.r2, "mean_absolute_error": self.mean_absolute_error, "correlation": self.correlation}

    def summary(self) -> dict[str, Any]:
        """Returns all metrics as plain data."""
        columns = {
            name: RegressionEvaluation(self.scores[:, index, None], self.labels[:, index, None], (name,)).metrics
            for index, name in enumerate(self.class_names)
        }
        return {
            "num_images": len(self.labels),
            **self.metrics,
            "root_mean_squared_error": self.root_mean_squared_error,
            "loss": self.loss,
            "values": columns,
            "class_names": [*self.class_names],
        }
