"""Mapping of the tensors in a file to the variables of a model, by the tables in `publisher_layouts`.

Apart from `layouts`, which is tables and nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from convnext_keras.checkpoints.publisher_layouts import LAYOUTS, Layout
from convnext_keras.layer_names import LayerName, parse_layer_names

# The variable names of PyTorch's modules, for each of Keras'; all others are a bias.
TORCH_VARIABLE: dict[str, str] = {
    **dict.fromkeys(("kernel", "gamma", "scale", "embeddings"), "weight"),
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# What Keras 2 called the variable of a layer that had given it no name, as its layer scale had not.
UNNAMED = "variable"
NORM_VARIABLES = {"gamma", "beta", "scale"}

# What Keras stores beside the weights of a model that was trained.
KERAS_DROPPED = {
    r"optimizer/.*": "state of the optimizer",
    r".*seed_generator/.*": "state of the random generator of stochastic depth",
    r"auxiliary_\w+/\w+": "classifier of segmentation models that is used in training only",
}

Shape = tuple[int, ...]


class Key(NamedTuple):
    """Key of a variable: its layer and its name. `str` gives its name in the library's own files."""

    layer: LayerName
    variable: str

    def __str__(self) -> str:
        return f"{self.layer}/{self.variable}"


class KeyMatch(NamedTuple):
    """Result of matching a file with a model.

    Attributes:
        layout: Its name, None if the file's names are of no known layout.
        sources: Sources for each key that the file has, the tensor's name.
        surplus: Names that are no key's and are not dropped.
        torch: Whether arrays are laid out as PyTorch does.
    """

    layout: str | None
    sources: Mapping[Key, str]
    unexpected: list[str]
    torch: bool = False


def match_keys(
    format: str, files: Mapping[str, Shape], shapes: Mapping[Key, Shape], paths: Iterable[Mapping[Key, str]] = ()
) -> KeyMatch:
    """Finds each variable's tensor in a file.

    Args:
        format: Format of the file, as its reader names it.
        files: The shape of each tensor in the file, by name.
        shapes: The shape of each variable of the model.
        paths: The path of each variable in a `.weights.h5` file, for each library that may have written it.
    """
    if format == "h5":
        keys = keras_legacy_keys(files, shapes)
        return _build_match("Keras .h5", _select_keys(keys, shapes), files)
    if format == "weights.h5":
        present = [{key: path for key, path in written.items() if path in files} for written in paths]
        return _build_match("Keras .weights.h5", max(present, key=len), files)
    own = native_keys(files, shapes)
    fits = [_build_match("convnext_keras", _select_keys(own, shapes), files)]
    fits += [
        _build_match(name, torch_keys(layout, shapes, files, outer, inner), files, layout.dropped, torch=True)
        for name, layout in LAYOUTS.items()
        for inner in layout.prefixes
        for outer in ("", "module.")
    ]
    best = max(fits, key=lambda fit: (len(fit.sources), -len(fit.unexpected)))
    known = 2 * len(best.sources) > min(len(shapes), len(files))
    return best if known else KeyMatch(None, {}, list(files))


def _select_keys(keys: Mapping[Key, str], shapes: Iterable[Key]) -> dict[Key, str]:
    """Returns the keys that the model has, in its order."""
    return {key: keys[key] for key in shapes if key in keys}


def _build_match(
    layout: str,
    sources: Mapping[Key, str],
    files: Iterable[str],
    dropped: Mapping[str, str] = KERAS_DROPPED,
    torch: bool = False,
) -> KeyMatch:
    used = set(sources.values())
    pattern = re.compile("|".join([r"(?!)", *dropped]))
    unexpected = [name for name in files if name not in used and not pattern.fullmatch(name.removeprefix("module."))]
    return KeyMatch(layout, sources, unexpected, torch)


def native_keys(files: Iterable[str], shapes: Iterable[Key]) -> dict[Key, str]:
    """Maps keys to the names of the tensors in a file that `save_weights` wrote, each `layer/variable`."""
    own = {str(key): key for key in shapes}
    split = {name: name.rpartition("/") for name in files}
    keys = {
        own.get(name) or Key(LayerName(layer, is_custom=True), variable): name
        for name, (layer, _, variable) in split.items()
    }
    return keys | _match_auto_named(keys, shapes)


def keras_legacy_keys(files: Iterable[str], shapes: Iterable[Key]) -> dict[Key, str]:
    """Maps keys to tensor names in an `.h5` file: `layer/.../inner_layer/variable`, optionally with `:0` at the end.

    Args:
        files: The tensors' names in the file, in the graph's order.
        shapes: The variables of the model, in the graph's order.
    """
    split = {name: tuple(name.removesuffix(":0").split("/")[-2:]) for name in files}
    variables: dict[str, set[str]] = {}
    for layer, variable in split.values():
        variables.setdefault(layer, set()).add(variable)
    layers = parse_layer_names({layer: names <= NORM_VARIABLES for layer, names in variables.items()})
    keys: dict[Key, str] = {}
    for name, (layer, variable) in split.items():
        is_scale = layers[layer].role == "layer_scale" and variable.lower().startswith(UNNAMED)
        keys[Key(layers[layer], "gamma" if is_scale else variable)] = name
    return keys | _match_auto_named(keys, shapes)


def _match_auto_named(keys: Mapping[Key, str], shapes: Iterable[Key]) -> dict[Key, str]:
    """Matches, in order, the tensors of layers that Keras named by counting in another process."""

    def counted(wanted: Iterable[Key]) -> dict[tuple[str, str], list[Key]]:
        groups: dict[tuple[str, str], list[Key]] = {}
        for key in (key for key in wanted if key.layer.is_custom):
            groups.setdefault((strip_counter(key.layer.role), key.variable), []).append(key)
        return groups

    in_file = counted(key for key in keys if key not in shapes)
    in_model = counted(key for key in shapes if key not in keys)
    return {
        mine: keys[theirs]
        for kind in in_file.keys() & in_model.keys()
        if len(in_file[kind]) == len(in_model[kind])
        for theirs, mine in zip(in_file[kind], in_model[kind], strict=True)
    }


def strip_counter(name: str) -> str:
    """Returns the name of a layer without the counter that Keras appends.

    Example:
        >>> strip_counter("dense_12")
        'dense'
    """
    base, _, number = name.rpartition("_")
    return base if number.isdecimal() else name


def torch_keys(
    layout: Layout, shapes: Mapping[Key, Shape], files: Mapping[str, Shape], outer: str, prefix: str
) -> dict[Key, str]:
    """Maps keys to the names of the tensors in a file of a PyTorch publisher.

    Args:
        layout: The publisher's table.
        shapes: The shape of the variable of each key wanted.
        files: The shape of each tensor in the file.
        outer: Prefix of all names.
        prefix: Prefix of the layout, after `outer`.
    """
    available = dict(files)
    names_by_key = {}
    for key, shape in shapes.items():
        names = [outer + (row[1:] if row.startswith("/") else prefix + row) for row in candidate_keys(layout, key)]
        present = [name for name in names if name in available]
        # A stem's norm and its last convolution may share a name's number: the one that fits is meant.
        fitting = [name for name in present if available[name] in torch_shapes(key, shape)] or present
        if fitting:
            names_by_key[key] = fitting[0]
            del available[fitting[0]]
    return names_by_key


def candidate_keys(layout: Layout, key: Key) -> list[str]:
    """Returns the names that a publisher may give a key's tensor, without the layout's prefix; the usual one first."""
    layer, variable = key
    fields = {
        "stage": layer.stage,
        "next": layer.stage + 1,
        "odd": 2 * layer.stage + 1,
        "even": 2 * layer.stage + 2,
        "block": layer.block,
        "keras": variable,
        "variable": TORCH_VARIABLE.get(variable, "bias"),
    }
    rows = () if layer.is_custom else layout.rows.get(layer.role, ())
    return [name.format(**fields) for name in rows]


def torch_shapes(key: Key, shape: Shape) -> tuple[Shape, ...]:
    """Returns the shapes in which PyTorch's publishers store the variable of a key, of this Keras shape.

    Kernels have their output channels first there; everything else has its axes in the same order.

    Example:
        >>> torch_shapes(Key(LayerName("pointwise_conv_1"), "kernel"), (96, 384))
        ((384, 96), (384, 96, 1, 1))
    """
    if key.variable == "kernel":
        *window, channels_in, channels_out = shape or (0, 0)  # () stands for a kernel that the model does not have.
        return ((channels_out, channels_in, *window), (channels_out, channels_in, *(window or (1, 1))))
    return (shape, (1, 1, 1, *shape), (*shape, 1, 1)) if shape else (shape, (1,))


def from_torch(key: Key, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Returns an array of one of `torch_shapes(key, shape)` in Keras' order of axes, of that shape."""
    if key.variable != "kernel":
        return array.reshape(shape)
    if len(shape) == 4:
        return array.transpose(2, 3, 1, 0)
    return array.reshape(shape[::-1]).T
