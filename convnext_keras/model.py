"""The class of the models, which know where their weights come from."""

from typing import Any

import keras
import numpy as np

from convnext_keras import backend
from convnext_keras.layers import register
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.problem_types import CLASSIFIER_ACTIVATIONS, MULTI_LABEL, SINGLE_LABEL

DEFAULT_BATCH_SIZE = 32  # of Keras' `predict`, if none is given


@register
class ConvNeXtModel(keras.Model):
    """Functional model that stores the origin of its weights in its config.

    Its `predict` is Keras', by the backend's quickest way.

    Attributes:
        pretrained_info: None if the weights are random.

    Example:
        >>> from convnext_keras import create_model
        >>> create_model("convnext_mini.digits").pretrained_info.license
        'apache-2.0'
    """

    pretrained_info: PretrainedInfo | None = None

    def predict_step(self, *arguments: Any) -> Any:
        """Returns outputs of a batch, which is the last argument; JAX has the model's state before it."""
        if backend.predict_batch is None:
            return super().predict_step(*arguments)
        return backend.predict_batch(self, keras.utils.unpack_x_y_sample_weight(arguments[-1])[0])

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Predicts like `keras.Model.predict`, without its overhead for a single batch."""
        rows = len(x) if isinstance(x, np.ndarray) and x.ndim else 0
        is_one_batch = 0 < rows <= (batch_size or DEFAULT_BATCH_SIZE)
        if is_one_batch and verbose == 0 and steps is callbacks is None and backend.has_predict_overhead(self):
            return self.predict_on_batch(x.astype(keras.config.floatx()) if x.dtype.kind == "f" else x)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's configuration and the pretrained_info."""
        return {**super().get_config(), "pretrained_info": self.pretrained_info and self.pretrained_info.to_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> keras.Model:
        """Returns the reverse of `get_config`."""
        pretrained_info = config.get("pretrained_info")
        functional = {key: value for key, value in config.items() if key != "pretrained_info"}
        model = super().from_config(functional, custom_objects)
        model.pretrained_info = pretrained_info and PretrainedInfo.from_config(pretrained_info)
        return model


def get_pretrained_info(model: keras.Model) -> PretrainedInfo | None:
    """Returns the origin of a model's weights, or, without classes, of the backbone among its layers."""
    if isinstance(model, ConvNeXtModel):
        return model.pretrained_info
    inner = (layer.pretrained_info for layer in model.layers if isinstance(layer, ConvNeXtModel))
    return next((pretrained_info.without_classes() for pretrained_info in inner if pretrained_info), None)


def output_layer(model: keras.Model) -> keras.Layer:
    """Returns the layer that gives the outputs, inside of nested models too."""
    layer = model.layers[-1]
    return output_layer(layer) if isinstance(layer, keras.Model) else layer


def has_activation(model: keras.Model) -> bool:
    """Returns whether the outputs of a classifier are probabilities, by softmax or sigmoid."""
    activation = getattr(output_layer(model), "activation", None)
    return activation in [keras.activations.get(word) for word in CLASSIFIER_ACTIVATIONS]


def get_problem_type(model: keras.Model) -> str:
    """Returns the problem type of a classifier, a key of `PROBLEM_TYPES`.

    A softmax means one label per image, a sigmoid several. Without activation, it is the one that the model stores, or
    one label.

    Example:
        >>> from convnext_keras import create_model
        >>> get_problem_type(create_model("convnext_mini.digits"))
        'single_label_classification'
    """
    if has_activation(model):
        layer: Any = output_layer(model)
        return MULTI_LABEL if layer.activation is keras.activations.sigmoid else SINGLE_LABEL
    known = get_pretrained_info(model)
    return (known and known.problem_type) or SINGLE_LABEL


# Whole-model .h5 files name the class without its package.
keras.saving.get_custom_objects()[ConvNeXtModel.__name__] = ConvNeXtModel
