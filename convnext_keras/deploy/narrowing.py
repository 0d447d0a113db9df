"""A model whose weights and products are bfloat16, before it is written: for devices that compute in it."""

from typing import Any

import keras
from keras import ops

from convnext_keras.features import functional, inner_layers, rebuilt
from convnext_keras.names import HEAD, TEXT_HEAD, read

# What stays float32, as in a model of `dtype="mixed_bfloat16"`: pixels, the head, and the layers of the user's.
IN_FLOAT32 = {"prestem_normalization", "channels_first", *HEAD, *TEXT_HEAD}


def in_bfloat16(model: keras.Model) -> keras.Model:
    """A copy of a model with weights of half the size, but for the head's, and outputs in float32."""
    narrow = _copied(model)
    pairs = ([layer for layer in inner_layers(part) if layer.weights] for part in (narrow, model))
    for new, old in zip(*pairs, strict=True):
        new.set_weights(old.get_weights())
    outputs = keras.tree.map_structure(lambda output: ops.cast(output, "float32"), narrow.output)
    return keras.Model(narrow.inputs, outputs, name=model.name)


def _copied(model: keras.Model) -> keras.Model:
    def made(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _copied(functional(layer))
        _, name = read(layer.name) or ("", None)
        narrow = {"dtype": "bfloat16"} if name and name.role not in IN_FLOAT32 else {}
        return type(layer).from_config({**layer.get_config(), **narrow})

    def called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return layer(*args, **kwargs)

    return rebuilt(functional(model), made, called)
