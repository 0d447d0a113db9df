"""How each publisher names and shapes its tensors, as tables.

A tensor's key in this library is its layer's name without the model's prefix, a slash, and the variable's name:
`stage_2_block_0_depthwise_conv/kernel`. Each layout says under which name its files hold that key.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

# The two variable names of PyTorch's modules, for each of Keras'.
TORCH_VARIABLE = {"kernel": "weight", "gamma": "weight", "scale": "weight", "bias": "bias", "beta": "bias"}

# Where in the model a layer stands: the part of its key that the tables below leave out.
PLACE = r"stage_(?P<stage>\d+)_block_(?P<block>\d+)_|(?P<kind>downsampling_[a-z]+)_(?P<gap>\d+)"

# What Keras stores beside the weights of a model that was trained.
KERAS_DROPPED = {
    r"optimizer/.*": "state of the optimizer",
    r".*seed_generator/.*": "state of the random generator of stochastic depth",
}

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """One publisher's naming.

    Attributes:
        rows: for each layer, its key with the numbers cut out, the names that it may have, in order of preference.
            Fields: `{stage}`, `{block}`; `{next}`, the stage after a downsampling block; `{odd}`, `2 stage + 1`;
            `{even}`, twice the stage after; `{variable}`, PyTorch's name of the variable, and `{keras}`, Keras'.
        prefixes: what may stand before every name.
        dropped: patterns of names that are not part of a ConvNeXt, each with the reason.
    """

    rows: Mapping[str, tuple[str, ...]]
    prefixes: tuple[str, ...] = ("",)
    dropped: Mapping[str, str] = {}


LAYOUTS = {
    "timm": Layout(
        {
            "stem_conv": ("stem.0.{variable}",),
            "stem_conv_1": ("stem.0.{variable}",),
            # An activation between the two overlapping convolutions shifts what follows by one.
            "stem_conv_2": ("stem.1.{variable}", "stem.2.{variable}"),
            "stem_layernorm": ("stem.1.{variable}", "stem.2.{variable}", "stem.3.{variable}"),
            "downsampling_layernorm": ("stages.{next}.downsample.0.{variable}",),
            "downsampling_conv": ("stages.{next}.downsample.1.{variable}",),
            "depthwise_conv": ("stages.{stage}.blocks.{block}.conv_dw.{variable}",),
            "layernorm": ("stages.{stage}.blocks.{block}.norm.{variable}",),
            "pointwise_conv_1": ("stages.{stage}.blocks.{block}.mlp.fc1.{variable}",),
            "grn": ("stages.{stage}.blocks.{block}.mlp.grn.{variable}",),
            "pointwise_conv_2": ("stages.{stage}.blocks.{block}.mlp.fc2.{variable}",),
            "layer_scale": ("stages.{stage}.blocks.{block}.gamma",),
            "head_layernorm": ("head.norm.{variable}", "norm_pre.{variable}"),
            "head_hidden": ("head.pre_logits.fc.{variable}",),
            "head_dense": ("head.fc.{variable}",),
        },
    ),
    "meta": Layout(
        {
            "stem_conv": ("downsample_layers.0.0.{variable}",),
            "stem_layernorm": ("downsample_layers.0.1.{variable}",),
            "downsampling_layernorm": ("downsample_layers.{next}.0.{variable}",),
            "downsampling_conv": ("downsample_layers.{next}.1.{variable}",),
            "depthwise_conv": ("stages.{stage}.{block}.dwconv.{variable}",),
            "layernorm": ("stages.{stage}.{block}.norm.{variable}",),
            "pointwise_conv_1": ("stages.{stage}.{block}.pwconv1.{variable}",),
            "grn": ("stages.{stage}.{block}.grn.{keras}",),
            "pointwise_conv_2": ("stages.{stage}.{block}.pwconv2.{variable}",),
            "layer_scale": ("stages.{stage}.{block}.gamma",),
            "head_layernorm": ("norm.{variable}",),
            "head_dense": ("head.{variable}",),
        },
        dropped={
            r"norms\..*|projectors\..*": "heads of self-supervised training",
            r"norm[0-3]\..*": "norms of the stage outputs of dense-prediction backbones",
        },
    ),
    "meta isotropic": Layout(
        {
            "stem_conv": ("stem.{variable}",),
            "depthwise_conv": ("blocks.{block}.dwconv.{variable}",),
            "layernorm": ("blocks.{block}.norm.{variable}",),
            "pointwise_conv_1": ("blocks.{block}.pwconv1.{variable}",),
            "pointwise_conv_2": ("blocks.{block}.pwconv2.{variable}",),
            "layer_scale": ("blocks.{block}.gamma",),
            "head_layernorm": ("norm.{variable}",),
            "head_dense": ("head.{variable}",),
        },
    ),
    "torchvision": Layout(
        {
            "stem_conv": ("features.0.0.{variable}",),
            "stem_layernorm": ("features.0.1.{variable}",),
            "downsampling_layernorm": ("features.{even}.0.{variable}",),
            "downsampling_conv": ("features.{even}.1.{variable}",),
            "depthwise_conv": ("features.{odd}.{block}.block.0.{variable}",),
            "layernorm": ("features.{odd}.{block}.block.2.{variable}",),
            "pointwise_conv_1": ("features.{odd}.{block}.block.3.{variable}",),
            "pointwise_conv_2": ("features.{odd}.{block}.block.5.{variable}",),
            "layer_scale": ("features.{odd}.{block}.layer_scale",),
            "head_layernorm": ("classifier.0.{variable}",),
            "head_dense": ("classifier.2.{variable}",),
        },
    ),
    "transformers": Layout(
        {
            "stem_conv": ("embeddings.patch_embeddings.{variable}",),
            "stem_layernorm": ("embeddings.layernorm.{variable}",),
            "downsampling_layernorm": ("encoder.stages.{next}.downsampling_layer.0.{variable}",),
            "downsampling_conv": ("encoder.stages.{next}.downsampling_layer.1.{variable}",),
            "depthwise_conv": ("encoder.stages.{stage}.layers.{block}.dwconv.{variable}",),
            "layernorm": ("encoder.stages.{stage}.layers.{block}.layernorm.{variable}",),
            "pointwise_conv_1": ("encoder.stages.{stage}.layers.{block}.pwconv1.{variable}",),
            "grn": ("encoder.stages.{stage}.layers.{block}.grn.{variable}",),
            "pointwise_conv_2": ("encoder.stages.{stage}.layers.{block}.pwconv2.{variable}",),
            "layer_scale": ("encoder.stages.{stage}.layers.{block}.layer_scale_parameter",),
            "head_layernorm": ("layernorm.{variable}",),
            # The one layer outside the prefix.
            "head_dense": ("/classifier.{variable}",),
        },
        prefixes=("", "convnext.", "convnextv2."),
    ),
    "transformers DINOv3": Layout(
        {
            "stem_conv": ("stages.0.downsample_layers.0.{variable}",),
            "stem_layernorm": ("stages.0.downsample_layers.1.{variable}",),
            "downsampling_layernorm": ("stages.{next}.downsample_layers.0.{variable}",),
            "downsampling_conv": ("stages.{next}.downsample_layers.1.{variable}",),
            "depthwise_conv": ("stages.{stage}.layers.{block}.depthwise_conv.{variable}",),
            "layernorm": ("stages.{stage}.layers.{block}.layer_norm.{variable}",),
            "pointwise_conv_1": ("stages.{stage}.layers.{block}.pointwise_conv1.{variable}",),
            "pointwise_conv_2": ("stages.{stage}.layers.{block}.pointwise_conv2.{variable}",),
            "layer_scale": ("stages.{stage}.layers.{block}.gamma",),
            "head_layernorm": ("layer_norm.{variable}", "/layer_norm.{variable}"),
        },
        prefixes=("", "model."),
    ),
}
# An OpenCLIP model whose image tower is timm's ConvNeXt.
LAYOUTS["OpenCLIP"] = LAYOUTS["timm"]._replace(
    prefixes=("visual.trunk.",),
    dropped={
        r"(module\.)?visual\.head\..*": "projection of the image tower",
        r"(module\.)?(text\.)?(transformer|ln_final|token_embedding)\..*": "text tower",
        r"(module\.)?(text\.)?(positional_embedding|text_projection)": "text tower",
        r"(module\.)?logit_(scale|bias)": "temperature of the similarities",
    },
)


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


def torch_names(layout: Layout, shapes: Mapping[str, Shape], files: Mapping[str, Shape], prefix: str) -> dict[str, str]:
    """Key to name for the tensors of a PyTorch publisher's file.

    Args:
        layout: the publisher's table.
        shapes: the shape of the variable of each key wanted.
        files: the shape of each tensor in the file.
        prefix: what stands before the names.
    """
    available = dict(files)
    found = {}
    for key, shape in shapes.items():
        names = [row[1:] if row.startswith("/") else prefix + row for row in _candidates(layout, key)]
        present = [name for name in names if name in available]
        # A stem's norm and its last convolution may share a name's number: the one that fits is meant.
        fitting = [name for name in present if available[name] in torch_shapes(shape)] or present
        if fitting:
            found[key] = fitting[0]
            del available[fitting[0]]
    return found


def _candidates(layout: Layout, key: str) -> list[str]:
    layer, variable = key.split("/")
    place = re.match(PLACE, layer)
    stage, block, kind, gap = place.groups("0") if place else ("0", "0", "0", "0")
    role = kind if kind != "0" else re.sub(PLACE, "", layer)
    fields = {
        "stage": stage,
        "block": block,
        "next": int(gap) + 1,
        "odd": 2 * int(stage) + 1,
        "even": 2 * int(gap) + 2,
        "keras": variable,
        "variable": TORCH_VARIABLE.get(variable, variable),
    }
    return [name.format(**fields) for name in layout.rows.get(role, ())]


def torch_shapes(shape: Shape) -> tuple[Shape, ...]:
    """The shapes in which PyTorch's publishers store a variable of this Keras shape.

    Example:
        >>> torch_shapes((96, 384))
        ((384, 96), (384, 96, 1, 1))
    """
    if len(shape) == 4:
        height, width, channels_in, channels_out = shape
        return ((channels_out, channels_in, height, width),)
    if len(shape) == 2:
        return (shape[::-1], (*shape[::-1], 1, 1))
    return (shape, (1, 1, 1, *shape), (*shape, 1, 1))


def from_torch(array: np.ndarray, shape: Shape) -> np.ndarray:
    """An array of one of `torch_shapes(shape)` in Keras' order of axes, of that shape."""
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
        _match(name, torch_names(layout, shapes, files, outer + inner), files, layout.dropped, torch=True)
        for name, layout in LAYOUTS.items()
        for inner in layout.prefixes
        for outer in ("", "module.")
    ]
    best = max(fits, key=lambda fit: len(fit.sources))
    known = 2 * len(best.sources) > min(len(shapes), len(files))
    return best if known else Match(None, {}, list(files))


def _match(layout: str, sources: Mapping[str, str], files: Iterable[str], dropped=KERAS_DROPPED, torch=False) -> Match:
    used = set(sources.values())
    surplus = [name for name in files if name not in used and not any(re.fullmatch(row, name) for row in dropped)]
    return Match(layout, sources, surplus, torch)
