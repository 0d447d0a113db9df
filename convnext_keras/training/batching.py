"""Training batches, augmented in threads while the model is busy with the batch before."""

import itertools
from collections.abc import Callable, Iterator, Sized

import numpy as np

from convnext_keras.data.augmentation import Augmentation, mixup_cutmix
from convnext_keras.data.images import ImageSource
from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform as Transform
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.presets import TrainingConfig
from convnext_keras.training.splits import strata

AugmentFunction = Callable[[ImageSource, np.random.Generator], np.ndarray]


def steps_per_epoch(examples: Sized, config: TrainingConfig) -> int:
    """Returns batches of one pass; the last images of a pass, too few for a batch, are left to others."""
    return max(1, len(examples) // config.batch_size)


def num_epochs(examples: Sized, config: TrainingConfig) -> int:
    """Returns the number of epochs, at least enough for the minimum number of steps."""
    if config.epochs == 0:
        return 0
    wanted = config.min_steps * config.accumulation_steps
    return max(config.epochs, -(-wanted // steps_per_epoch(examples, config)))


def build_augmentation(config: TrainingConfig, transform: Transform) -> Augmentation:
    """Builds the augmentation of single images for a training config."""
    transform = transform._replace(exif_transpose=True)
    return Augmentation(
        transform, config.crop_scale, config.hflip_prob, config.affine, config.rand_augment, config.random_erasing_prob
    )


def class_weights(examples: ImageDataset, config: TrainingConfig) -> np.ndarray | None:
    """Returns the weight of each class in the loss, `(C,)`; None without weights.

    One label per image: number of images / (number of classes x images of the class), as in scikit-learn. Several
    labels: negatives / positives, for the positives of each label.

    Raises:
        ValueError: If a regression has class weights or balanced sampling.
    """
    if examples.problem_type == REGRESSION and (config.class_weights or config.sampling):
        raise ValueError("class_weights and sampling are for classes. Leave them out for a regression.")
    if config.class_weights is None:
        return None
    counts = np.maximum(1, np.array([*examples.class_counts.values()], "float64"))
    if examples.problem_type == MULTI_LABEL:
        return (np.maximum(1, len(examples) - counts) / counts).astype("float32")
    return (len(examples) / (len(counts) * counts)).astype("float32")


def _epoch_order(examples: ImageDataset, config: TrainingConfig) -> Callable[[np.random.Generator], np.ndarray]:
    """Returns a function that draws the order of the images of an epoch."""
    if config.sampling is None:
        return lambda rng: rng.permutation(len(examples))
    members = strata(examples)
    shares = 1 / np.bincount(members)[members]
    return lambda rng: rng.choice(len(examples), len(examples), p=shares / shares.sum())


def training_batches(
    examples: ImageDataset,
    config: TrainingConfig,
    transform: Transform,
    seed: int = 0,
    first_epoch: int = 0,
    *,
    targets: np.ndarray | None = None,
    augmentation: AugmentFunction | None = None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields batches without end, for `model.fit(..., steps_per_epoch=steps_per_epoch(examples, config))`.

    Everything that is random depends on the seed, the epoch and the image only, so the batches of an epoch are the
    same whether or not training was interrupted before it, and however many threads there are.

    Args:
        examples: The training images.
        config: How to augment, mix and batch them.
        transform: Evaluation transform of the model.
        seed: Seed of the order and of all changes.
        first_epoch: First epoch with which to begin.
        targets: Targets `(N, C)` in place of those of the images.
        augmentation: Function from an image and a random generator to pixels `(height, width, channels)` in 0..255, in
            place of that of the config.

    Yields:
        Pixels `(batch, height, width, channels)` in 0..255, targets `(batch, C)`, and weights `(batch,)` if the images
        or the classes have some, float32.

    Example:
        >>> from convnext_keras import training
        >>> examples = training.load_dataset((np.zeros((8, 9, 9, 3), "uint8"), [0, 1] * 4))
        >>> batches = training_batches(examples, training.TrainingConfig(batch_size=4), Transform(16))
        >>> [array.shape for array in next(batches)]
        [(4, 16, 16, 3), (4, 2)]
    """
    augment = augmentation or build_augmentation(config, transform)
    by_class = None if examples.problem_type == MULTI_LABEL else class_weights(examples, config)
    own_weights, draw = examples.sample_weights, _epoch_order(examples, config)
    steps = steps_per_epoch(examples, config)
    size = min(config.batch_size, len(examples))

    def order() -> Iterator[tuple[int, int]]:
        for epoch in itertools.count(first_epoch):
            indices = draw(np.random.default_rng((seed, epoch)))
            yield from ((epoch, int(index)) for index in indices[: steps * size])

    def augmented(row: tuple[int, int]) -> np.ndarray:
        epoch, index = row
        return augment(examples.images[index], np.random.default_rng((seed, epoch, index)))

    for number, (rows, pixels) in enumerate(iter_batches(order(), augmented, size), start=first_epoch * steps):
        indices = [index for _, index in rows]
        rng = np.random.default_rng((seed, 1, number))
        rows_of_targets = examples.targets(indices) if targets is None else targets[indices]
        batch = mixup_cutmix(pixels, rows_of_targets, config.mixup, config.cutmix, rng)
        if by_class is None and own_weights is None:
            yield batch
            continue
        weights = np.ones(len(rows), "float32") if own_weights is None else own_weights[indices]
        yield (*batch, weights if by_class is None else weights * (batch[1] @ by_class))
