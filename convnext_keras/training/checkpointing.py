"""Checkpoints and history for resumable training."""

import csv
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras.checkpoints import load_weights, save_weights
from convnext_keras.files import atomic_path
from convnext_keras.surgery import flatten_layers
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.optimizers import LayerwiseOptimizer
from convnext_keras.training.presets import TrainingConfig

DURATION_FIELDS = ("epochs", "min_steps", "patience")  # of a training that goes on, which may change
NOT_FINITE = ("nan", "inf", "-inf", "infinity", "-infinity")
STATE_FILE, BEST_FILE, HISTORY_FILE, SETTINGS_FILE = (
    "state-{}.weights.h5",
    "best.safetensors",
    "history.csv",
    "training.json",
)


class TrainingCheckpoint:
    """History and best weights of a training run, in a directory if there is one.

    A row of the history is written before the state of its epoch, and a file takes its name when it is whole, so that
    whatever moment a training is killed at, the last state has all that is before it.

    Args:
        folder: Folder for the files, or None to keep all in memory.
        settings: What the training depends on, as plain data; another training's folder is refused.

    Raises:
        ValueError: If the folder is of another training.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.folder, self.history = folder, []
        self.best: list[np.ndarray] = []
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        written = json.dumps(settings, indent=2, sort_keys=True, default=str)
        if (folder / SETTINGS_FILE).exists():
            _check_same_run(folder, json.loads(written))
        _atomic_write_text(folder / SETTINGS_FILE, written)

    def resume(self, model: keras.Model) -> int:
        """Puts the last state into a model and its built optimizer; returns the number of the epoch that is next."""
        states = {int(path.name.split(".")[0].split("-")[1]): path for path in self._files(STATE_FILE.format("*"))}
        if not self.folder or not states:
            return 0
        epoch = max(states)
        self.history = read_history(self.folder)[:epoch]
        if (self.folder / BEST_FILE).exists():
            load_weights(model, self.folder / BEST_FILE)
            self.best = _copy_weights(model)
        model.load_weights(states[epoch])
        return epoch

    def keep(self, model: keras.Model, row: dict[str, float], state: list[np.ndarray]) -> None:
        """Takes in an epoch.

        Args:
            model: Model with the weights that were evaluated.
            row: Values for the history, with `val_loss`, or `loss` of training if nothing is validated.
            state: The model's weights with which training goes on, if they are others.
        """
        is_best = _loss(row) < min(map(_loss, self.history), default=np.inf)
        self.history.append(row)
        self.best = _copy_weights(model) if is_best else self.best
        if self.folder and is_best:
            save_weights(model, self.folder / BEST_FILE)
        if self.folder:
            _atomic_write_text(self.folder / HISTORY_FILE, history_to_csv(self.history))
        model.set_weights(state)
        if self.folder:
            epoch = len(self.history)
            with atomic_path(self.folder / STATE_FILE.format(epoch)) as partial:
                model.save_weights(partial)
            for path in self._files(STATE_FILE.format("*")):
                if path.name != STATE_FILE.format(epoch):
                    path.unlink()

    def restore_best(self, model: keras.Model) -> None:
        """Puts the weights of the epoch with the least validation loss into the model."""
        if self.best:
            model.set_weights(self.best)

    def should_stop(self, patience: int | None) -> bool:
        """Returns whether `patience` epochs passed without a lower validation loss."""
        losses = [value if np.isfinite(value := row["val_loss"]) else np.inf for row in self.history]
        return bool(patience and losses) and len(losses) - 1 - int(np.argmin(losses)) >= (patience or 0)

    def _files(self, pattern: str) -> list[Path]:
        return [*self.folder.glob(pattern)] if self.folder else []


def _loss(row: dict[str, float]) -> float:
    return row.get("val_loss", row["loss"])


def _number(text: str) -> float:
    return float(text) if text.lower() in NOT_FINITE else json.loads(text)


def _check_same_run(folder: Path, settings: dict[str, Any]) -> None:
    """Raises ValueError, which names what differs, if a folder is of another training; it may go on for longer."""
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        known, wanted = ({**row, **row["config"], "config": None} for row in (found, settings))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / SETTINGS_FILE} is damaged: {error}. Delete the folder to begin anew.") from error
    differ = [name for name in wanted if name not in DURATION_FIELDS and known.get(name) != wanted[name]]
    if differ:
        name = differ[0]
        shown = "" if name == "images" else f" (then {known.get(name)}, now {wanted[name]})"
        raise ValueError(
            f"{folder} has the state of a training with other {', '.join(differ)}{shown}. Give another folder, or "
            "delete this one to begin anew."
        )


def run_fingerprint(examples: ImageDataset, held_out: ImageDataset, **others: Any) -> dict[str, Any]:
    """Returns everything that a training run depends on, as plain data."""
    digest = hashlib.sha256()
    for part in (examples, held_out):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            known = isinstance(image, str | os.PathLike)
            digest.update(str(image).encode() if known else np.ascontiguousarray(image).tobytes())
            digest.update(str(label).encode())
    return {"images": digest.hexdigest(), "class_names": [*examples.class_names], **others}


def current_learning_rate(model: keras.Model) -> float:
    """Returns the learning rate of the next step."""
    optimizer: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    rate: Any = keras.ops.convert_to_numpy(optimizer.learning_rate)
    return float(rate)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Reads the history in a folder, one row per epoch."""
    with (folder / HISTORY_FILE).open(newline="") as stream:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def history_to_csv(history: list[dict[str, float]]) -> str:
    """Returns a history as the text of a `.csv` file."""
    lines = [",".join(history[0]), *(",".join(json.dumps(value) for value in row.values()) for row in history)]
    return "\n".join([*lines, ""])


def _atomic_write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _copy_weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


class EpochRecorder(keras.callbacks.Callback):
    """Records each epoch's logs and the state of the model.

    Args:
        progress: The history and the folder to write to.
    """

    def __init__(self, progress: TrainingCheckpoint):
        super().__init__()
        self.progress, self.initial_epoch = progress, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock of the epoch."""
        self.initial_epoch = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Records the logs and the state."""
        model: Any = self.model
        figures = {name: float(value) for name, value in (logs or {}).items()}
        row = {"epoch": epoch + 1, **figures, "learning_rate": current_learning_rate(model)}
        row["seconds"] = round(time.perf_counter() - self.initial_epoch, 3)
        self.progress.keep(model, row, _copy_weights(model))


class EpochCallback(keras.callbacks.Callback):
    """Evaluates the model after each epoch, with the averages of its weights if there are any, and may stop training.

    Args:
        progress: Progress that keeps it.
        validate: Function from the model to the metrics on validation images, `val_loss` first.
        metrics: Metrics on training images that are kept, each with its key in the logs of `fit`.
        config: Config with the patience.
        seed: Seed from which each epoch's random numbers are drawn anew, so that they do not depend on the epochs
            before.
    """

    def __init__(
        self,
        progress: TrainingCheckpoint,
        validate: Callable[[keras.Model], dict[str, float]],
        metrics: Mapping[str, str],
        config: TrainingConfig,
        seed: int,
    ):
        super().__init__()
        self.progress, self.validate, self.metrics = progress, validate, metrics
        self.config, self.seed, self.initial_epoch = config, seed, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        """Seeds what is random in the model."""
        model: Any = self.model
        self.initial_epoch = time.perf_counter()
        generators = [getattr(layer, "seed_generator", None) for layer in flatten_layers(model)]
        for number, generator in enumerate(generator for generator in generators if generator):
            drawn = np.random.default_rng((self.seed, epoch, number)).integers(0, 2**31, 2)
            generator.state.assign(drawn.astype(generator.state.dtype))

    def on_epoch_end(self, epoch, logs: Any = None):
        """Evaluates and keeps."""
        model: Any = self.model
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        averages = optimizer.held.averages if isinstance(optimizer, LayerwiseOptimizer) else []
        state = _copy_weights(model)
        for variable, average in zip(model.trainable_variables, averages, strict=False):
            variable.assign(keras.ops.copy(average))
        validated = self.validate(model)
        logs.update(validated)
        trained = {name: float(logs[key]) for name, key in {"loss": "loss", **self.metrics}.items()}
        row = {"epoch": epoch + 1, **trained, **validated}
        row["learning_rate"] = current_learning_rate(model)
        self.progress.keep(model, {**row, "seconds": round(time.perf_counter() - self.initial_epoch, 3)}, state)
        if not np.isfinite([row["loss"], row["val_loss"]]).all():
            warnings.warn(
                f"The loss of epoch {epoch + 1} is not finite: training has diverged and ends. Lower learning_rate, or "
                "set clip_norm.",
                stacklevel=2,
            )
            model.stop_training = True
        model.stop_training = model.stop_training or self.progress.should_stop(self.config.patience)
