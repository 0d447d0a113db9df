"""Models for inference only: what is linear next to a dense layer becomes part of its kernel."""

from typing import Any

import keras
import numpy as np
from keras import layers

from convnext_keras.features import functional, inner_layers, merge_lora, rebuilt
from convnext_keras.layers import FusedDense, LayerNormalization, LayerScale
from convnext_keras.names import BLOCK, LayerName, read
from convnext_keras.provenance import ModelWithProvenance

# The layers of one block by their roles, for each block.
Blocks = dict[tuple[str, int, int], dict[str, keras.Layer]]


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
    model = merge_lora(model)
    blocks = _blocks(model)
    if not blocks:
        raise ValueError(f"{model.name!r} has no ConvNeXt blocks to fold. Give a model of this library.")
    folded = _without_scales(functional(model))
    originals = {layer.name: layer for layer in inner_layers(model)}
    for layer in (layer for layer in inner_layers(folded) if layer.weights):
        place, role = _place(layer)
        block = blocks.get(place, {})
        if role in FOLDED and isinstance(originals[layer.name], FusedDense):
            layer.set_weights(FOLDED[role](block))
        else:
            layer.set_weights(originals[layer.name].get_weights())
    if isinstance(model, ModelWithProvenance) and isinstance(folded, ModelWithProvenance):
        folded.provenance = model.provenance
    return folded


def _place(layer: keras.Layer) -> tuple[tuple[str, int, int], str]:
    """The block that a layer is in, by its prefix, stage and number, and its role."""
    prefix, name = read(layer.name) or ("", LayerName(layer.name, is_foreign=True))
    return (prefix, name.stage, name.block), name.role


def _blocks(model: keras.Model) -> Blocks:
    blocks: Blocks = {}
    for layer in inner_layers(model):
        place, role = _place(layer)
        if role in BLOCK:
            blocks.setdefault(place, {})[role] = layer
    return blocks


def _without_scales(model: keras.Model) -> keras.Model:
    """The same graph with new layers, without what `fold_for_inference` leaves out."""

    def made(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model) and _blocks(layer):
            return _without_scales(functional(layer))
        config = layer.get_config()
        if _place(layer)[1] == "layernorm" and isinstance(layer, LayerNormalization):
            config |= {"scale": False, "center": False}
        return type(layer).from_config(config)

    def called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if _does_nothing(layer) else layer(*args, **kwargs)

    return rebuilt(model, made, called)


def _does_nothing(layer: keras.Layer) -> bool:
    """Whether inference gives what goes in, or does so once the layer is folded."""
    linear = isinstance(layer, layers.Activation) and layer.activation is keras.activations.linear
    return linear or isinstance(layer, layers.Dropout | LayerScale)


def _with_norm(block: dict[str, keras.Layer]) -> list[np.ndarray]:
    """Kernel and bias of a block's first dense layer, with the factors and offsets of the norm before it."""
    kernel, bias = block["pointwise_conv_1"].get_weights()
    if not isinstance(block["layernorm"], LayerNormalization) or not block["layernorm"].weights:
        return [kernel, bias]
    gamma, beta = block["layernorm"].get_weights()
    return [gamma[:, None] * kernel, bias + beta @ kernel]


def _with_scale(block: dict[str, keras.Layer]) -> list[np.ndarray]:
    """Kernel and bias of a block's second dense layer, with the layer scale behind it."""
    kernel, bias = block["pointwise_conv_2"].get_weights()
    gamma = block["layer_scale"].get_weights()[0] if "layer_scale" in block else 1
    return [kernel * gamma, bias * gamma]


FOLDED = {"pointwise_conv_1": _with_norm, "pointwise_conv_2": _with_scale}
