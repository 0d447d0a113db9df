"""Cross-validation: one training per fold, and the mean and deviation of the metrics."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.files import atomic_path
from convnext_keras.training.datasets import load_dataset
from convnext_keras.training.finetuning import TrainingResult, fine_tune
from convnext_keras.training.presets import TrainingConfig
from convnext_keras.training.reports import save_training_result
from convnext_keras.training.splits import k_fold

SUMMARY_FILE = "folds.json"


@dataclasses.dataclass(frozen=True)
class CrossValidationResult:
    """Result of `cross_validate`.

    Attributes:
        folds: Result of each fold.
    """

    folds: tuple[TrainingResult, ...]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns the mean, the standard deviation and the values of the folds of each metric."""
        rows = [result.evaluation.metrics for result in self.folds]
        return {
            name: {
                "mean": float(np.mean([row[name] for row in rows])),
                "std": float(np.std([row[name] for row in rows], ddof=1)),
                "folds": [row[name] for row in rows],
            }
            for name in rows[0]
        }


def cross_validate(
    model: str | os.PathLike,
    data: Any,
    config: TrainingConfig | str | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    data_options: dict[str, Any] | None = None,
    **options: Any,
) -> CrossValidationResult:
    """Trains one model per fold and evaluates each on the images that it was not trained on.

    Args:
        model: Name of the initial weights, see `fine_tune`.
        data: See `load_dataset`. The groups of the dataset, if it has some, are never in two folds.
        config: See `fine_tune`.
        folds: Number of folds, 2 or more. Defaults to 5.
        seed: Random seed of the folds and of each training.
        state: Directory in which each epoch is stored, from which an interrupted run continues.
        data_options: Arguments of `load_dataset`.
        **options: Other arguments of `fine_tune`.

    Raises:
        ValueError: See `k_fold` and `fine_tune`.

    Example:
        >>> from convnext_keras import training
        >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), "uint8")
        >>> result = training.cross_validate("convnext_mini.digits", (pixels, [0, 1] * 4), "linear_probe", folds=2)
        >>> [*result.summary()]
        ['accuracy']
    """
    examples = load_dataset(data, **(data_options or {}))
    results = []
    for number, (training, held_out) in enumerate(k_fold(examples, folds, seed), start=1):
        own_state = None if state is None else Path(state) / f"fold-{number}"
        results.append(fine_tune(model, training, config, validation=held_out, seed=seed, state=own_state, **options))
    return CrossValidationResult(tuple(results))


def save_cross_validation(result: CrossValidationResult, folder: str | os.PathLike) -> None:
    """Writes the model of each fold and a summary of the metrics, atomically.

    Args:
        result: The result of `cross_validate`.
        folder: Directory to write; it must not exist. It gets `fold-1`, `fold-2`, ..., see `save_training_result`,
            and `folds.json`.

    Raises:
        ValueError: If the directory exists.

    Example:
        >>> save_cross_validation(CrossValidationResult(()), ".")
        Traceback (most recent call last):
        ...
        ValueError: . exists. Choose another directory.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists. Choose another directory.")
    with atomic_path(folder) as partial:
        partial.mkdir()
        for number, trained in enumerate(result.folds, start=1):
            save_training_result(trained, partial / f"fold-{number}")
        (partial / SUMMARY_FILE).write_text(json.dumps(result.summary(), indent=2), encoding="utf-8")
