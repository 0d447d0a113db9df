"""Training batches, augmented in threads while the model is busy with the batch before."""

import itertools
from collections.abc import Iterator, Sized

import numpy as np

from convnext_keras.data.augmentation import Augmentation, mixup_cutmix
from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform as Transform
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.presets import TrainingConfig


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


def training_batches(
    examples: ImageDataset, config: TrainingConfig, transform: Transform, seed: int = 0, first_epoch: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns batches without end, for `model.fit(..., steps_per_epoch=steps_per_epoch(examples, config))`.

    Everything that is random depends on the seed, the epoch and the image only, so the batches of an epoch are the
    same whether or not training was interrupted before it, and however many threads there are.

    Args:
        examples: The training images.
        config: How to augment, mix and batch them.
        transform: Evaluation transform of the model.
        seed: Seed of the order and of all changes.
        first_epoch: First epoch with which to begin.

    Yields:
        Pixels `(batch, height, width, channels)` in 0..255 and targets `(batch, classes)` that sum to 1, float32.

    Example:
        >>> from convnext_keras import training
        >>> examples = training.load_dataset((np.zeros((8, 9, 9, 3), "uint8"), [0, 1] * 4))
        >>> batches = training_batches(examples, training.TrainingConfig(batch_size=4), Transform(16))
        >>> [array.shape for array in next(batches)]
        [(4, 16, 16, 3), (4, 2)]
    """
    augmentation = build_augmentation(config, transform)
    steps = steps_per_epoch(examples, config)
    size = min(config.batch_size, len(examples))

    def order() -> Iterator[tuple[int, int]]:
        for epoch in itertools.count(first_epoch):
            indices = np.random.default_rng((seed, epoch)).permutation(len(examples))
            yield from ((epoch, int(place)) for place in indices[: steps * size])

    def augmented(row: tuple[int, int]) -> np.ndarray:
        epoch, place = row
        return augmentation(examples.images[place], np.random.default_rng((seed, epoch, place)))

    identity = np.eye(len(examples.class_names), dtype="float32")
    for number, (rows, pixels) in enumerate(iter_batches(order(), augmented, size), start=first_epoch * steps):
        targets = identity[examples.labels[[place for _, place in rows]]]
        rng = np.random.default_rng((seed, 1, number))
        yield mixup_cutmix(pixels, targets, config.mixup, config.cutmix, rng)
