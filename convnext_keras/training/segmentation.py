"""Training of segmentation models, in steps that survive an interruption."""

import dataclasses
import hashlib
import itertools
import numbers
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras.configs import Decoder
from convnext_keras.constructors import create_model, is_segmentation_name
from convnext_keras.data.augmentation import JointAugmentation
from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.hub.inspection import inspect_model
from convnext_keras.initializers import Normal
from convnext_keras.layer_names import parse_layer_name
from convnext_keras.model import ConvNeXtModel
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.segmentation import Segmenter, UPerNet, is_segmentation_model
from convnext_keras.segmentation.inference import DEFAULT_TRANSFORM, main_output
from convnext_keras.surgery import flatten_layers
from convnext_keras.training.batching import num_epochs, steps_per_epoch
from convnext_keras.training.checkpointing import EpochCallback, TrainingCheckpoint
from convnext_keras.training.finetuning import check_callbacks, compile_model, fit_epochs
from convnext_keras.training.initialization import freeze_stages
from convnext_keras.training.masks import SegmentationDataset, load_segmentation_dataset
from convnext_keras.training.presets import TrainingConfig, get_training_config
from convnext_keras.training.segmentation_metrics import (
    PixelAccuracy,
    SegmentationEvaluation,
    SegmentationLoss,
    evaluate_segmentation,
)
from convnext_keras.upernet import create_segmentation_model

PRESET, ACCURACY = "segmentation", "pixel_accuracy"


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
    """Result of `fine_tune_segmentation`.

    Attributes:
        model: The model; it knows its classes and its transform, also after `model.save`.
        history: One row per epoch with loss, pixel accuracy and mean IoU, learning rate, and seconds.
        evaluation: Evaluation of the model on the validation images.
        config: Config that was followed.
        training: The images that were trained on.
        validation: The images that were not.
        is_complete: Whether training went on to its end, or was interrupted.
    """

    model: ConvNeXtModel
    history: list[dict[str, float]]
    evaluation: SegmentationEvaluation
    config: TrainingConfig
    training: SegmentationDataset
    validation: SegmentationDataset
    is_complete: bool = True


def fine_tune_segmentation(
    model: keras.Model | str | os.PathLike,
    data: Any,
    config: TrainingConfig | str | None = None,
    *,
    validation: Any = 0.2,
    class_names: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
    reduce_labels: bool = False,
    decoder: Decoder = "upernet",
    hidden_size: int | None = None,
    size: int | None = None,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> SegmentationResult:
    """Trains a segmentation model for classes of your own.

    Args:
        model: Weights to start from, by the name of a weight set, variant, repository or folder: of a segmentation
            model, whose classifier is kept if its classes have the same names; or of a backbone, which gets a decoder.
            Or a model of `UPerNet` for these classes, which is trained itself.
        data: Images with masks, see `load_segmentation_dataset`.
        config: A `TrainingConfig`, or a name in `TRAINING_PRESETS`; None for `"segmentation"`.
        validation: Part 0..1 of the images that is not trained on; or images with masks.
        class_names: See `load_segmentation_dataset`.
        colors: See `load_segmentation_dataset`.
        reduce_labels: See `load_segmentation_dataset`.
        decoder: See `UPerNet`; of a backbone only.
        hidden_size: See `UPerNet`; of a backbone only.
        size: Height and width in pixels to train at, by default those of the weights.
        seed: Seed of the split, the decoder, the order and all that is random: with one backend on one machine, the
            same seed gives the same history.
        state: A folder in which each epoch is kept, so that training goes on from there if it was interrupted.
        callbacks: Callbacks of Keras, which see `val_loss`, `val_mean_iou` and `val_pixel_accuracy`.
        verbose: Verbose of `fit`.

    Returns:
        The model and its story.

    Raises:
        ValueError: If an argument is not valid, or see `load_segmentation_dataset`.

    Example:
        >>> from convnext_keras import training
        >>> images = np.zeros((10, 32, 32, 3), "uint8")
        >>> images[:, 8:20, 4:16] = 255
        >>> config = training.TrainingConfig(epochs=1, batch_size=4)
        >>> trained = training.fine_tune_segmentation(
        ...     "convnext_mini.digits", (images, images[..., 0] // 255), config, decoder="fpn", hidden_size=8
        ... )
        >>> [*trained.history[0]][:3]
        ['epoch', 'loss', 'pixel_accuracy']
    """
    keras.utils.set_random_seed(seed)
    check_callbacks(callbacks)
    config = get_training_config(config or PRESET, 0)
    for name, default in (("lora_rank", 0), ("mixup", 0), ("cutmix", 0), ("head_init", "random")):
        if getattr(config, name) != default:
            raise ValueError(f"{name} must be {default!r} for segmentation. Received: {getattr(config, name)!r}")
    training, held_out = split_masks(data, validation, class_names, colors, reduce_labels, seed)
    names = training.class_names
    source = _initial_model(model, names, config, decoder, hidden_size)
    known = source.pretrained_info or PretrainedInfo()
    transform = known.transform or DEFAULT_TRANSFORM
    # The classes of all pixels need all of the image: no crop of its center.
    transform = transform._replace(size=size or transform.size, resize_mode="squash", crop_pct=1.0, resize_size=None)
    train_model = _training_copy(source, config, transform)
    start = source
    if len(source.outputs) > 1:
        start = ConvNeXtModel(source.input, source.outputs[0], name=source.name)
    start.pretrained_info = dataclasses.replace(
        known,
        transform=transform,
        class_names=tuple((name, name) for name in names),
        reduce_labels=training.reduce_labels,
    )
    origin = (known.weights_name or source.name, known.sha256)
    settings = {"images": _fingerprint(training, held_out), "class_names": [*names], "config": vars(config)}
    settings |= {"transform": transform, "seed": seed, "start": origin}
    progress, is_complete = TrainingCheckpoint(None if state is None else Path(state), settings), True
    epochs, steps = num_epochs(training, config), steps_per_epoch(training, config)
    segmenter = Segmenter(main_output(train_model), names, transform)
    key = ACCURACY if len(train_model.outputs) == 1 else f"{train_model.output_names[0]}_{ACCURACY}"
    following = EpochCallback(progress, _validation(segmenter, held_out), {ACCURACY: key}, config, seed)
    with freeze_stages(train_model, config.frozen_stages):
        _compile(train_model, config, max(1, epochs * steps))
        first = progress.resume(train_model)
        batches = segmentation_batches(training, config, transform, seed, first)
        if first < epochs and not progress.should_stop(config.patience):
            options = {"callbacks": [following, *callbacks], "verbose": verbose}
            is_complete = fit_epochs(train_model, batches, steps, first, epochs, options)
        elif epochs:  # As `fit` ends: with the averages, if there are some.
            train_model.optimizer.finalize_variable_values(train_model.trainable_variables)
    if config.save_best or config.patience or not is_complete:
        progress.restore_best(train_model)
    copy_weights(train_model, start)
    evaluation = evaluate_segmentation(Segmenter(start, names, transform), held_out)
    return SegmentationResult(start, progress.history, evaluation, config, training, held_out, is_complete)


def split_masks(
    data: Any,
    validation: Any = 0.2,
    class_names: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
    reduce_labels: bool = False,
    seed: int = 0,
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Returns the training and the validation images of a run; the arguments are those of `fine_tune_segmentation`."""
    dataset = load_segmentation_dataset(data, class_names, colors=colors, reduce_labels=reduce_labels)
    if not isinstance(validation, numbers.Real):
        options: dict[str, Any] = {"colors": dataset.colors, "reduce_labels": dataset.reduce_labels}
        return dataset, load_segmentation_dataset(validation, dataset.class_names, **options, name="validation")
    count = round(float(validation) * len(dataset))
    if not 0 < float(validation) < 1 or not 0 < count < len(dataset):
        raise ValueError(
            f"validation must leave images on both sides. Received: validation={validation!r} of {len(dataset)} images"
        )
    order = np.random.default_rng(seed).permutation(len(dataset))
    return dataset.select(sorted(order[count:].tolist())), dataset.select(sorted(order[:count].tolist()))


def _initial_model(
    given: Any, names: tuple[str, ...], config: TrainingConfig, decoder: Decoder, hidden_size: int | None
) -> ConvNeXtModel:
    """Returns the model to start from, with an auxiliary output if its weights have one."""
    count = len(names)
    if isinstance(given, ConvNeXtModel):
        if not is_segmentation_model(given) or Segmenter(given).num_classes != count:
            raise ValueError(f"{given.name!r} must be a model of segmentation.UPerNet with classes={count}.")
        return given
    random: dict[str, Any] = {} if config.pretrained else {"weights": None}
    if not is_segmentation_name(given):
        backbone = create_model(given, include_top=False, input_shape=(None, None, 3), **random)
        return UPerNet(backbone, count, decoder=decoder, hidden_size=hidden_size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fresh random weights")  # That is what is wanted.
        model = create_model(given, classes=count, auxiliary_output=True, **random)
    known = model.pretrained_info and model.pretrained_info.class_names
    if known and [name for _, name in known] != [*names]:
        _init_classifiers(model)
    return model


def _init_classifiers(model: keras.Model) -> None:
    for layer in model.layers:
        if layer.name.endswith("_classifier"):
            kernel, bias = layer.get_weights()
            layer.set_weights([keras.ops.convert_to_numpy(Normal()(kernel.shape)), np.zeros_like(bias)])


def _training_copy(model: ConvNeXtModel, config: TrainingConfig, transform: ImageTransform) -> ConvNeXtModel:
    """Returns a copy with the same weights, the auxiliary output, stochastic depth and the precision of the config."""
    read = inspect_model(model)
    if read.segmentation is None:
        raise ValueError(f"{model.name!r} has no decoder.")
    auxiliary = config.auxiliary_weight > 0
    segmentation = (
        read.segmentation
        if read.segmentation.auxiliary_head
        else read.segmentation._replace(
            auxiliary_head=True, auxiliary_channels=min(256, read.segmentation.hidden_size), auxiliary_num_convs=1
        )
    )
    statistics = read.statistics or transform.statistics
    prefix = next(reading[0] for layer in model.layers if (reading := parse_layer_name(layer.name)) and reading[0])
    copy = create_segmentation_model(
        segmentation,
        None,
        classes=read.classes,
        auxiliary_output=auxiliary,
        transform=transform._replace(statistics=statistics, channels=read.channels),
        include_preprocessing=read.statistics is not None,
        input_shape=(*transform.shape[:2], read.channels),
        name=prefix.removesuffix("_"),
        drop_path_rate=config.drop_path_rate or 0.0,
        output_stride=read.output_stride,
        dtype=None if config.precision == "float32" else config.precision,
    )
    copy_weights(model, copy)
    return copy


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Gives the layers of a model the weights of the layers of the same names in another one."""
    known = {layer.name: layer for layer in flatten_layers(source)}
    for layer in flatten_layers(target):
        if layer.weights and layer.name in known:
            values = {weight.name: weight for weight in known[layer.name].weights}
            for weight in layer.weights:
                if weight.name in values and "seed_generator" not in weight.name:
                    weight.assign(values[weight.name])


def _fingerprint(training: SegmentationDataset, held_out: SegmentationDataset) -> str:
    digest = hashlib.sha256()
    for item in itertools.chain(training.images, training.masks, held_out.images, held_out.masks):
        is_path = isinstance(item, str | os.PathLike)
        digest.update(str(item).encode() if is_path else np.ascontiguousarray(item).tobytes())
    return digest.hexdigest()


def _compile(model: keras.Model, config: TrainingConfig, steps: int) -> None:
    loss = SegmentationLoss(config.dice_weight, config.label_smoothing)
    if len(model.outputs) == 1:
        compile_model(model, config, steps, loss, [PixelAccuracy()])
        return
    auxiliary = SegmentationLoss(0.0, config.label_smoothing, name="auxiliary_loss")
    weights = [1.0, config.auxiliary_weight]
    compile_model(model, config, steps, [loss, auxiliary], [[PixelAccuracy()], []], loss_weights=weights)


def _validation(segmenter: Segmenter, held_out: SegmentationDataset) -> Callable[[keras.Model], dict[str, float]]:
    """Returns a function that measures the segmenter, which shares the weights of the function's argument."""

    def validate(model: keras.Model) -> dict[str, float]:
        result = evaluate_segmentation(segmenter, held_out)
        return {
            "val_loss": result.loss,
            "val_pixel_accuracy": result.pixel_accuracy,
            "val_mean_iou": result.mean_iou,
        }

    return validate


def segmentation_batches(
    dataset: SegmentationDataset, config: TrainingConfig, transform: ImageTransform, seed: int = 0, first_epoch: int = 0
) -> Iterator[tuple[np.ndarray, Any]]:
    """Returns batches without end; what is random depends on the seed, the epoch and the image only.

    Yields:
        Pixels `(batch, height, width, channels)` float32, and masks `(batch, height, width)` int32, twice if there is
        an auxiliary classifier.
    """
    augment = JointAugmentation(transform, config.scale_range, config.hflip_prob, config.color_jitter)
    size, steps = min(config.batch_size, len(dataset)), steps_per_epoch(dataset, config)

    def order() -> Iterator[tuple[int, int]]:
        for epoch in itertools.count(first_epoch):
            indices = np.random.default_rng((seed, epoch)).permutation(len(dataset))
            yield from ((epoch, int(index)) for index in indices[: steps * size])

    def read(row: tuple[int, int]) -> np.ndarray:
        epoch, index = row
        rng = np.random.default_rng((seed, epoch, index))
        pixels, mask = augment(dataset.images[index], dataset.mask(index), rng)
        return np.concatenate([pixels.astype("uint16"), mask[..., None]], axis=-1)

    for _, arrays in iter_batches(order(), read, size):
        masks = arrays[..., -1].astype("int32")
        yield arrays[..., :-1].astype("float32"), (masks, masks) if config.auxiliary_weight else masks
