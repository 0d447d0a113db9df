"""Targets of an explanation: a class of a classifier, or a text of a ConvNeXt-CLIP."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.clip import CLIP
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.inference import l2_normalize
from convnext_keras.model import get_pretrained_info, get_problem_type
from convnext_keras.problem_types import to_scores
from convnext_keras.surgery import clone_graph, to_functional

# What all texts share (https://arxiv.org/abs/2304.05653v2) is taken out of the one asked for.
NEUTRAL_PROMPTS = ("", "a picture")


class TextTarget:
    """Text target of a ConvNeXt-CLIP: the cosine with the text."""

    def __init__(self, model: CLIP, text: Any) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"target of a ConvNeXt-CLIP must be a text. Received: target={text!r}")
        self.model, self.transform, self.text = model.image_encoder, model.transform, text
        (self.vector, *neutral) = model.encode_text([text, *NEUTRAL_PROMPTS])
        self.direction = self.vector - np.mean(neutral, axis=0)

    def adapt_head(self, after: keras.Model) -> keras.Model:
        """Returns the second part of the model, whose outputs `scores` takes."""
        return after

    def resolve_targets(self, outputs: np.ndarray) -> np.ndarray:
        """Returns the target class index of each row."""
        return np.zeros(len(outputs), int)

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns the target score of each row."""
        return l2_normalize(outputs) @ self.vector

    def score_tensor(self, outputs: Any, targets: np.ndarray) -> Any:
        """Returns `scores` as tensors, for gradients."""
        unit_outputs: Any = ops.normalize(outputs, axis=-1)
        return ops.sum(unit_outputs * ops.convert_to_tensor(self.direction), axis=-1)

    def format_results(self, outputs: np.ndarray, targets: np.ndarray) -> list[tuple[str, float]]:
        """Returns display names and scores."""
        return [(self.text, float(cosine)) for cosine in self.scores(outputs, targets)]


class ClassTarget:
    """Class target of a classifier: the logit of the class."""

    def __init__(self, model: keras.Model, target: Any) -> None:
        self.model, self.transform = model, get_transform(model)
        if len(to_functional(model).output_shape) != 2:
            raise ValueError(f"{model.name!r} has no classes. Give a classifier or a ConvNeXt-CLIP.")
        known = get_pretrained_info(model)
        named: Sequence[tuple[str, str]] = (known and known.class_names) or ()
        count = self.model.output_shape[-1]
        self.names = [name for _, name in named] if len(named) == count else [str(number) for number in range(count)]
        self.target = None if target is None else self._resolve_class_index(target, named, count)

    def adapt_head(self, after: keras.Model) -> keras.Model:
        """Returns the second part of the model, whose outputs `scores` takes."""
        return remove_activation(after)

    def _resolve_class_index(self, target: Any, named: Sequence[tuple[str, str]], count: int) -> int:
        for column in (self.names, [identifier for identifier, _ in named]):
            if target in column:
                return column.index(target)
        number = int(target) if isinstance(target, str) and target.isdecimal() else target
        if isinstance(number, int | np.integer) and not isinstance(number, bool) and 0 <= number < count:
            return int(number)
        raise ValueError(f"target must be a class: a name, or 0 to {count - 1}. Received: target={target!r}")

    def resolve_targets(self, outputs: np.ndarray) -> np.ndarray:
        """Returns the target class index of each row."""
        return outputs.argmax(axis=1) if self.target is None else np.full(len(outputs), self.target)

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns the target score of each row."""
        return np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0]

    def score_tensor(self, outputs: Any, targets: np.ndarray) -> Any:
        """Returns `scores` as tensors, for gradients."""
        one_hot = np.eye(outputs.shape[-1], dtype="float32")[targets]
        return ops.sum(outputs * ops.convert_to_tensor(one_hot), axis=1)

    def format_results(self, outputs: np.ndarray, targets: np.ndarray) -> list[tuple[str, float]]:
        """Returns display names and scores."""
        rows = zip(to_scores(outputs, get_problem_type(self.model)), targets, strict=True)
        return [(self.names[target], float(row[target])) for row, target in rows]


def remove_activation(model: keras.Model) -> keras.Model:
    """Returns the model with its last dense layer's outputs before the activation; it shares the other layers."""
    last: Any = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is keras.activations.linear:
        return model
    linear = type(last).from_config({**last.get_config(), "activation": "linear"})
    whole = clone_graph(
        model, lambda layer: linear if layer is last else layer, lambda layer, *args, **kwargs: layer(*args, **kwargs)
    )
    linear.set_weights(last.get_weights())
    return whole


def get_transform(model: keras.Model) -> ImageTransform:
    """Returns the transform of a model; of one without, to its size."""
    if isinstance(model, CLIP):
        return model.transform
    known, shape = get_pretrained_info(model), model.input_shape
    if known and known.transform:
        return known.transform
    return ImageTransform(shape[1] if shape[1] == shape[2] and shape[1] else 224)
