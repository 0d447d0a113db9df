"""Contrastive losses, training augmentation, and interpolation of weights."""

from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.clip.model import CLIP
from convnext_keras.data.augmentation import random_erasing, random_resized_crop
from convnext_keras.data.images import ImageSource, open_image
from convnext_keras.layers import register
from convnext_keras.surgery import average_weights


@register
class ContrastiveLoss(keras.losses.Loss):
    """CLIP's loss for a batch of N pairs: the mean cross-entropy of images over texts and of texts over images.

    Targets `(N,)` are numbers of groups: rows of one group belong together, as where a caption occurs twice, and share
    the target evenly. `CLIP.fit` without targets makes groups of equal texts. Predictions are the logits `(N, N)`.

    Source: https://arxiv.org/abs/2103.00020v1, figure 3; shared targets as in https://arxiv.org/abs/2004.11362v5.

    Example:
        >>> logits = np.array([[5.0, 0.0], [0.0, 5.0]], "float32")
        >>> round(float(ContrastiveLoss()(np.array([0, 1]), logits)), 4)
        0.0067
    """

    def call(self, y_true, y_pred):
        """Returns one value for each pair, `(N,)`."""
        groups = ops.reshape(y_true, (-1,))
        together = ops.cast(groups[:, None] == groups[None], y_pred.dtype)
        targets = together / ops.sum(together, axis=-1, keepdims=True)  # Symmetric groups: rows serve as columns too.
        by_image = ops.sum(targets * ops.log_softmax(y_pred, axis=-1), axis=-1)
        by_text = ops.sum(targets * ops.log_softmax(ops.transpose(y_pred), axis=-1), axis=-1)
        return -(by_image + by_text) / 2


@register
class SigmoidContrastiveLoss(keras.losses.Loss):
    """SigLIP's loss for a batch of N pairs: the binary cross-entropy of each image with each text.

    Targets `(N,)` are numbers of groups, whose images and texts all match. Predictions are the logits `(N, N)` of a
    model with a logit bias.

    Source: https://arxiv.org/abs/2303.15343v4, algorithm 1.

    Example:
        >>> logits = np.array([[5.0, -5.0], [-5.0, 5.0]], "float32")
        >>> round(float(SigmoidContrastiveLoss()(np.array([0, 1]), logits)), 4)
        0.0134
    """

    def call(self, y_true, y_pred):
        """Returns the sum over the texts for each image, `(N,)`."""
        groups = ops.reshape(y_true, (-1,))
        together: Any = ops.cast(groups[:, None] == groups[None], y_pred.dtype)
        signs = 2 * together - 1
        return ops.sum(ops.softplus(-signs * y_pred), axis=-1)


class CLIPTrainTransform:
    """Training augmentation of LAION's ConvNeXts: a random resized crop, and random erasing.

    Args:
        size: Height and width of the result, in pixels.
        scale: Smallest and largest part of the image's area that is cropped.
        random_erasing_prob: Probability 0..1 that a patch is replaced by noise.
        seed: Seed of the random numbers.

    Example:
        >>> CLIPTrainTransform(64)(np.zeros((100, 80, 3), "uint8")).shape
        (64, 64, 3)
    """

    def __init__(
        self, size: int, scale: tuple[float, float] = (0.33, 1.0), random_erasing_prob: float = 0.35, seed: int = 0
    ) -> None:
        self.size, self.scale, self.random_erasing_prob = size, scale, random_erasing_prob
        self.random = np.random.default_rng(seed)

    def __call__(self, image: ImageSource) -> np.ndarray:
        """Returns uint8 pixels `(size, size, 3)` of a path, a PIL image or an array."""
        size = (self.size, self.size)
        pixels = np.array(random_resized_crop(open_image(image), size, self.scale, self.random))
        return random_erasing(pixels, self.random) if self.random.random() < self.random_erasing_prob else pixels


def interpolate_weights(zero_shot: CLIP, tuned: CLIP, weight: float) -> CLIP:
    """Returns a new model with interpolated weights of two models, which limits forgetting after fine-tuning.

    "Robust fine-tuning of zero-shot models" (https://arxiv.org/abs/2109.01903v3).

    Args:
        zero_shot: The model before fine-tuning.
        tuned: The same after it.
        weight: Weight of `tuned`, 0..1; 0 and 1 give exact copies of the ends.

    Raises:
        ValueError: If the two differ in their sizes, or the weight is not valid.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be 0 to 1. Received: weight={weight!r}")
    mixed: Any = average_weights([zero_shot, tuned], [1 - weight, weight])
    return mixed
