"""timm's repositories: `config.json` with the name of an architecture, and `model.safetensors`.

The form is that of timm 1.0.31 (https://github.com/huggingface/pytorch-image-models), and the older ones that it reads.
transformers' `timm_wrapper` has the same keys.
"""

import math
from typing import Any

from convnext_keras.configs import CONVNEXT_CONFIGS, ConvNeXtConfig
from convnext_keras.data.transforms import INTERPOLATIONS, ImageTransform, get_statistics
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub import tagger
from convnext_keras.hub.class_labels import (
    parse_id2label,
    parse_names,
    parse_num_classes,
    parse_text_mapping,
    read_problem_type,
)
from convnext_keras.hub.image_processors import MAX_EDGE, MAX_SIZE, read_statistics
from convnext_keras.hub.json_schema import JsonObject
from convnext_keras.hub.model_info import WEIGHTS_FILE, ModelInfo
from convnext_keras.hub.repository import Repository
from convnext_keras.problem_types import PROBLEM_TYPES

MAX_WIDTH, MAX_BLOCKS = 8_192, 1_000  # channels of a stage, blocks in all
# timm's architectures: all of the table but Meta's isotropic ones and this project's own.
ARCHITECTURES = {
    name: row for name, row in CONVNEXT_CONFIGS.items() if not name.startswith(("convnext_iso", "convnext_mini"))
}
# Those whose dense layers are stored as convolutions of one pixel, unless model_args says otherwise.
CONV_MLP = {
    *(f"convnext_{name}" for name in ("atto", "atto_ols", "atto_rms", "femto", "femto_ols", "pico", "pico_ols")),
    *(f"convnext_{name}" for name in ("nano", "nano_ols", "tiny_hnf", "zepto_rms", "zepto_rms_ols")),
    *(f"convnextv2_{name}" for name in ("atto", "femto", "pico", "nano")),
}
ACTIVATIONS = {
    **{name: name for name in ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "relu6", "leaky_relu", "elu")},
    **{name: name for name in ("celu", "selu", "mish", "hard_mish", "hard_sigmoid", "sigmoid", "tanh")},
    **{"swish": "silu", "hard_swish": "hard_silu", "identity": "linear"},
}
NORMS = {f"{name}norm{end}": name for name in ("layer", "rms", "simple") for end in ("", "2d")}
# A null stands for the class's own norm.
NORMS_OR_NULL = schema.optional(schema.choice(NORMS))
POOLINGS = {
    **{f"{fast}{name}": name for name in ("avg", "max", "avgmax", "catavgmax") for fast in ("", "fast")},
    **{"fast": "avg", "": "none"},
}
FOUR_WIDTHS = schema.list_of(schema.int_range(1, MAX_WIDTH), (4,))
CROP_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}
# By the number of classes, the set whose names timm gives to classes without names.
LABEL_SETS = {1000: "imagenet-1k", 11821: "imagenet-12k", 21841: "imagenet-22k"}
MODEL_ARGS = (
    *("depths", "dims", "kernel_sizes", "ls_init_value", "stem_type", "patch_size", "head_init_scale"),
    *("head_norm_first", "head_hidden_size", "conv_mlp", "conv_bias", "use_grn", "act_layer", "norm_layer"),
    *("norm_eps", "in_chans", "num_classes", "global_pool", "output_stride", "drop_rate", "drop_path_rate"),
)


def read_model_info(repository: Repository, config: JsonObject, license: str | None) -> ModelInfo:
    """Returns the description in timm's `config.json`."""
    arguments = config.section("model_args")
    arguments.reject_unknown_keys(MODEL_ARGS, "argument of timm's ConvNeXt")
    # Older files have one level: what is not about the architecture is about weights and images.
    facts = config.section("pretrained_cfg") if "pretrained_cfg" in config.values else config
    variant, output_stride = read_config(config, arguments)
    classes = read_classes(config, arguments, facts)
    channels = arguments.read("in_chans", schema.int_range(1, 1024), 3)
    labels, notes = read_labels(config if "label_names" in config.values else facts, config, classes)
    problem_type = read_problem_type(config, classes)
    info = ModelInfo(
        repository,
        "timm",
        variant,
        classes,
        read_transform(facts, channels),
        files=(WEIGHTS_FILE,),
        activation=problem_type and PROBLEM_TYPES[problem_type],
        problem_type=problem_type,
        labels=labels,
        license=license or facts.read("license", schema.optional(schema.parse_str)),
        output_stride=output_stride,
        notes=notes,
    )
    return tagger.with_tags(info)


def read_config(config: JsonObject, arguments: JsonObject) -> tuple[ConvNeXtConfig, int]:
    """Reads the architecture by its name and `model_args`; also returns the stride of its last feature map."""
    name = config.read("architecture", schema.parse_str).partition(".")[0]
    if name not in ARCHITECTURES:
        raise config.error("architecture", f"one of timm's ConvNeXts, such as {', '.join([*ARCHITECTURES][:3])}")
    row, read = ARCHITECTURES[name], arguments.read
    depths = read("depths", schema.list_of(schema.int_range(1, MAX_BLOCKS), (4,)), row.depths)
    if sum(depths) > MAX_BLOCKS:
        raise arguments.error("depths", f"{MAX_BLOCKS} blocks in all at most")
    dims = read("dims", FOUR_WIDTHS, row.dims)
    activation = read("act_layer", schema.choice(ACTIVATIONS), row.activation)
    stem, width = read_stem(row, arguments, dims, activation)
    patch_size = read("patch_size", schema.int_range(1, 16), row.patch_size) if stem == "patch" else 4
    norm = read("norm_layer", NORMS_OR_NULL, row.norm) or "layer"
    variant = ConvNeXtConfig(
        depths,
        dims,
        stem=stem,
        stem_width=width,
        patch_size=patch_size,
        first_downsampling=patch_size == 2,
        kernel_sizes=read_kernel_sizes(arguments, row),
        norm=norm,
        epsilon=read("norm_eps", schema.optional(schema.parse_epsilon), row.epsilon) or 1e-6,
        activation=activation,
        conv_bias=read("conv_bias", schema.parse_bool, True),
        use_grn=read("use_grn", schema.parse_bool, row.use_grn),
        layer_scale=read(
            "ls_init_value", schema.optional(schema.float_range(-1e6, 1e6)), float(row.layer_scale) or None
        )
        is not None,
        head_norm_first=read("head_norm_first", schema.parse_bool, row.head_norm_first),
        head_hidden_size=read("head_hidden_size", schema.optional(schema.int_range(0, MAX_WIDTH)), row.head_hidden_size)
        or 0,
        head_pooling=read("global_pool", schema.choice(POOLINGS), "avg"),
    )
    for key in ("drop_rate", "drop_path_rate", "head_init_scale"):  # of training only
        read(key, schema.optional(schema.float_range(0, 1e6)))
    read("conv_mlp", schema.parse_bool)
    return validate(variant, arguments)


def read_stem(row: ConvNeXtConfig, arguments: JsonObject, dims: tuple[int, ...], activation: str) -> tuple[Any, int]:
    """Returns the stem and its inner width."""
    stem_type = arguments.read("stem_type", schema.parse_str, parse_stem_type(row))
    widths = {"patch": 0, "overlap": dims[0], "overlap_tiered": make_divisible(dims[0] // 2), "overlap_act": dims[0]}
    if stem_type not in widths:
        raise arguments.error("stem_type", f"one of {', '.join(map(repr, widths))}")
    if stem_type == "overlap_act" and activation != "gelu":
        raise arguments.error("stem_type", "another one beside an act_layer that is not gelu")
    kind = {"patch": "patch", "overlap_act": "overlap_gelu"}.get(stem_type, "overlap")
    return kind, widths[stem_type]


def parse_stem_type(variant: ConvNeXtConfig) -> str | None:
    """Returns the word of timm for a variant's stem; None if it has none."""
    if variant.stem == "patch":
        return "patch"
    if variant.stem_width == variant.dims[0]:
        return "overlap_act" if variant.stem == "overlap_gelu" else "overlap"
    tiered = variant.stem == "overlap" and variant.stem_width == make_divisible(variant.dims[0] // 2)
    return "overlap_tiered" if tiered else None


def make_divisible(width: int) -> int:
    """Returns the nearest multiple of 8, half rounded up, which is not below nine tenths of a width.

    Example:
        >>> [make_divisible(width) for width in (2, 12, 20, 24)]
        [8, 16, 24, 24]
    """
    nearest = max(8, (width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def read_kernel_sizes(arguments: JsonObject, row: ConvNeXtConfig) -> tuple[int, ...]:
    """Returns the sizes of the depthwise kernels, one for all stages or four."""
    size = schema.int_range(1, 63)
    sizes = arguments.read("kernel_sizes", schema.either(size, schema.list_of(size, (4,))), row.kernel_sizes)
    sizes = (sizes,) * 4 if isinstance(sizes, int) else sizes
    if not all(size % 2 for size in sizes):
        raise arguments.error("kernel_sizes", "odd")
    return sizes


def validate(variant: ConvNeXtConfig, arguments: JsonObject) -> tuple[ConvNeXtConfig, int]:
    """Returns the variant, if its parts go together, and the stride of its last feature map as timm counts it."""
    if variant.head_norm_first and variant.head_hidden_size:
        raise arguments.error("head_hidden_size", "null beside head_norm_first")
    if variant.head_pooling == "catavgmax" and not variant.head_norm_first:
        raise arguments.error("global_pool", "another one without head_norm_first")
    wanted = arguments.read("output_stride", schema.int_choice((8, 16, 32)), 32)
    stride = variant.stride(0)
    for _ in variant.depths[1:]:
        stride = stride if stride >= wanted else 2 * stride
    full = variant.minimum_size
    if stride not in (full, full // 2, full // 4) or (stride != full and stride <= variant.stride(0)):
        raise arguments.error("output_stride", f"{full} or, for dilated stages, {full // 2} or {full // 4}")
    return variant, stride


def read_classes(config: JsonObject, arguments: JsonObject, facts: JsonObject) -> int:
    """Returns the width of the classifier."""
    inner, outer = arguments.read("num_classes", parse_num_classes), config.read("num_classes", parse_num_classes)
    if None not in (inner, outer) and inner != outer:
        raise config.error("num_classes", f"{inner}, as model_args says")
    stated = [count for count in (inner, outer, facts.read("num_classes", parse_num_classes)) if count is not None]
    return stated[0] if stated else 1000


def read_labels(
    named: JsonObject, config: JsonObject, classes: int
) -> tuple[str | tuple[tuple[str, str], ...] | None, tuple[str, ...]]:
    """Returns the classes, each as `(identifier, name)`, or the name of a label set that was assumed, with a note."""
    names = named.read("label_names", schema.optional(schema.either(parse_names, parse_id2label)))
    if not classes:
        return None, ()
    if names is None:
        assumed = LABEL_SETS.get(classes)
        return assumed, (f"No names of classes are given; {assumed} has as many, as timm assumes.",) if assumed else ()
    section = config if "label_descriptions" in config.values else named
    words = section.read("label_descriptions", schema.optional(parse_text_mapping)) or {}
    names = dict(enumerate(names)) if isinstance(names, tuple) else names
    if not names or max(names) >= classes or (len(names) != classes and max(names) + 1 == len(names)):
        raise named.error("label_names", f"names of the {classes} classes")
    filled = [names.get(number, str(number)) for number in range(classes)]
    return tuple((name, words.get(name, name)) for name in filled), ()


def read_transform(facts: JsonObject, channels: int) -> ImageTransform:
    """Returns the evaluation transform that timm makes of `pretrained_cfg`."""
    size = facts.read("input_size", schema.list_of(schema.int_range(1, MAX_SIZE), (3,)), (3, 224, 224))[1:]
    crop = facts.read("crop_pct", schema.optional(schema.either(schema.float_range(0, 0), schema.float_range(0.05, 1))))
    crop = crop or 0.875
    if math.floor(max(size) / crop) > MAX_EDGE:
        raise facts.error("crop_pct", f"such that the resized edge is {MAX_EDGE} pixels at most")
    resize = facts.read("crop_mode", schema.optional(schema.choice(CROP_MODES))) or "shortest"
    words = {name: name for name in INTERPOLATIONS}
    interpolation = facts.read("interpolation", schema.optional(schema.choice(words))) or "bicubic"
    statistics = read_statistics(facts, ("mean", "std"), channels, "imagenet")
    fill = tuple(round(255 * value) for value in get_statistics(statistics).mean) if resize == "longest" else 0
    return ImageTransform(
        size[0] if size[0] == size[1] else size,
        crop,
        resize,
        interpolation,
        statistics,
        channels=channels,
        fill_color=fill,
    )
