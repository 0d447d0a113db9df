"""Copies of models with changed layers."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.layer_names import BLOCK_ROLES, HEAD_ROLES, TEXT_HEAD_ROLES, LayerName, parse_layer_name
from convnext_keras.layers import FusedDense, LayerNormalization, LayerScale, is_noop
from convnext_keras.model import ConvNeXtModel


def to_functional(model: keras.Model) -> keras.Model:
    """Returns the model itself, or a functional one with the layers of a `Sequential`.

    Raises:
        ValueError: If it is not built yet.
    """
    if not isinstance(model, keras.Sequential):
        return model
    if not model.built:
        raise ValueError(
            f"{model.name!r} has no input shape yet. Call it once on pixels, or start it with keras.Input."
        )
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def clone_graph(
    model: keras.Model, make: Callable[[keras.Layer], keras.Layer], call: Callable[..., Any]
) -> keras.Model:
    """Returns the graph of a functional model once more, from new inputs.

    Args:
        model: The model.
        make: Gives the layer that takes a layer's place, which may be the same.
        call: Is given that layer and the layer's arguments, and returns the outputs.
    """
    return keras.models.clone_model(model, clone_function=make, call_function=call)


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers of a model and of the models in it, without these models themselves."""
    nested = ([*flatten_layers(layer)] if isinstance(layer, keras.Model) else [layer] for layer in model.layers)
    return [layer for layers in nested for layer in layers]


def merge_lora(model: keras.Model) -> keras.Model:
    """Returns a copy of a model in which low-rank updates (https://arxiv.org/abs/2106.09685v2) are part of the kernels.

    Args:
        model: Any functional model, with layers on which `enable_lora` was called; the model itself if there are none.

    Returns:
        A model with the same outputs and the weights that it had before `enable_lora`, which can be folded, averaged,
        exported and saved as any other.

    Example:
        >>> from convnext_keras import create_model, training
        >>> model = create_model("convnext_mini.digits")
        >>> _ = training.enable_lora(model, rank=4)
        >>> len(training.merge_lora(model).weights) < len(model.weights)
        True
    """
    if not any(getattr(layer, "lora_enabled", False) for layer in flatten_layers(model)):
        return model
    merged = _without_lora(to_functional(model))
    pairs = ([layer for layer in flatten_layers(part) if layer.weights] for part in (merged, model))
    for new, old in zip(*pairs, strict=True):
        values = {variable.name: variable for variable in old.weights}
        if getattr(old, "lora_enabled", False):  # These properties have the update added.
            values |= {name: getattr(old, name) for name in ("kernel", "embeddings") if name in values}
        new.set_weights([keras.ops.convert_to_numpy(values[variable.name]) for variable in new.weights])
    if isinstance(model, ConvNeXtModel) and isinstance(merged, ConvNeXtModel):
        merged.pretrained_info = model.pretrained_info
    return merged


def _without_lora(model: keras.Model) -> keras.Model:
    def made(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _without_lora(to_functional(layer))
        config = {key: value for key, value in layer.get_config().items() if not key.startswith("lora_")}
        return type(layer).from_config(config)

    return clone_graph(model, made, lambda layer, *args, **kwargs: layer(*args, **kwargs))


def require_deterministic(model: keras.Model) -> None:
    """Raises ValueError if a model has random layers, which computed once more would give something else."""
    if names := [weight.path for weight in model.non_trainable_variables if "seed_generator" in weight.path]:
        raise ValueError(
            f"{model.name!r} has random layers, such as {names[0].split('/')[0]}, which cannot be computed twice. "
            "Build it with drop_path_rate=0."
        )


def average_weights(models: Sequence[keras.Model], weights: Sequence[float] | None = None) -> keras.Model:
    """Returns a new model whose weights are the mean of others', a soup (https://arxiv.org/abs/2203.05482v3).

    Args:
        models: Models of one architecture, tuned from the same weights; low-rank updates are merged first.
        weights: Weights of the mean, which sum to 1; None for equal ones.

    Raises:
        ValueError: If the models differ in their sizes, or the weights are not valid.

    Example:
        >>> from convnext_keras import create_model
        >>> models = [create_model("convnext_mini.digits") for _ in range(3)]
        >>> average_weights(models).output_shape
        (None, 10)
    """
    models = [merge_lora(model) for model in models]
    parts = [1 / len(models)] * len(models) if weights is None and models else [*(weights or [])]
    if not models or len(parts) != len(models) or abs(sum(parts) - 1) > 1e-6:
        raise ValueError(f"There must be models, and as many weights that sum to 1. Received: {len(models)}, {parts}")
    rows: list[list[Any]] = [[keras.ops.convert_to_numpy(variable) for variable in model.weights] for model in models]
    for model, row in zip(models, rows, strict=True):
        if [value.shape for value in row] != [value.shape for value in rows[0]]:
            raise ValueError(f"{models[0].name!r} and {model.name!r} must be of the same variant.")
    mean = keras.models.clone_model(models[0])
    first = models[0]
    if isinstance(first, ConvNeXtModel) and isinstance(mean, ConvNeXtModel):
        mean.pretrained_info = first.pretrained_info
    mean.set_weights([_mean(values, parts) for values in zip(*rows, strict=True)])
    return mean


def _mean(values: Sequence[np.ndarray], parts: Sequence[float]) -> np.ndarray:
    """Returns the weighted mean, exact where one has all of the weight; of whole numbers, which count, the first."""
    if values[0].dtype.kind in "iu":
        return values[0]
    chosen = [(value, part) for value, part in zip(values, parts, strict=True) if part]
    return chosen[0][0] if len(chosen) == 1 else np.sum([value * part for value, part in chosen], axis=0)


# The layers of one block by their roles, for each block.
Blocks = dict[tuple[str, int, int], dict[str, keras.Layer]]


def fold_for_inference(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with the same outputs and fewer operations, for inference.

    In each block the layer scale goes into the dense layer before it, and the factors and offsets of the layer norm
    into the dense layer after it; stochastic depth and layers that do nothing are left out. The copy is not meant for
    training, and files of weights do not fit it: load first, then fold.

    Args:
        model: A model of this library, or one built on it, in which blocks are layers of the model itself or of a
            nested one.

    Returns:
        A new model whose outputs differ by the order of float32 sums, about 1e-6 of the largest.

    Raises:
        ValueError: If there is nothing to fold.

    Example:
        >>> from convnext_keras import create_model, fold_for_inference
        >>> model = create_model("convnext_mini.digits")
        >>> len(fold_for_inference(model).layers) < len(model.layers)
        True
    """
    model = merge_lora(model)
    blocks = _group_by_block(model)
    if not blocks:
        raise ValueError(f"{model.name!r} has no ConvNeXt blocks to fold. Give a model of this library.")
    folded = _without_scales(to_functional(model))
    originals = {layer.name: layer for layer in flatten_layers(model)}
    for layer in (layer for layer in flatten_layers(folded) if layer.weights):
        key, role = _block_key(layer)
        block = blocks.get(key, {})
        if role in FOLDERS and isinstance(originals[layer.name], FusedDense):
            layer.set_weights(FOLDERS[role](block))
        else:
            layer.set_weights(originals[layer.name].get_weights())
    if isinstance(model, ConvNeXtModel) and isinstance(folded, ConvNeXtModel):
        folded.pretrained_info = model.pretrained_info
    return folded


def _block_key(layer: keras.Layer) -> tuple[tuple[str, int, int], str]:
    """Returns the block that a layer is in, by its prefix, stage and number, and its role."""
    prefix, name = parse_layer_name(layer.name) or ("", LayerName(layer.name, is_custom=True))
    return (prefix, name.stage, name.block), name.role


def _group_by_block(model: keras.Model) -> Blocks:
    blocks: Blocks = {}
    for layer in flatten_layers(model):
        key, role = _block_key(layer)
        if role in BLOCK_ROLES:
            blocks.setdefault(key, {})[role] = layer
    return blocks


def _without_scales(model: keras.Model) -> keras.Model:
    """Returns the same graph with new layers, without what `fold_for_inference` leaves out."""

    def made(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model) and _group_by_block(layer):
            return _without_scales(to_functional(layer))
        config = layer.get_config()
        if _block_key(layer)[1] == "layernorm" and isinstance(layer, LayerNormalization):
            config |= {"scale": False, "center": False}
        return type(layer).from_config(config)

    def called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if isinstance(layer, LayerScale) or is_noop(layer) else layer(*args, **kwargs)

    return clone_graph(model, made, called)


def _fold_norm(block: dict[str, keras.Layer]) -> list[np.ndarray]:
    """Returns kernel and bias of a block's first dense layer, multiplied by the norm before it."""
    kernel, bias = block["pointwise_conv_1"].get_weights()
    if not isinstance(block["layernorm"], LayerNormalization) or not block["layernorm"].weights:
        return [kernel, bias]
    gamma, beta = block["layernorm"].get_weights()
    return [gamma[:, None] * kernel, bias + beta @ kernel]


def _fold_layer_scale(block: dict[str, keras.Layer]) -> list[np.ndarray]:
    """Returns kernel and bias of a block's second dense layer, multiplied by the layer scale after it."""
    kernel, bias = block["pointwise_conv_2"].get_weights()
    gamma = block["layer_scale"].get_weights()[0] if "layer_scale" in block else 1
    return [kernel * gamma, bias * gamma]


FOLDERS = {"pointwise_conv_1": _fold_norm, "pointwise_conv_2": _fold_layer_scale}


# What stays float32, as in a model of `dtype="mixed_bfloat16"`: pixels, the head, and the layers of the user's.
FLOAT32_ROLES = {"prestem_normalization", "channels_first", *HEAD_ROLES, *TEXT_HEAD_ROLES}


def cast_to_bfloat16(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with weights of half the size, but for the head's, and outputs in float32."""
    narrow = _cast_layers(model)
    pairs = ([layer for layer in flatten_layers(part) if layer.weights] for part in (narrow, model))
    for new, old in zip(*pairs, strict=True):
        new.set_weights(old.get_weights())
    outputs = keras.tree.map_structure(lambda output: ops.cast(output, "float32"), narrow.output)
    return keras.Model(narrow.inputs, outputs, name=model.name)


def _cast_layers(model: keras.Model) -> keras.Model:
    def made(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _cast_layers(to_functional(layer))
        _, name = parse_layer_name(layer.name) or ("", None)
        narrow = {"dtype": "bfloat16"} if name and name.role not in FLOAT32_ROLES else {}
        return type(layer).from_config({**layer.get_config(), **narrow})

    def called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return layer(*args, **kwargs)

    return clone_graph(to_functional(model), made, called)
