"""Which tensor of a file belongs to which variable of a model: the names of `layouts` at work.

Apart from `layouts`, which is tables and nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from convnext_keras.layouts import LAYOUTS, PLACE, Layout

# The two variable names of PyTorch's modules, for each of Keras'.
TORCH_VARIABLE = dict.fromkeys(("kernel", "gamma", "scale", "embeddings"), "weight")

# What Keras stores beside the weights of a model that was trained.
KERAS_DROPPED = {
    r"optimizer/.*": "state of the optimizer",
    r".*seed_generator/.*": "state of the random generator of stochastic depth",
}

Shape = tuple[int, ...]


def keras_legacy_key(name: str, prefix: str) -> str:
    """The key of a tensor named `layer/.../inner_layer/variable` or `...:0`, as Keras 2 and 3 write `.h5` files.

    Args:
        name: the tensor's name in the file.
        prefix: what stands before the names of all layers but one, the model's name and `_`.
    """
    *_, layer, variable = name.removesuffix(":0").split("/")
    if re.fullmatch(r"layer_normalization(_\d+)?", layer):
        layer = f"{prefix}head_layernorm"  # Keras leaves this one unnamed in models without a top.
    if layer.endswith("_layer_scale") and re.fullmatch(r"[Vv]ariable(_\d+)?", variable):
        variable = "gamma"
    return f"{layer.removeprefix(prefix)}/{variable}"


def keras_legacy_names(names: Iterable[str]) -> dict[str, str]:
    """Key to name for the tensors of a Keras `.h5` file; a name that no key has stands for itself."""
    names = list(names)
    stem = re.compile(r"(?:^|/)([^/]*?)stem_conv(?:_1)?/kernel(?::0)?$")
    prefix = next((found[1] for name in names if (found := stem.search(name))), "")
    return {keras_legacy_key(name, prefix): name for name in names}


def keras_path(path: str) -> str:
    """A path in a `.weights.h5` file, which counts layers by class, with the classes that Keras' own ConvNeXt has."""
    return path.replace("depthwise_convolution", "conv2d").replace("fused_dense", "dense")


def torch_names(
    layout: Layout, shapes: Mapping[str, Shape], files: Mapping[str, Shape], outer: str, prefix: str
) -> dict[str, str]:
    """Key to name for the tensors of a PyTorch publisher's file.

    Args:
        layout: the publisher's table.
        shapes: the shape of the variable of each key wanted.
        files: the shape of each tensor in the file.
        outer: what stands before all names.
        prefix: one of the layout's, which follows it.
    """
    available = dict(files)
    found = {}
    for key, shape in shapes.items():
        rows = _candidates(layout, key)
        names = [outer + (row[1:] if row.startswith("/") else prefix + row) for row in rows]
        present = [name for name in names if name in available]
        # A stem's norm and its last convolution may share a name's number: the one that fits is meant.
        fitting = [name for name in present if available[name] in torch_shapes(key, shape)] or present
        if fitting:
            found[key] = fitting[0]
            del available[fitting[0]]
    return found


def _candidates(layout: Layout, key: str) -> list[str]:
    layer, variable = key.split("/")
    place = re.match(PLACE, layer)
    numbers = dict.fromkeys(("stage", "block", "gap", "text_block"), "0") | (place.groupdict("0") if place else {})
    role = (place and place["kind"]) or re.sub(PLACE, "", layer)
    fields: dict[str, str | int] = {
        **numbers,
        "next": int(numbers["gap"]) + 1,
        "odd": 2 * int(numbers["stage"]) + 1,
        "even": 2 * int(numbers["gap"]) + 2,
        "keras": variable,
        "variable": TORCH_VARIABLE.get(variable, "bias"),
    }
    return [name.format(**fields) for name in layout.rows.get(role, ())]


def torch_shapes(key: str, shape: Shape) -> tuple[Shape, ...]:
    """The shapes in which PyTorch's publishers store the variable of a key, of this Keras shape.

    Kernels have their output channels first there; everything else has its axes in the same order.

    Example:
        >>> torch_shapes("stage_0_block_0_pointwise_conv_1/kernel", (96, 384))
        ((384, 96), (384, 96, 1, 1))
    """
    if key.endswith("/kernel"):
        *window, channels_in, channels_out = shape or (0, 0)  # () stands for a kernel that the model does not have.
        return ((channels_out, channels_in, *window), (channels_out, channels_in, *(window or (1, 1))))
    return (shape, (1, 1, 1, *shape), (*shape, 1, 1)) if shape else (shape, (1,))


def from_torch(key: str, array: np.ndarray, shape: Shape) -> np.ndarray:
    """An array of one of `torch_shapes(key, shape)` in Keras' order of axes, of that shape."""
    if not key.endswith("/kernel"):
        return array.reshape(shape)
    if len(shape) == 4:
        return array.transpose(2, 3, 1, 0)
    return array.reshape(shape[::-1]).T


class Match(NamedTuple):
    """How a file fits a model.

    Attributes:
        layout: its name, None if the file's names are of no known layout.
        sources: for each key that the file has, the tensor's name.
        surplus: names that are no key's and are not dropped.
        torch: whether arrays are laid out as PyTorch does.
    """

    layout: str | None
    sources: Mapping[str, str]
    surplus: list[str]
    torch: bool = False


def match(format: str, files: Mapping[str, Shape], shapes: Mapping[str, Shape], paths: Mapping[str, str]) -> Match:
    """Finds each variable's tensor in a file.

    Args:
        format: of the file, as its reader names it.
        files: the shape of each tensor in the file, by name.
        shapes: the shape of each variable of the model, by key.
        paths: the path of each variable in a `.weights.h5` file, by key.
    """
    if format == "h5":
        keys = keras_legacy_names(files)
        return _match("Keras .h5", {key: keys[key] for key in shapes if key in keys}, files)
    if format == "weights.h5":
        plain = {keras_path(name): name for name in files}
        wanted = {key: keras_path(path) for key, path in paths.items()}
        return _match("Keras .weights.h5", {key: plain[path] for key, path in wanted.items() if path in plain}, files)
    if any(re.fullmatch(r"stem_conv(_1)?/kernel", name) for name in files):
        return _match("convnext_keras", {key: key for key in shapes if key in files}, files)
    fits = [
        _match(name, torch_names(layout, shapes, files, outer, inner), files, layout.dropped, torch=True)
        for name, layout in LAYOUTS.items()
        for inner in layout.prefixes
        for outer in ("", "module.")
    ]
    best = max(fits, key=lambda fit: (len(fit.sources), -len(fit.surplus)))
    known = 2 * len(best.sources) > min(len(shapes), len(files))
    return best if known else Match(None, {}, list(files))


def _match(layout: str, sources: Mapping[str, str], files: Iterable[str], dropped=KERAS_DROPPED, torch=False) -> Match:
    used = set(sources.values())
    pattern = re.compile("|".join([r"(?!)", *dropped]))
    surplus = [name for name in files if name not in used and not pattern.fullmatch(name.removeprefix("module."))]
    return Match(layout, sources, surplus, torch)
