"""Fine-tuning: from images and a config to a classifier, in steps that survive an interruption."""

import dataclasses
import numbers
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras.data.transforms import ImageTransform
from convnext_keras.model import ConvNeXtModel
from convnext_keras.training.batching import num_epochs, steps_per_epoch, training_batches
from convnext_keras.training.checkpointing import EpochCallback, TrainingCheckpoint, run_fingerprint
from convnext_keras.training.datasets import (
    ImageDataset,
    find_duplicates,
    load_dataset,
    split_folders,
    split_rows,
    stratified_split,
)
from convnext_keras.training.evaluation import Evaluation, predict_scores
from convnext_keras.training.initialization import TrainingSetup, freeze_stages, prepare_model
from convnext_keras.training.linear_probe import init_head_from_probe
from convnext_keras.training.lora import enable_lora
from convnext_keras.training.optimizers import layerwise_optimizer
from convnext_keras.training.presets import TrainingConfig, get_training_config

MAX_GAP = 0.1  # between training and validation accuracy, above which a note names both
MAX_LOSS_RISE = 1.2  # of the validation loss over its lowest value, above which a note says so


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of `fine_tune`.

    Attributes:
        model: The classifier; it knows its classes and its transform, also after `model.save`.
        history: One row per epoch with loss and accuracy on training and validation images, learning rate, and seconds.
        evaluation: Evaluation of the model on the validation images.
        config: Config that was followed.
        training: The images that were trained on.
        validation: The images that were not.
        is_complete: Whether training went on to its end, or was interrupted.
        checkpoints: Weights of the model after the epoch with the least validation loss, `"best"`, and after the last,
            `"last"`; the model has those that `TrainingConfig.save_best` says.
    """

    model: ConvNeXtModel
    history: list[dict[str, float]]
    evaluation: Evaluation
    config: TrainingConfig
    training: ImageDataset
    validation: ImageDataset
    is_complete: bool = True
    checkpoints: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Returns one sentence per finding that a reader of the results must know."""
        found = []
        if duplicates := find_duplicates(self.training, self.validation):
            mine, theirs = duplicates[0]
            found.append(
                f"{len(duplicates)} of {len(self.validation)} validation images are in the training data too, such as "
                f"{mine} and {theirs}. The results are too high."
            )
        if not self.history:
            return found
        last, losses = self.history[-1], [row["val_loss"] for row in self.history]
        gap = last["accuracy"] - last["val_accuracy"]
        if gap > MAX_GAP:
            found.append(
                f"The accuracy of the last epoch is {100 * last['accuracy']:.1f} % on training images and "
                f"{100 * last['val_accuracy']:.1f} % on validation images. Add images, or use a stronger augmentation."
            )
        best = int(np.argmin(losses))
        is_last = not self.config.save_best and not self.config.patience
        if is_last and losses[-1] > MAX_LOSS_RISE * losses[best]:
            found.append(
                f"The validation loss was lowest after epoch {best + 1} ({losses[best]:.3g}) and is {losses[-1]:.3g} "
                "after the last, whose weights are kept. To keep those of the best epoch, set save_best=True."
            )
        return found


def fine_tune(
    model: keras.Model | str | os.PathLike,
    data: Any,
    config: TrainingConfig | str | None = None,
    *,
    validation: Any = 0.2,
    class_names: Sequence[str] | None = None,
    size: int | None = None,
    seed: int = 0,
    on_error: str = "raise",
    state: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> TrainingResult:
    """Trains a classifier for classes of your own.

    Args:
        model: Weights to start from, by the name of a weight set, variant, repository or folder; or a model, which is
            trained itself: a classifier for these classes, or a backbone (`include_top=False`), which gets a head.
        data: See `load_dataset`; a folder with the folders `train` and `val` in it is split so.
        config: A `TrainingConfig`, or a name in `TRAINING_PRESETS`; None for the one that fits the number of images.
        validation: Part 0..1 of each class that is not trained on; or images, see `load_dataset`.
        class_names: See `load_dataset`.
        size: Height and width in pixels to train at, by default those of the weights.
        seed: Seed of the split, the head, the order and all that is random: with one backend on one machine, the same
            seed gives the same history.
        on_error: See `load_dataset`.
        state: A folder in which each epoch is kept, so that training goes on from there if it was interrupted, or is
            not done again if it was not.
        callbacks: Callbacks of Keras, which see `val_loss` and `val_accuracy` at the end of each epoch.
        verbose: Verbose of `fit`.

    Returns:
        The model and its story. Ctrl-C after the first epoch ends training early, with the best model so far.

    Raises:
        ValueError: If an argument is not valid, or see `load_dataset`.
        ImportError: If scikit-learn is missing, which the linear probe needs.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from convnext_keras import training
        >>> digits = load_digits()
        >>> images = (digits.images[:200] * 15).astype("uint8"), digits.target[:200]
        >>> trained = training.fine_tune("convnext_mini.digits", images, "linear_probe")
        >>> trained.evaluation.accuracy() > 0.8
        True
    """
    keras.utils.set_random_seed(seed)
    check_callbacks(callbacks)
    training, held_out = train_val_split(data, validation, class_names, seed, on_error)
    chosen_config = get_training_config(config, len(training))
    start = prepare_model(model, training.class_names, chosen_config, size)
    settings = run_fingerprint(training, held_out, config=vars(chosen_config), transform=start.transform, seed=seed)
    progress = TrainingCheckpoint(None if state is None else Path(state), {**settings, "start": start.origin})
    if chosen_config.head_init == "linear_probe" and not (start.reuses_head and chosen_config.epochs):
        init_head_from_probe(start.model, training, start.transform, seed)
    epochs, is_complete, checkpoints = num_epochs(training, chosen_config), True, {}
    if epochs:
        following = EpochCallback(
            progress,
            validation_metrics(held_out, start.transform, chosen_config),
            {"accuracy": "accuracy"},
            chosen_config,
            seed,
        )
        options = {"callbacks": [following, *callbacks], "verbose": verbose}
        start.train_model.set_weights(start.model.get_weights())
        if chosen_config.lora_rank:
            enable_lora(start.train_model, chosen_config.lora_rank)
        with freeze_stages(start.train_model, chosen_config.frozen_stages):
            loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=chosen_config.label_smoothing)
            accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
            compile_model(
                start.train_model, chosen_config, epochs * steps_per_epoch(training, chosen_config), loss, [accuracy]
            )
            initial_epoch = progress.resume(start.train_model)
            batches = training_batches(training, chosen_config, start.transform, seed, initial_epoch)
            if initial_epoch < epochs and not progress.should_stop(chosen_config.patience):
                steps = steps_per_epoch(training, chosen_config)
                is_complete = fit_epochs(start.train_model, batches, steps, initial_epoch, epochs, options)
            else:  # As `fit` ends: with the averages, if there are some.
                start.train_model.optimizer.finalize_variable_values(start.train_model.trainable_variables)
        is_best = chosen_config.save_best or chosen_config.patience or not is_complete
        checkpoints = _collect_checkpoints(start, progress, "best" if is_best else "last")
    scores = predict_scores(start.model, held_out.images, start.transform, chosen_config.batch_size)
    evaluation = Evaluation(scores, held_out.labels, held_out.class_names)
    return TrainingResult(
        start.model, progress.history, evaluation, chosen_config, training, held_out, is_complete, checkpoints
    )


def validation_metrics(
    held_out: ImageDataset, transform: ImageTransform, config: TrainingConfig
) -> Callable[[keras.Model], dict[str, float]]:
    """Returns a function from a model to its loss and accuracy on the validation images."""

    def validate(model: keras.Model) -> dict[str, float]:
        scores = predict_scores(model, held_out.images, transform, config.batch_size)
        result = Evaluation(scores, held_out.labels, held_out.class_names)
        return {"val_loss": result.loss, "val_accuracy": result.accuracy()}

    return validate


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raises ValueError for callbacks that set the learning rate, which the config's schedule does."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau | keras.callbacks.LearningRateScheduler):
            raise ValueError(
                f"{type(callback).__name__} cannot be used: the config sets the learning rate, by learning_rate and "
                "warmup. Leave the callback out."
            )


def train_val_split(
    data: Any,
    validation: Any = 0.2,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    on_error: str = "raise",
) -> tuple[ImageDataset, ImageDataset]:
    """Returns the training and the validation images of a training run.

    The arguments are those of `fine_tune`.

    Example:
        >>> arrays = (np.zeros((10, 8, 8, 3), "uint8"), [0, 1] * 5)
        >>> [len(part) for part in train_val_split(arrays)]
        [8, 2]
    """
    folders, rows = split_folders(data), split_rows(data)
    if folders:
        data, validation = folders
    examples = load_dataset(data, class_names, on_error)
    if rows and examples.skipped:
        raise ValueError(f"{data} has images that cannot be read, and a column for the split. Take their rows out.")
    if rows:
        training, held_out = map(examples.select, rows)
        return load_dataset(training), load_dataset(held_out, name="validation")
    if isinstance(validation, numbers.Real):
        return stratified_split(examples, float(validation), seed)
    name = str(validation) if isinstance(validation, str | os.PathLike) else "validation"
    return examples, load_dataset(validation, examples.class_names, on_error, name=name)


def compile_model(
    model: keras.Model,
    config: TrainingConfig,
    steps: int,
    loss: Any,
    metrics: Sequence[Any] = (),
    **options: Any,
) -> None:
    """Compiles a model with the optimizer of a training config; other options are those of `compile`."""
    warmup_ratio = round(config.warmup_ratio * steps)
    rising = {"warmup_target": config.learning_rate, "warmup_steps": warmup_ratio} if warmup_ratio else {}
    first = config.learning_rate / 100 if warmup_ratio else config.learning_rate
    rate: Any = keras.optimizers.schedules.CosineDecay(first, max(1, steps - warmup_ratio), **rising)
    accumulation = config.accumulation_steps if config.accumulation_steps > 1 else None
    kinds: dict[str, Any] = {"global_clipnorm": config.clip_norm, "gradient_accumulation_steps": accumulation}
    inner = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay, **kinds)
    optimizer = layerwise_optimizer(model, inner, config.layer_decay, config.layer_decay_mode, config.ema_decay)
    optimizer.build(model.trainable_variables)  # TensorFlow traces a step twice that makes variables.
    model.compile(optimizer, loss, metrics=[*metrics], **options)


def _collect_checkpoints(
    start: TrainingSetup, progress: TrainingCheckpoint, chosen: str
) -> dict[str, list[np.ndarray]]:
    """Returns weights of the model after the best epoch and after the last; the model ends with the chosen ones."""
    last, found = start.train_model.get_weights(), {}
    for name in sorted(("best", "last"), key=lambda name: name == chosen):
        start.train_model.set_weights(last)
        if name == "best":
            progress.restore_best(start.train_model)
        start.commit()
        found[name] = start.model.get_weights()
    return found


def fit_epochs(
    model: keras.Model, batches: Any, steps: int, initial_epoch: int, epochs: int, options: dict[str, Any]
) -> bool:
    """Runs the epochs that are left; whether it came to its end and was not interrupted by Ctrl-C."""
    try:
        model.fit(batches, steps_per_epoch=steps, initial_epoch=initial_epoch, epochs=epochs, shuffle=False, **options)
    except KeyboardInterrupt:
        if not options["callbacks"][0].progress.history:
            raise
        return False
    finally:
        batches.close()
    return True
