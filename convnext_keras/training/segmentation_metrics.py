"""Metrics of segmentation from one confusion matrix, and the losses."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.layers import register
from convnext_keras.segmentation import Segmenter
from convnext_keras.training.masks import IGNORE_INDEX, SegmentationDataset


@dataclasses.dataclass(frozen=True)
class SegmentationEvaluation:
    """How the pixels of images were classified.

    Attributes:
        confusion_matrix: Number of pixels per true class (rows) and predicted class (columns).
        class_names: Names of the classes, in the order of the rows.
        loss: Mean cross-entropy of the pixels in nats.
        image_ious: Mean IoU of each image over the classes that it has or is said to have.

    Example:
        >>> SegmentationEvaluation(np.array([[3, 1], [0, 4]]), ("sky", "kite"), 0.1, ()).class_iou
        {'sky': 0.75, 'kite': 0.8}
    """

    confusion_matrix: np.ndarray
    class_names: tuple[str, ...]
    loss: float
    image_ious: tuple[float, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.image_ious)} images, mean_iou={self.mean_iou:.4f}>"

    @property
    def class_iou(self) -> dict[str, float | None]:
        """Returns intersection over union 0..1 of each class; None for one that no pixel is of or taken for."""
        return dict(zip(self.class_names, _class_iou(self.confusion_matrix), strict=True))

    @property
    def mean_iou(self) -> float:
        """Returns the mean of `class_iou` over the classes that have one."""
        return float(np.mean([value for value in self.class_iou.values() if value is not None]))

    @property
    def pixel_accuracy(self) -> float:
        """Returns the part 0..1 of the pixels that are right."""
        return float(np.trace(self.confusion_matrix) / self.confusion_matrix.sum())

    def summary(self) -> dict[str, Any]:
        """Returns the figures as plain data."""
        return {
            "num_images": len(self.image_ious),
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "loss": self.loss,
            "class_iou": self.class_iou,
            "class_names": [*self.class_names],
            "confusion_matrix": self.confusion_matrix.tolist(),
        }


def _class_iou(matrix: np.ndarray) -> list[float | None]:
    right, union = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    return [float(part / whole) if whole else None for part, whole in zip(right, union, strict=True)]


def evaluate_segmentation(segmenter: Segmenter, dataset: SegmentationDataset) -> SegmentationEvaluation:
    """Compares the label maps of a model, at each image's own size, with the masks.

    Args:
        segmenter: The model.
        dataset: Images with masks of the model's classes.

    Raises:
        ValueError: If the model has another number of classes.
    """
    count = len(segmenter.class_names)
    if count != len(dataset.class_names):
        raise ValueError(f"The model has {count} classes, the masks {len(dataset.class_names)}.")
    matrix, losses, pixels, ious = np.zeros((count, count), "int64"), 0.0, 0, []
    for index, image in enumerate(dataset.images):
        mask, own = dataset.mask(index), np.zeros((count, count), "int64")
        for place, logits in segmenter.iter_logits(image):
            true = mask[place]
            valid = true != IGNORE_INDEX
            chosen, logits = true[valid], logits[valid]
            own += np.bincount(chosen.astype("int64") * count + logits.argmax(axis=-1), minlength=count**2).reshape(
                count, count
            )
            best = logits.max(axis=-1, keepdims=True)
            normalizer = best[:, 0] + np.log(np.exp(logits - best).sum(axis=-1))
            losses += float((normalizer - logits[np.arange(len(chosen)), chosen]).sum())
            pixels += len(chosen)
        matrix += own
        ious.append(float(np.mean([value for value in _class_iou(own) if value is not None])))
    return SegmentationEvaluation(matrix, dataset.class_names, losses / max(pixels, 1), tuple(ious))


@register
class SegmentationLoss(keras.losses.Loss):
    """Cross-entropy of logits `(N, H, W, classes)` with class numbers `(N, H, W)`, the mean over pixels not ignored.

    Args:
        dice_weight: Weight of the Dice loss (https://arxiv.org/abs/1606.04797v1) that is added, 0 for none: one minus
            the mean over the classes of `2 sum(p t) / sum(p + t)`, for probabilities `p` and targets `t`.
        label_smoothing: Part 0..1 of the target that is spread over all classes.
    """

    def __init__(self, dice_weight: float = 0.0, label_smoothing: float = 0.0, name: str = "segmentation_loss"):
        super().__init__(name=name, reduction="sum")
        self.dice_weight, self.label_smoothing = dice_weight, label_smoothing

    def call(self, y_true, y_pred):
        logits: Any = ops.cast(y_pred, "float32")
        labels = ops.cast(y_true, "int32")
        count = logits.shape[-1]
        valid = ops.cast(ops.not_equal(labels, IGNORE_INDEX), "float32")
        total = ops.maximum(ops.sum(valid), 1.0)
        targets = ops.one_hot(ops.where(ops.equal(labels, IGNORE_INDEX), 0, labels), count, dtype="float32")
        smoothed = targets * (1 - self.label_smoothing) + self.label_smoothing / count
        loss = ops.sum(-ops.sum(smoothed * ops.log_softmax(logits), axis=-1) * valid) / total
        if self.dice_weight:
            probabilities, targets = ops.softmax(logits) * valid[..., None], targets * valid[..., None]
            common: Any
            sums: Any
            common, sums = ops.sum(probabilities * targets, (0, 1, 2)), ops.sum(probabilities + targets, (0, 1, 2))
            dice: Any = ops.mean((2 * common + 1e-6) / (sums + 1e-6))
            loss = loss + self.dice_weight * (1 - dice)
        return loss

    def get_config(self):
        return {"dice_weight": self.dice_weight, "label_smoothing": self.label_smoothing, "name": self.name}


@register
class PixelAccuracy(keras.metrics.Mean):
    """Part of the pixels that are right, without those that are ignored."""

    def __init__(self, name: str = "pixel_accuracy", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = ops.cast(y_true, "int32")
        valid = ops.cast(ops.not_equal(labels, IGNORE_INDEX), "float32")
        right = ops.cast(ops.equal(labels, ops.cast(ops.argmax(y_pred, axis=-1), "int32")), "float32")
        return super().update_state(right, sample_weight=valid)
