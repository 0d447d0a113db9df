"""Low-rank updates of dense layers in place of their kernels."""

import keras

from convnext_keras.model import output_layer
from convnext_keras.surgery import flatten_layers, to_functional


def enable_lora(model: keras.Model, rank: int, alpha: float | None = None) -> keras.Model:
    """Lets only low-rank updates of the dense layers learn, and the classifier, if there is one.

    "LoRA" (https://arxiv.org/abs/2106.09685v2), by `keras.layers.Dense.enable_lora`. It saves the optimizer's memory,
    not computations; `merge_lora` gives an ordinary model again.

    Args:
        model: Any functional model, such as a classifier or both towers of a ConvNeXt-CLIP; changed itself.
        rank: Rank of the updates, 1 or more.
        alpha: The updates are scaled by `alpha / rank`; None for `rank`.

    Returns:
        The model.

    Raises:
        ValueError: If the rank is not valid, the model has updates already, or no dense layers before the last.

    Example:
        >>> from convnext_keras import create_model, training
        >>> model = training.enable_lora(create_model("convnext_mini.digits"), rank=4)
        >>> sum("lora" in variable.path for variable in model.trainable_variables)
        24
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be 1 or more. Received: rank={rank!r}")
    layers = flatten_layers(to_functional(model))
    if any(getattr(layer, "lora_enabled", False) for layer in layers):
        raise ValueError(f"{model.name!r} has low-rank updates already. Merge them with merge_lora first.")
    head = output_layer(to_functional(model))
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense) and layer is not head]
    if not dense:
        raise ValueError(f"{model.name!r} has no dense layers before its last.")
    for layer in layers:
        layer.trainable = layer in dense or layer is head
    for layer in dense:
        layer.enable_lora(rank, lora_alpha=alpha)
    return model
