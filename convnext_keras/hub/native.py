"""This library's own repositories: `convnext_keras.json`, which can say all that a model of the library can be."""

from typing import Any, get_args

from convnext_keras.checkpoints import WeightsError
from convnext_keras.configs import (
    CHOICES,
    CLIPConfig,
    CLIPTextConfig,
    ConvNeXtConfig,
    Decoder,
    SegmentationConfig,
    validate_config,
)
from convnext_keras.data import transforms
from convnext_keras.data.transforms import INTERPOLATIONS, NORMALIZATION_STATS, ImageTransform, NormalizationStats
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.class_labels import MAX_CLASSES, parse_num_classes
from convnext_keras.hub.image_processors import MAX_EDGE, MAX_SIZE, named_statistics
from convnext_keras.hub.json_schema import JsonObject
from convnext_keras.hub.model_info import WEIGHTS_FILE, WEIGHTS_INDEX, ModelInfo
from convnext_keras.hub.repository import Repository
from convnext_keras.hub.timm import MAX_BLOCKS, MAX_WIDTH
from convnext_keras.pretrained_info import tuples_to_lists
from convnext_keras.problem_types import CLASSIFIER_ACTIVATIONS, PROBLEM_TYPES

NATIVE_FILE = "convnext_keras.json"


def str_choice(known: Any) -> schema.Parser:
    """Returns one of some words, as it is."""
    return schema.choice({word: word for word in known})


STAGES = range(1, 9)
WIDTH, FLAG, EDGE = schema.int_range(1, MAX_WIDTH), schema.parse_bool, schema.int_range(1, MAX_SIZE)
SIZE = schema.either(EDGE, schema.list_of(EDGE, (2,)))
LEVELS = schema.list_of(schema.float_range(-1e6, 1e6), range(1, 1025))
# How each attribute is read; what is left out has the class's default.
CONFIG_FIELDS = {
    "depths": schema.list_of(schema.int_range(1, MAX_BLOCKS), STAGES),
    "dims": schema.list_of(WIDTH, STAGES),
    "stem_width": schema.int_range(0, MAX_WIDTH),
    "stem_norm": FLAG,
    "patch_size": schema.int_range(1, 32),
    "kernel_sizes": schema.list_of(schema.int_range(1, 63), STAGES),
    "epsilon": schema.parse_epsilon,
    "head_epsilon": schema.optional(schema.parse_epsilon),
    "conv_bias": FLAG,
    "first_downsampling": FLAG,
    "use_grn": FLAG,
    "layer_scale": FLAG,
    "head_norm_first": FLAG,
    "head_hidden_size": schema.int_range(0, MAX_WIDTH),
    **{name: str_choice(known) for name, known in CHOICES.items()},
}
TEXT_FIELDS = {
    **dict.fromkeys(("width", "heads"), WIDTH),
    **dict.fromkeys(("layers", "context_length"), schema.int_range(1, 4096)),
    "vocab_size": schema.int_range(514, 10_000_000),
    "activation": CONFIG_FIELDS["activation"],
    "mlp_ratio": schema.float_range(0.01, 64),
}
CLIP_FIELDS = {
    "embed_dim": WIDTH,
    "image_size": SIZE,
    "projection_hidden_size": schema.optional(WIDTH),
    "projection_bias": FLAG,
    "logit_bias": FLAG,
}
TRANSFORM_FIELDS = {
    "size": SIZE,
    "crop_pct": schema.float_range(0.05, 1),
    "resize_mode": str_choice(transforms.RESIZE_MODES),
    "interpolation": str_choice(INTERPOLATIONS),
    "statistics": schema.either(str_choice(NORMALIZATION_STATS), schema.list_of(LEVELS, (2,))),
    "convert_rgb_first": FLAG,
    "crop_rounding": str_choice(transforms.CROP_ROUNDING),
    "resize_size": schema.optional(
        schema.either(schema.int_range(1, MAX_EDGE), schema.list_of(schema.int_range(1, MAX_EDGE), (2,)))
    ),
    "channels": schema.int_range(1, 1024),
    "fill_color": schema.either(schema.int_range(0, 255), schema.list_of(schema.int_range(0, 255), range(1, 1025))),
    "quantize": FLAG,
    "bgr": FLAG,
    "background": schema.optional(schema.list_of(schema.int_range(0, 255), (3,))),
}
SEGMENTATION_FIELDS = {
    "decoder": str_choice(get_args(Decoder)),
    "hidden_size": WIDTH,
    "pool_scales": schema.list_of(schema.int_range(1, 64), range(1, 17)),
    "output_norms": FLAG,
    "auxiliary_head": FLAG,
    "auxiliary_channels": WIDTH,
    "auxiliary_num_convs": schema.int_range(0, 16),
    "auxiliary_concat_input": FLAG,
    "image_size": SIZE,
}
parse_class = schema.list_of(schema.parse_str, (2,))
TOP_FIELDS = {
    "classes": parse_num_classes,
    "activation": schema.optional(str_choice(CLASSIFIER_ACTIVATIONS)),
    "labels": schema.optional(schema.either(schema.parse_str, schema.list_of(parse_class, range(1, MAX_CLASSES + 1)))),
    "license": schema.optional(schema.parse_str),
    "output_stride": schema.optional(schema.int_range(1, 1024)),
    "include_preprocessing": schema.parse_bool,
    "problem_type": schema.optional(str_choice(PROBLEM_TYPES)),
    "thresholds": schema.optional(schema.list_of(schema.float_range(0, 1), range(1, MAX_CLASSES + 1))),
    "categories": schema.optional(schema.list_of(schema.parse_str, range(1, MAX_CLASSES + 1))),
    "reduce_labels": schema.parse_bool,
}


def read_all(section: JsonObject, readings: dict[str, schema.Parser], others: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the attributes that are there."""
    section.reject_unknown_keys((*readings, *others), "attribute")
    return {key: section.read(key, readings[key]) for key in section.values if key in readings}


def read_model_info(repository: Repository, config: JsonObject, license: str | None) -> ModelInfo:
    """Returns the description in `convnext_keras.json`."""
    top = read_all(config, TOP_FIELDS, ("architecture", "transform", "clip", "segmentation"))
    try:
        variant = ConvNeXtConfig(**read_all(config.section("architecture"), CONFIG_FIELDS))
        validate_config(variant)
        transform = ImageTransform(**read_all(config.section("transform"), TRANSFORM_FIELDS))
        clip = read_clip(config.section("clip"), variant) if "clip" in config.values else None
        if "segmentation" in config.values:
            fields = read_all(config.section("segmentation"), SEGMENTATION_FIELDS)
            top["segmentation"] = SegmentationConfig(variant, **fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{config.path}: {str(error).removeprefix(f'{config.path}: ')}") from error
    if not isinstance(transform.statistics, str):
        transform = transform._replace(statistics=NormalizationStats(*transform.statistics))
    if len(transforms.get_statistics(transform.statistics).mean) != transform.channels:
        raise config.error("transform", f"with statistics of {transform.channels} channels")
    for key in ("labels", "thresholds", "categories"):
        if isinstance(top.get(key), tuple) and len(top[key]) != top.get("classes"):
            raise config.error(key, "as many as there are classes")
    known = {**top, "license": license or top.get("license"), "clip": clip}
    return ModelInfo(
        repository,
        "keras",
        variant,
        transform=transform,
        files=(WEIGHTS_FILE, WEIGHTS_INDEX),
        **{"classes": 0, **known},
    )


def read_clip(config: JsonObject, backbone: ConvNeXtConfig) -> CLIPConfig:
    """Reads the config of both towers of a ConvNeXt-CLIP."""
    text = CLIPTextConfig(**read_all(config.section("text"), TEXT_FIELDS))
    if text.width % text.heads:
        raise config.section("text").error("heads", f"a divisor of the width, {text.width}")
    return CLIPConfig(backbone, text, **read_all(config, CLIP_FIELDS, ("text",)))


def to_json(description: ModelInfo) -> dict[str, Any]:
    """Converts a `ModelInfo` to the data that `read_model_info` reads."""
    variant, transform = description.variant._asdict(), description.transform._asdict()
    if not isinstance(description.transform.statistics, str):
        transform["statistics"] = named_statistics(description.transform.statistics)
    content: dict[str, Any] = {
        "architecture": {name: tuples_to_lists(variant[name]) for name in CONFIG_FIELDS},
        "transform": {name: tuples_to_lists(transform[name]) for name in TRANSFORM_FIELDS},
        **{name: tuples_to_lists(getattr(description, name)) for name in TOP_FIELDS},
    }
    if description.clip:
        clip, text = description.clip._asdict(), description.clip.text._asdict()
        content["clip"] = {
            **{name: tuples_to_lists(clip[name]) for name in CLIP_FIELDS},
            "text": {name: text[name] for name in TEXT_FIELDS},
        }
    if description.segmentation:
        segmentation = description.segmentation._asdict()
        content["segmentation"] = {name: tuples_to_lists(segmentation[name]) for name in SEGMENTATION_FIELDS}
    return content
