"""Zero-shot classification: the class embedding of a label is the mean of the embeddings of its prompts."""

import collections
import dataclasses
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from keras import layers, ops

from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.clip.model import CLIP
from convnext_keras.inference import l2_normalize, softmax
from convnext_keras.layers import register
from convnext_keras.model import ConvNeXtModel
from convnext_keras.pretrained_info import PretrainedInfo

DATA = Path(__file__).parent / "data"
TEMPLATE_FILES = {80: "imagenet_templates.txt", 7: "imagenet_templates_short.txt"}
LABEL_PLACEHOLDER = "{}"  # the place of the label in a template
DEFAULT_TEMPLATE = "a photo of a {}."


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Returns names of the 1,000 classes of ImageNet-1k as OpenAI's prompts call them, in the order of the classes.

    Two names occur twice ("missile" and "sunglasses"), so go by position.

    Example:
        >>> imagenet_classes()[0]
        'tench'
    """
    return tuple((DATA / "imagenet_classes.txt").read_text(encoding="utf-8").split("\n"))


@functools.cache
def imagenet_templates(count: int = 80) -> tuple[str, ...]:
    """Returns OpenAI's prompt templates for ImageNet.

    Args:
        count: 80 for all, 7 for the short list, which is nearly as good at a tenth of the cost.

    Raises:
        ValueError: If there is no list of that number.

    Example:
        >>> imagenet_templates(7)[0]
        'itap of a {}.'
    """
    if count not in TEMPLATE_FILES:
        raise ValueError(f"count must be one of {[*TEMPLATE_FILES]}. Received: count={count!r}")
    return tuple((DATA / TEMPLATE_FILES[count]).read_text(encoding="utf-8").split("\n"))


class Prediction(NamedTuple):
    """Predicted label of one image.

    Attributes:
        label: None if it is none of the labels.
        probability: Softmax over all labels, 0..1.
        cosine: Cosine of the angle between the image and the label's prompts, -1..1.
    """

    label: str | None
    probability: float
    cosine: float


@register
class L2Normalize(layers.Layer):
    """Divides vectors by their norms: `(N, D)` -> `(N, D)`."""

    def call(self, inputs):
        return ops.normalize(inputs, axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape


class ZeroShotClassifier:
    """Classifier of images with any text labels.

    Args:
        model: A ConvNeXt-CLIP.
        labels: Labels of the classes, one or more strings. A single label, whose probability is always 1, and equal
            labels, which share theirs, raise a warning.
        templates: One or more prompts with `{}` in the place of the label; their embeddings are averaged.
        logit_scale: Factor from cosines to logits; the checkpoint's if None.
        threshold: Cosine below which an image is none of the labels; None to always name one. 0.2 is a start for
            LAION's models; measure it on images of your own, some of which show none of the labels.
        batch_size: Maximum number of prompts at a time.

    Raises:
        ValueError: If there are no labels, an empty one, or a template without `{}`.

    Example:
        >>> from convnext_keras import clip
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> classifier = clip.ZeroShotClassifier(model, ["red", "blue"], "a {} background")
        >>> classifier.predict_proba(np.zeros((2, 64, 64, 3), "uint8")).shape
        (2, 2)
    """

    def __init__(
        self,
        model: DualEncoder,
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATE,
        logit_scale: float | None = None,
        threshold: float | None = None,
        batch_size: int = 256,
    ) -> None:
        self.model, self.labels, self.threshold = model, validate_labels(labels), threshold
        self.templates = validate_templates(templates)
        self.logit_scale = model.logit_scale if logit_scale is None else logit_scale
        self.classes = class_embeddings(
            model.encode_text(format_prompts(self.labels, self.templates), batch_size), len(self.labels)
        )

    def __repr__(self) -> str:
        labels = f"{len(self.labels)} labels" if len(self.labels) > 5 else list(self.labels)
        return f"<{type(self).__name__}: {labels}, model={self.model.name!r}>"

    def cosine_similarity(self, images: Any, batch_size: int = 32, exif_transpose: bool = False) -> np.ndarray:
        """Returns cosines `(N, labels)` of images; see `CLIP.encode_image` for the arguments."""
        return self.model.encode_image(images, batch_size, exif_transpose=exif_transpose) @ self.classes.T

    def predict_proba(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Returns the softmax `(N, labels)` of the scaled cosines; each row sums to 1."""
        return softmax(self.logit_scale * self.cosine_similarity(images, batch_size))

    def predict(
        self, images: Any, top_k: int = 5, batch_size: int = 32, exif_transpose: bool = False
    ) -> list[list[Prediction]]:
        """Returns the best labels of each image, the best first.

        Args:
            images: What `CLIP.encode_image` takes.
            top_k: Number of labels of each image.
            batch_size: Maximum number of images at a time.
            exif_transpose: See `CLIP.encode_image`.

        Returns:
            For each image a list of `Prediction`. With a threshold, an image below it has one whose label is None.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more. Received: top_k={top_k}")
        cosines = self.cosine_similarity(images, batch_size, exif_transpose)
        return [self._best(*row, top_k) for row in zip(cosines, softmax(self.logit_scale * cosines), strict=True)]

    def _best(self, cosines: np.ndarray, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        order = np.argsort(-cosines, kind="stable")[:top_k]
        best = [Prediction(self.labels[index], float(probabilities[index]), float(cosines[index])) for index in order]
        if self.threshold is not None and best[0].cosine < self.threshold:
            return [best[0]._replace(label=None)]
        return best

    def to_keras_model(self) -> ConvNeXtModel:
        """Returns a Keras model from pixels `(N, H, W, 3)` in 0..255 to probabilities `(N, labels)`.

        It shares the layers of the image tower; the labels are constants in its last layer.

        Raises:
            ValueError: If the towers are not Keras' own.
        """
        if not isinstance(self.model, CLIP):
            raise ValueError("The towers are exported already. Make the classifier of the ConvNeXt-CLIP in Keras.")
        encoder = self.model.image_encoder
        unit_vectors = L2Normalize(name="unit_vector", dtype="float32")(encoder.output)
        options = {"use_bias": False, "activation": "softmax", "dtype": "float32"}
        classes = layers.Dense(len(self.labels), name="labels", trainable=False, **options)
        model = ConvNeXtModel(encoder.input, classes(unit_vectors), name="zero_shot_classifier")
        known = self.model.pretrained_info or PretrainedInfo()
        model.pretrained_info = dataclasses.replace(known, class_names=tuple((label, label) for label in self.labels))
        classes.set_weights([self.logit_scale * self.classes.T])
        return model


def format_prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Returns each label in each template, by plain replacement; label by label."""
    return [template.replace(LABEL_PLACEHOLDER, label) for label in labels for template in templates]


def class_embeddings(prompts: np.ndarray, labels: int) -> np.ndarray:
    """Returns one unit vector per label, `(labels, D)`: the normalized mean of the embeddings of its prompts."""
    return l2_normalize(prompts.reshape(labels, -1, prompts.shape[-1]).mean(axis=1))


def validate_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Returns the labels without blanks at their ends; raises ValueError if there are none, or an empty one."""
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list of strings. Received one string: {labels!r}. Use labels=[{labels!r}].")
    labels = [label.strip() if isinstance(label, str) else label for label in labels]
    if wrong := [label for label in labels if not isinstance(label, str) or not label]:
        raise ValueError(f"Each label must be a string that is not empty. Received: {wrong[0]!r}")
    if not labels:
        raise ValueError("labels must have at least one string. Received none.")
    if len(set(labels)) < len(labels):
        repeated = [label for label, count in collections.Counter(labels).items() if count > 1]
        warnings.warn(
            f"Labels that occur more than once share their probability: {repeated}. Tell them apart in words, or go by "
            "position.",
            stacklevel=3,
        )
    if len(labels) == 1:
        warnings.warn(
            f"With the one label {labels[0]!r} every probability is 1. Look at the cosine, or add other labels.",
            stacklevel=3,
        )
    return tuple(labels)


def validate_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the templates; raises ValueError if there are none, or one has no place for the label."""
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates:
        raise ValueError("templates must have at least one string. Received none.")
    for template in templates:
        if not isinstance(template, str) or LABEL_PLACEHOLDER not in template:
            raise ValueError(
                f"A template must have {LABEL_PLACEHOLDER} in the place of the label. Received: {template!r}"
            )
    return templates
