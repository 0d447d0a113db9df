"""Fine-tuning: from images and a config to a classifier or a regression, in steps that survive an interruption."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras.model import ConvNeXtModel
from convnext_keras.problem_types import MULTI_LABEL, SINGLE_LABEL
from convnext_keras.training.batching import (
    AugmentFunction,
    class_weights,
    num_epochs,
    steps_per_epoch,
    training_batches,
)
from convnext_keras.training.checkpointing import EpochCallback, TrainingCheckpoint, run_fingerprint
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.evaluation import AnyEvaluation, evaluate_scores, predict_scores
from convnext_keras.training.initialization import TrainingSetup, freeze_stages, prepare_model
from convnext_keras.training.linear_probe import init_head_from_probe
from convnext_keras.training.lora import enable_lora
from convnext_keras.training.losses import build_loss
from convnext_keras.training.multi_label import choose_thresholds
from convnext_keras.training.optimizers import build_optimizer, layerwise_optimizer
from convnext_keras.training.presets import TrainingConfig, get_training_config
from convnext_keras.training.splits import find_duplicates, train_val_split

MAX_GAP = 0.1  # between training and validation accuracy, above which a note names both
MAX_LOSS_RISE = 1.2  # of the validation loss over its lowest value, above which a note says so
MIN_BATCH_SIZE = 1
# Words of the backends' errors when memory is exhausted.
OUT_OF_MEMORY = ("out of memory", "resource_exhausted", "oom when allocating", "can't allocate memory")


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of `fine_tune`.

    Attributes:
        model: The trained model; it knows its classes and its transform, also after `model.save`.
        history: One row per epoch with loss and metrics on training and validation images, learning rate, and seconds.
        evaluation: Evaluation of the model on the validation images.
        config: Config of the run.
        training: The training images.
        validation: The validation images.
        is_complete: Whether training came to its end; False if it was interrupted.
        checkpoints: Weights of the model after the epoch with the lowest validation loss, `"best"`, and after the last,
            `"last"`; the model has those that `TrainingConfig.save_best` selects.
    """

    model: ConvNeXtModel
    history: list[dict[str, float]]
    evaluation: AnyEvaluation
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
        if last.get("accuracy", 0) - last.get("val_accuracy", 0) > MAX_GAP:
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


@dataclasses.dataclass(frozen=True)
class TrainingOverrides:
    """Objects that replace parts of a `TrainingConfig`; see `fine_tune`."""

    loss: keras.losses.Loss | None = None
    metrics: Sequence[keras.metrics.Metric] = ()
    optimizer: keras.optimizers.Optimizer | None = None
    augmentation: AugmentFunction | None = None


def fine_tune(
    model: keras.Model | str | os.PathLike,
    data: Any,
    config: TrainingConfig | str | None = None,
    *,
    validation: Any = 0.2,
    class_names: Sequence[str] | None = None,
    problem_type: str | None = None,
    size: int | None = None,
    seed: int = 0,
    on_error: str = "raise",
    state: str | os.PathLike | None = None,
    loss: keras.losses.Loss | None = None,
    metrics: Sequence[keras.metrics.Metric] = (),
    optimizer: keras.optimizers.Optimizer | None = None,
    augmentation: AugmentFunction | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    auto_batch_size: bool = False,
    verbose: int = 0,
) -> TrainingResult:
    """Trains a classifier, a multi-label classifier or a regression on images.

    Args:
        model: Initial weights, by the name of a weight set, variant, repository or directory; or a model, which is
            trained itself: a classifier for these classes, or a backbone (`include_top=False`), which gets a head.
        data: See `load_dataset`; a directory with the directories `train` and `val` is split accordingly.
        config: A `TrainingConfig`, or a name in `TRAINING_PRESETS`; None for the one that fits the number of images.
        validation: Fraction 0..1 of each class for validation; or images, see `load_dataset`.
        class_names: See `load_dataset`.
        problem_type: See `load_dataset`.
        size: Height and width in pixels for training. None for those of the weights.
        seed: Seed of the split, the head, the order and everything random: with one backend on one machine, the same
            seed gives the same history.
        on_error: See `load_dataset`.
        state: Directory in which each epoch is stored, from which an interrupted training continues.
        loss: Loss of targets and logits `(N, C)`, in place of `config.loss`; a regression's are standardized.
        metrics: Metrics of targets and logits on the training images, stored in the history.
        optimizer: Optimizer with its own learning rate, in place of `config.optimizer` and the schedule.
        augmentation: Function from an image and a NumPy random generator to pixels `(height, width, channels)` in
            0..255, in place of the augmentation of the config.
        callbacks: Keras callbacks, which see `val_loss` and the validation metrics at the end of each epoch.
        auto_batch_size: Whether the batch size is halved after running out of memory, and the accumulation steps
            doubled, so that the number of images per step stays.
        verbose: Verbosity of `fit`.

    Returns:
        The model, its history and its evaluation. Ctrl-C after the first epoch ends training early, with the best
        model so far.

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
    check_callbacks(callbacks)
    training, held_out = train_val_split(data, validation, class_names, seed, on_error, problem_type=problem_type)
    config = get_training_config(config, len(training))
    overrides = TrainingOverrides(loss, metrics, optimizer, augmentation)
    options = {"callbacks": [*callbacks], "verbose": verbose}
    while True:
        try:
            return _train(model, (training, held_out), config, overrides, size, seed, state, options)
        except Exception as error:
            if not (auto_batch_size and is_out_of_memory(error) and config.batch_size > MIN_BATCH_SIZE):
                raise
            half = max(MIN_BATCH_SIZE, config.batch_size // 2)
            accumulation = config.accumulation_steps * config.batch_size // half
            warnings.warn(
                f"A batch of {config.batch_size} images needs too much memory. Training restarts with "
                f"batch_size={half} and accumulation_steps={accumulation}.",
                stacklevel=2,
            )
            config = dataclasses.replace(config, batch_size=half, accumulation_steps=accumulation)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether a backend's error says that memory is exhausted."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in OUT_OF_MEMORY)


def _train(
    model: Any,
    parts: tuple[ImageDataset, ImageDataset],
    config: TrainingConfig,
    overrides: TrainingOverrides,
    size: int | None,
    seed: int,
    state: Any,
    options: dict[str, Any],
) -> TrainingResult:
    """Trains with one config; see `fine_tune`."""
    keras.utils.set_random_seed(seed)
    training, held_out = parts
    setup = prepare_model(model, training, config, size)
    settings = run_fingerprint(training, held_out, config=vars(config), transform=setup.transform, seed=seed)
    progress = TrainingCheckpoint(None if state is None else Path(state), {**settings, "start": setup.origin})
    if config.head_init == "linear_probe" and not (setup.reuses_head and config.epochs):
        init_head_from_probe(setup.model, training, setup.transform, seed)
    is_complete, checkpoints = True, {}
    if num_epochs(training, config):
        is_complete = _fit(setup, progress, parts, config, overrides, seed, options)
        is_best = config.save_best or config.patience or not is_complete
        checkpoints = _collect_checkpoints(setup, progress, "best" if is_best else "last")
    scores = predict_scores(
        setup.model, held_out.images, setup.transform, config.batch_size, problem_type=training.problem_type
    )
    thresholds = None
    if training.problem_type == MULTI_LABEL:
        thresholds = choose_thresholds(scores, held_out.labels)
        info: Any = setup.model.pretrained_info  # which `prepare_model` sets
        setup.model.pretrained_info = dataclasses.replace(info, thresholds=thresholds)
    evaluation = evaluate_scores(scores, held_out, thresholds)
    return TrainingResult(
        setup.model, progress.history, evaluation, config, training, held_out, is_complete, checkpoints
    )


def _fit(
    setup: TrainingSetup,
    progress: TrainingCheckpoint,
    parts: tuple[ImageDataset, ImageDataset],
    config: TrainingConfig,
    overrides: TrainingOverrides,
    seed: int,
    options: dict[str, Any],
) -> bool:
    """Runs the epochs that are left; returns whether training came to its end."""
    training, held_out = parts
    epochs, steps = num_epochs(training, config), steps_per_epoch(training, config)
    loss = overrides.loss or training_loss(training, config)
    metrics = [*overrides.metrics]
    if training.problem_type == SINGLE_LABEL:
        metrics.insert(0, keras.metrics.CategoricalAccuracy(name="accuracy"))
    names = {metric.name: metric.name for metric in metrics}
    following = EpochCallback(progress, validation_metrics(held_out, setup, config), names, config, seed)
    setup.begin()
    if config.lora_rank:
        enable_lora(setup.train_model, config.lora_rank)
    with freeze_stages(setup.train_model, config.frozen_stages):
        compile_model(setup.train_model, config, epochs * steps, loss, metrics, overrides.optimizer)
        first = progress.resume(setup.train_model)
        if first >= epochs or progress.should_stop(config.patience):
            # As `fit` ends: with the averages, if there are some.
            setup.train_model.optimizer.finalize_variable_values(setup.train_model.trainable_variables)
            return True
        standardization = setup.standardization
        batches = training_batches(
            training,
            config,
            setup.transform,
            seed,
            first,
            targets=standardization(training.labels) if standardization else None,
            augmentation=overrides.augmentation,
        )
        options = {**options, "callbacks": [following, *options["callbacks"]]}
        return fit_epochs(setup.train_model, batches, steps, first, epochs, options)


def training_loss(examples: ImageDataset, config: TrainingConfig) -> keras.losses.Loss:
    """Returns the loss of a config for a dataset; see `build_loss`."""
    weights = class_weights(examples, config)
    is_multi_label = examples.problem_type == MULTI_LABEL
    positive_weights = weights.tolist() if is_multi_label and weights is not None else None
    return build_loss(config.loss, examples.problem_type, config.label_smoothing, positive_weights)


def validation_metrics(
    held_out: ImageDataset, setup: TrainingSetup, config: TrainingConfig
) -> Callable[[keras.Model], dict[str, float]]:
    """Returns a function from `setup.train_model` to its loss and metrics on the validation images."""

    def validate(model: keras.Model) -> dict[str, float]:
        scores = predict_scores(
            model, held_out.images, setup.transform, config.batch_size, problem_type=held_out.problem_type
        )
        if setup.standardization:
            scores = setup.standardization.invert(scores)
        result = evaluate_scores(scores, held_out)
        return {"val_loss": result.loss, **{f"val_{name}": value for name, value in result.metrics.items()}}

    return validate


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raises ValueError for callbacks that set the learning rate, which the config's schedule does."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau | keras.callbacks.LearningRateScheduler):
            raise ValueError(
                f"{type(callback).__name__} cannot be used: the config sets the learning rate, by learning_rate and "
                "warmup_ratio. Leave the callback out."
            )


def compile_model(
    model: keras.Model,
    config: TrainingConfig,
    steps: int,
    loss: Any,
    metrics: Sequence[Any] = (),
    optimizer: keras.optimizers.Optimizer | None = None,
    **options: Any,
) -> None:
    """Compiles a model with the optimizer of a training config; other options are those of `compile`."""
    inner = build_optimizer(config, steps) if optimizer is None else type(optimizer).from_config(optimizer.get_config())
    layerwise = layerwise_optimizer(model, inner, config.layer_decay, config.layer_decay_mode, config.ema_decay)
    layerwise.build(model.trainable_variables)  # TensorFlow traces a step twice that makes variables.
    model.compile(layerwise, loss, metrics=[*metrics], **options)


def _collect_checkpoints(
    setup: TrainingSetup, progress: TrainingCheckpoint, chosen: str
) -> dict[str, list[np.ndarray]]:
    """Returns weights of the model after the best epoch and after the last; the model ends with the chosen ones."""
    last, found = setup.train_model.get_weights(), {}
    for name in sorted(("best", "last"), key=lambda name: name == chosen):
        setup.train_model.set_weights(last)
        if name == "best":
            progress.restore_best(setup.train_model)
        setup.commit()
        found[name] = setup.model.get_weights()
    return found


def fit_epochs(
    model: keras.Model, batches: Any, steps: int, initial_epoch: int, epochs: int, options: dict[str, Any]
) -> bool:
    """Runs the epochs that are left; returns False if Ctrl-C interrupted them."""
    try:
        model.fit(batches, steps_per_epoch=steps, initial_epoch=initial_epoch, epochs=epochs, shuffle=False, **options)
    except KeyboardInterrupt:
        if not options["callbacks"][0].progress.history:
            raise
        return False
    finally:
        batches.close()
    return True
