"""What each format calls the tensors of a model, and how it orders their axes."""

from collections.abc import Mapping

import numpy as np

from convnext_keras.checkpoints.layouts import LAYOUTS
from convnext_keras.checkpoints.matching import Key, names_of
from convnext_keras.checkpoints.saving import Tensor
from convnext_keras.hub import timm
from convnext_keras.hub.descriptions import Description
from convnext_keras.hub.writing import timm_arguments
from convnext_keras.variants import Variant

Tensors = Mapping[Key, Tensor]
# timm numbers the parts of a stem: its norm and its second convolution stand behind an activation, if there is one.
STEM_NORM = {"patch": "stem.1", "overlap": "stem.2", "overlap_gelu": "stem.3"}


def torch_tensors(layout: str, prefix: str, description: Description, tensors: Tensors) -> dict[str, Tensor]:
    """Tensors by a publisher's names, in PyTorch's order of axes."""
    by_timm, variant, named = layout != "transformers", description.variant, {}
    conv_mlp = by_timm and has_conv_mlp(variant)
    for key, tensor in tensors.items():
        names = names_of(LAYOUTS[layout], key)
        name = names[by_timm and is_second_name(key.layer.role, description)]
        if by_timm and key.layer.role == "stem_layernorm":
            name = f"{STEM_NORM[variant.stem]}.{name.rpartition('.')[2]}"
        as_convolution = (conv_mlp and key.layer.role.startswith("pointwise")) or _is_unpooled(layout, key, variant)
        name = name[1:] if name.startswith("/") else prefix + name
        named[name] = in_torch_order(key, tensor, as_convolution, four_axes=not by_timm)
    return named


def is_second_name(role: str, description: Description) -> bool:
    """Whether timm or OpenCLIP calls a layer by the second of its names in the table."""
    variant, clip = description.variant, description.clip
    seconds = {
        "stem_conv_2": variant.stem == "overlap_gelu",
        "head_layernorm": variant.head_norm_first,
        "projection": clip is not None and clip.projection_hidden is not None,
    }
    return seconds.get(role, False)


def has_conv_mlp(variant: Variant) -> bool:
    """Whether timm's model of a variant, as `timm_arguments` asks for it, has convolutions for dense layers."""
    name, _ = timm_arguments(variant)
    return name in timm.CONV_MLP or variant.norm != "layer"  # which timm wants beside its other norms


def _is_unpooled(layout: str, key: Key, variant: Variant) -> bool:
    """Whether timm's classifier is a convolution, since it is applied to every position."""
    dense = key.layer.role in ("head_dense", "head_hidden") and key.variable == "kernel"
    return layout == "timm" and dense and (variant.head_pooling == "none")


def in_torch_order(key: Key, tensor: Tensor, as_convolution: bool, four_axes: bool) -> Tensor:
    """A tensor with output channels first, if it is a kernel."""
    shape, values = tensor.shape, tensor.values
    if key.variable != "kernel":
        shape = (1, 1, 1, *shape) if four_axes and key.layer.role == "grn" else shape
        return Tensor(shape, tensor.dtype, lambda: values().reshape(shape))
    if len(shape) == 4:
        return Tensor((shape[3], shape[2], *shape[:2]), tensor.dtype, lambda: values().transpose(3, 2, 0, 1))
    turned = (*shape[::-1], 1, 1) if as_convolution else shape[::-1]
    return Tensor(turned, tensor.dtype, lambda: np.reshape(values().T, turned))


def timm_tensors(description: Description, tensors: Tensors) -> dict[str, Tensor]:
    """Timm's names."""
    return torch_tensors("timm", "", description, tensors)


def transformers_tensors(description: Description, tensors: Tensors) -> dict[str, Tensor]:
    """Transformers' names."""
    prefix = "convnextv2." if description.variant.response_norm else "convnext."
    return torch_tensors("transformers", prefix if description.classes else "", description, tensors)


def open_clip_tensors(description: Description, tensors: Tensors) -> dict[str, Tensor]:
    """OpenCLIP's names."""
    return torch_tensors("OpenCLIP", "visual.trunk.", description, tensors)


def own_tensors(description: Description, tensors: Tensors) -> dict[str, Tensor]:
    """The library's names."""
    return {str(key): tensor for key, tensor in tensors.items()}
