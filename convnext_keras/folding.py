"""Models for inference only: what is linear next to a dense layer becomes part of its kernel.

Apart from `models`, which builds models from names: this module rebuilds one that exists.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

from convnext_keras.layers import FusedDense, LayerNormalization, LayerScale

# One block's names, as `convnext.convnext_block` gives them.
NORM, FIRST, SECOND, SCALE = "_layernorm", "_pointwise_conv_1", "_pointwise_conv_2", "_layer_scale"


def fold_for_inference(model: keras.Model) -> keras.Model:
    """A copy of a model with the same outputs and fewer operations, for inference.

    In each block the layer scale goes into the dense layer before it, and the factors and offsets of the layer norm
    into the dense layer after it; stochastic depth and layers that do nothing are left out. The copy is not meant for
    training, and files of weights do not fit it: load first, then fold.

    Args:
        model: a model of this library, or one built on it, in which blocks are layers of the model itself or of a
            nested one.

    Returns:
        A new model whose outputs differ by the order of float32 sums, about 1e-6 of the largest.

    Raises:
        ValueError: if there is nothing to fold.

    Example:
        >>> from convnext_keras import create_model, fold_for_inference
        >>> model = create_model("convnext_mini.digits")
        >>> len(fold_for_inference(model).layers) < len(model.layers)
        True
    """
    if not _blocks(model):
        raise ValueError(f"{model.name!r} has no ConvNeXt blocks to fold. Give a model of this library.")
    folded = _without_scales(model)
    blocks = _blocks(model)
    originals = {layer.name: layer for layer in _inner(model)}
    for layer in (layer for layer in _inner(folded) if layer.weights):
        original = originals[layer.name]
        block = next((layer.name.removesuffix(end) for end in (FIRST, SECOND) if layer.name.endswith(end)), None)
        if block in blocks and isinstance(original, FusedDense):
            layer.set_weights(_folded_dense(original, originals[block + NORM], originals.get(block + SCALE)))
        else:
            layer.set_weights(original.get_weights())
    folded.provenance = getattr(model, "provenance", None)
    return folded


def _blocks(model: keras.Model) -> set[str]:
    return {layer.name.removesuffix(FIRST) for layer in _inner(model) if layer.name.endswith(FIRST)}


def _without_scales(model: keras.Model) -> keras.Model:
    """The same graph with new layers, without what `fold_for_inference` leaves out."""
    norms = {block + NORM for block in _blocks(model)}

    def cloned(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model) and _blocks(layer):
            return _without_scales(layer)
        config = layer.get_config()
        if layer.name in norms and isinstance(layer, LayerNormalization):
            config |= {"scale": False, "center": False}
        return type(layer).from_config(config)

    def called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if _does_nothing(layer) else layer(*args, **kwargs)

    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.models.clone_model(model, clone_function=cloned, call_function=called)


def _inner(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model and of the models in it, without these models themselves."""
    found = []
    for layer in model.layers:
        found += _inner(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _does_nothing(layer: keras.Layer) -> bool:
    """Whether inference gives what goes in, or does so once the layer is folded."""
    linear = isinstance(layer, layers.Activation) and layer.activation is keras.activations.linear
    return linear or isinstance(layer, layers.Dropout | LayerScale)


def _folded_dense(dense: FusedDense, norm: keras.Layer, scale: LayerScale | None) -> list[np.ndarray]:
    """Kernel and bias of a block's dense layer, with the norm before it or the scale after it."""
    kernel, bias = dense.get_weights()
    if dense.name.endswith(FIRST) and isinstance(norm, LayerNormalization):
        gamma, beta = norm.get_weights()
        return [gamma[:, None] * kernel, bias + beta @ kernel]
    if dense.name.endswith(SECOND) and scale is not None:
        (gamma,) = scale.get_weights()
        return [kernel * gamma, bias * gamma]
    return [kernel, bias]
