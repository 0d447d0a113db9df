"""This library's own repositories: `convnext_keras.json`, which can say all that a model of the library can be."""

from typing import Any

from convnext_keras.checkpoints import WeightsError
from convnext_keras.configs import WORDS, ClipVariant, TextTower, Variant, check
from convnext_keras.data import transforms
from convnext_keras.data.transforms import INTERPOLATIONS, STATISTICS, Recipe, Statistics
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.class_labels import CLASSIFIER_ACTIVATIONS, MAX_CLASSES, WHOLE_CLASSES
from convnext_keras.hub.image_processors import MAX_EDGE, MAX_SIZE, named_statistics
from convnext_keras.hub.json_schema import Fields
from convnext_keras.hub.model_info import SHARDED, SINGLE, Description
from convnext_keras.hub.repository import Repository
from convnext_keras.hub.timm import MAX_BLOCKS, MAX_WIDTH
from convnext_keras.pretrained_info import as_lists

FILE = "convnext_keras.json"


def words(known: Any) -> schema.Reading:
    """One of some words, as it is."""
    return schema.word({word: word for word in known})


STAGES = range(1, 9)
WIDTH, FLAG, EDGE = schema.whole(1, MAX_WIDTH), schema.a_flag, schema.whole(1, MAX_SIZE)
SIZE = schema.either(EDGE, schema.several(EDGE, (2,)))
LEVELS = schema.several(schema.number(-1e6, 1e6), range(1, 1025))
# How each attribute is read; what is left out has the class's default.
VARIANT = {
    "depths": schema.several(schema.whole(1, MAX_BLOCKS), STAGES),
    "dims": schema.several(WIDTH, STAGES),
    "stem_width": schema.whole(0, MAX_WIDTH),
    "stem_norm": FLAG,
    "patch_size": schema.whole(1, 32),
    "kernel_sizes": schema.several(schema.whole(1, 63), STAGES),
    "epsilon": schema.EPSILON,
    "head_epsilon": schema.optional(schema.EPSILON),
    "conv_bias": FLAG,
    "first_downsampling": FLAG,
    "response_norm": FLAG,
    "layer_scale": FLAG,
    "head_norm_first": FLAG,
    "head_hidden": schema.whole(0, MAX_WIDTH),
    **{name: words(known) for name, known in WORDS.items()},
}
TEXT = {
    **dict.fromkeys(("width", "heads"), WIDTH),
    **dict.fromkeys(("depth", "context_length"), schema.whole(1, 4096)),
    "vocabulary_size": schema.whole(514, 10_000_000),
    "activation": VARIANT["activation"],
    "mlp_ratio": schema.number(0.01, 64),
}
CLIP = {
    "embedding": WIDTH,
    "image_size": SIZE,
    "projection_hidden": schema.optional(WIDTH),
    "projection_bias": FLAG,
    "logit_bias": FLAG,
}
RECIPE = {
    "size": SIZE,
    "crop": schema.number(0.05, 1),
    "resize": words(("shortest", "longest", "squash", "none")),
    "interpolation": words(INTERPOLATIONS),
    "statistics": schema.either(words(STATISTICS), schema.several(LEVELS, (2,))),
    "rgb_first": FLAG,
    "rounding": words(transforms.ROUNDINGS),
    "edge": schema.optional(schema.either(schema.whole(1, MAX_EDGE), schema.several(schema.whole(1, MAX_EDGE), (2,)))),
    "channels": schema.whole(1, 1024),
    "fill": schema.either(schema.whole(0, 255), schema.several(schema.whole(0, 255), range(1, 1025))),
    "levels": FLAG,
}
CLASS = schema.several(schema.text, (2,))
TOP = {
    "classes": WHOLE_CLASSES,
    "activation": schema.optional(words(CLASSIFIER_ACTIVATIONS)),
    "labels": schema.optional(schema.either(schema.text, schema.several(CLASS, range(1, MAX_CLASSES + 1)))),
    "license": schema.optional(schema.text),
    "output_stride": schema.optional(schema.whole(1, 1024)),
    "include_preprocessing": schema.a_flag,
}


def read_all(place: Fields, readings: dict[str, schema.Reading], others: tuple[str, ...] = ()) -> dict[str, Any]:
    """The attributes that are there."""
    place.refuse_unknown((*readings, *others), "attribute")
    return {key: place.read(key, readings[key]) for key in place.values if key in readings}


def describe(repository: Repository, config: Fields, license: str | None) -> Description:
    """The description in `convnext_keras.json`."""
    top = read_all(config, TOP, ("architecture", "recipe", "clip"))
    try:
        variant = Variant(**read_all(config.section("architecture"), VARIANT))
        check(variant)
        recipe = Recipe(**read_all(config.section("recipe"), RECIPE))
        clip = read_clip(config.section("clip"), variant) if "clip" in config.values else None
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{config.path}: {str(error).removeprefix(f'{config.path}: ')}") from error
    if not isinstance(recipe.statistics, str):
        recipe = recipe._replace(statistics=Statistics(*recipe.statistics))
    if len(transforms.statistics_of(recipe.statistics).mean) != recipe.channels:
        raise config.error("recipe", f"with statistics of {recipe.channels} channels")
    if isinstance(top.get("labels"), tuple) and len(top["labels"]) != top.get("classes"):
        raise config.error("labels", "as many as there are classes")
    known = {**top, "license": license or top.get("license"), "clip": clip}
    return Description(repository, "keras", variant, recipe=recipe, files=(SINGLE, SHARDED), **{"classes": 0, **known})


def read_clip(place: Fields, trunk: Variant) -> ClipVariant:
    """Both towers of a ConvNeXt-CLIP."""
    text = TextTower(**read_all(place.section("text"), TEXT))
    if text.width % text.heads:
        raise place.section("text").error("heads", f"a divisor of the width, {text.width}")
    return ClipVariant(trunk, text, **read_all(place, CLIP, ("text",)))


def written(description: Description) -> dict[str, Any]:
    """What `describe` reads, of a description."""
    variant, recipe = description.variant._asdict(), description.recipe._asdict()
    if not isinstance(description.recipe.statistics, str):
        recipe["statistics"] = named_statistics(description.recipe.statistics)
    content: dict[str, Any] = {
        "architecture": {name: as_lists(variant[name]) for name in VARIANT},
        "recipe": {name: as_lists(recipe[name]) for name in RECIPE},
        **{name: as_lists(getattr(description, name)) for name in TOP},
    }
    if description.clip:
        clip, text = description.clip._asdict(), description.clip.text._asdict()
        content["clip"] = {**{name: as_lists(clip[name]) for name in CLIP}, "text": {name: text[name] for name in TEXT}}
    return content
