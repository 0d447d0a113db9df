"""Learning-rate range test: the loss while the learning rate rises from step to step."""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from convnext_keras.training.batching import training_batches
from convnext_keras.training.charts import new_figure
from convnext_keras.training.datasets import load_dataset
from convnext_keras.training.finetuning import training_loss
from convnext_keras.training.initialization import prepare_model
from convnext_keras.training.optimizers import build_optimizer, layerwise_optimizer
from convnext_keras.training.presets import TrainingConfig, get_training_config

SMOOTHING = 0.9  # of the exponential moving average of the losses
DIVERGED = 4.0  # times the lowest loss, above which the test ends


@dataclasses.dataclass(frozen=True)
class LearningRateTest:
    """Result of `find_learning_rate`.

    Attributes:
        learning_rates: Learning rate of each step, rising, `(steps,)`.
        losses: Smoothed training loss after each step, `(steps,)`.
    """

    learning_rates: np.ndarray
    losses: np.ndarray

    @property
    def suggestion(self) -> float:
        """Returns the learning rate at which the loss falls fastest, before its minimum."""
        end = max(2, int(np.argmin(self.losses)) + 1)
        slopes = np.gradient(self.losses[:end], np.log(self.learning_rates[:end]))
        return float(self.learning_rates[int(np.argmin(slopes))])

    def plot(self, path: str | os.PathLike) -> None:
        """Writes a chart of the loss by learning rate to an image file."""
        figure = new_figure(5.5, 4)
        axes = figure.subplots()
        axes.plot(self.learning_rates, self.losses, label="training loss, smoothed")
        axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"steepest at {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=110)


def find_learning_rate(
    model: str | os.PathLike,
    data: Any,
    config: TrainingConfig | str | None = None,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    size: int | None = None,
    seed: int = 0,
    **data_options: Any,
) -> LearningRateTest:
    """Trains for some steps with a rising learning rate and records the loss (https://arxiv.org/abs/1506.01186v6).

    Args:
        model: Name of the initial weights, see `fine_tune`. Nothing is saved.
        data: See `load_dataset`.
        config: See `fine_tune`.
        low: Learning rate of the first step.
        high: Learning rate of the last step. The test ends earlier if the loss is four times its minimum.
        steps: Number of steps, 10 or more. Defaults to 100.
        size: See `fine_tune`.
        seed: Random seed.
        **data_options: Arguments of `load_dataset`.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> from convnext_keras import training
        >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), "uint8")
        >>> config = training.TrainingConfig(batch_size=4)
        >>> test = training.find_learning_rate("convnext_mini.digits", (pixels, [0, 1] * 4), config, steps=10)
        >>> 1e-6 <= test.suggestion <= 1
        True
    """
    if not 0 < low < high or steps < 10:
        raise ValueError(f"low must be below high, steps 10 or more. Received: low={low}, high={high}, steps={steps}")
    keras.utils.set_random_seed(seed)
    examples = load_dataset(data, **data_options)
    config = get_training_config(config, len(examples))
    setup = prepare_model(model, examples, config, size)
    setup.begin()
    network, standardization = setup.train_model, setup.standardization
    inner: Any = build_optimizer(dataclasses.replace(config, warmup_ratio=0.0), steps)
    inner = type(inner).from_config({**inner.get_config(), "learning_rate": low})
    optimizer = layerwise_optimizer(network, inner, config.layer_decay, config.layer_decay_mode)
    network.compile(optimizer, training_loss(examples, config))
    targets = standardization(examples.labels) if standardization else None
    batches = training_batches(examples, config, setup.transform, seed, targets=targets)
    rates, losses, average = np.geomspace(low, high, steps), [], 0.0
    try:
        for step, (rate, batch) in enumerate(zip(rates, batches, strict=False), start=1):
            optimizer.learning_rate = rate
            loss = float(network.train_on_batch(*batch))
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            losses.append(average / (1 - SMOOTHING**step))
            if not np.isfinite(loss) or losses[-1] > DIVERGED * min(losses):
                break
    finally:
        batches.close()  # type: ignore[attr-defined]
    finite = np.isfinite(losses)
    return LearningRateTest(rates[: len(losses)][finite], np.array(losses)[finite])
