"""The names of layers: one table, which writes them and reads them back.

The names of the image model are those of `keras.applications.convnext`, behind the model's own name; the text tower and
the similarities of ConvNeXt-CLIP have fixed ones.
"""

import functools
import string
from collections.abc import Mapping
from typing import NamedTuple, get_args

from convnext_keras.configs import Activation

HEAD_ROLES = ("head_gap", "head_layernorm", "head_hidden", "head_dense", "projection_hidden", "projection")
TEXT_HEAD_ROLES = ("text_final_norm", "text_projection", "similarity")
SINGLETON_ROLES = (
    "channels_last",
    "prestem_normalization",
    "stem",
    "stem_conv",
    "stem_conv_1",
    "stem_conv_2",
    "stem_padding_1",
    "stem_padding_2",
    "stem_gelu",
    "stem_layernorm",
    "first_downsampling_block",
    "first_downsampling_layernorm",
    "first_downsampling_conv",
    *HEAD_ROLES,
    "channels_first",
)
DOWNSAMPLING_ROLES = ("downsampling_block", "downsampling_layernorm", "downsampling_conv")
BLOCK_ROLES = (
    "depthwise_conv",
    "layernorm",
    "pointwise_conv_1",
    *get_args(Activation),
    "grn",
    "pointwise_conv_2",
    "layer_scale",
    "stochastic_depth",
    "identity",
    "add",
)
# Of segmentation models: one layer for each stage, one for each block, and one in all.
STEPS = ("conv", "norm", "relu")
SEGMENTATION_STAGE_ROLES = (
    "output_norm",
    *(f"{part}_{step}" for part in ("lateral", "fpn") for step in STEPS),
    "top_down_resize",
    "top_down_add",
    "level_resize",
    "skip_concat",
)
SEGMENTATION_BLOCK_ROLES = (
    "pyramid_pool",
    *(f"{part}_{step}" for part in ("pyramid", "auxiliary") for step in STEPS),
)
SEGMENTATION_ROLES = (
    *(f"{part}_{step}" for part in ("pyramid_bottleneck", "fpn_bottleneck", "auxiliary_concat") for step in STEPS),
    "level_sum",
    "decoder_classifier",
    "auxiliary_classifier",
    "decoder_resize",
    "auxiliary_resize",
    "decoder_activation",
)
UNET_ROLES = tuple(f"unet_{step}" for step in STEPS)
DECODER_ROLES = {*SEGMENTATION_STAGE_ROLES, *SEGMENTATION_BLOCK_ROLES, *SEGMENTATION_ROLES, *UNET_ROLES}
TEXT_BLOCK_ROLES = (
    "norm_1",
    "attention_in",
    "attention",
    "attention_out",
    "attention_add",
    "norm_2",
    "mlp_in",
    "mlp_out",
    "mlp_add",
)
TEXT_ROLES = ("text_token_embedding", "text_position_embedding", *TEXT_HEAD_ROLES)

# Role -> name, without the model's own name and `_` in front.
VISION_TEMPLATES = {
    **{role: role for role in SINGLETON_ROLES},
    **{role: f"{role}_{{stage}}" for role in DOWNSAMPLING_ROLES},
    **{role: f"stage_{{stage}}_block_{{block}}_{role}" for role in BLOCK_ROLES},
    **{role: role for role in SEGMENTATION_ROLES},
    **{role: f"{role}_{{stage}}" for role in SEGMENTATION_STAGE_ROLES},
    **{role: f"{role}_{{block}}" for role in SEGMENTATION_BLOCK_ROLES},
    **{role: f"{role}_{{stage}}_{{block}}" for role in UNET_ROLES},
}
TEXT_TEMPLATES = {
    **{role: role for role in TEXT_ROLES},
    **{role: f"text_block_{{block}}_{role}" for role in TEXT_BLOCK_ROLES},
}
TEMPLATES = {**VISION_TEMPLATES, **TEXT_TEMPLATES}


class LayerName(NamedTuple):
    """Role and position of a layer; `str` gives its name without the prefix of the model.

    Attributes:
        role: A key of `TEMPLATES`; the whole name for a layer that is not the model's.
        stage: Stage of a block, from 0; of a downsampling layer, the stage before it.
        block: Block in its stage, or in the text tower, from 0.
        is_custom: Whether it is a layer of the user's, or of another model.

    Example:
        >>> str(LayerName("depthwise_conv", stage=2, block=1))
        'stage_2_block_1_depthwise_conv'
    """

    role: str
    stage: int = 0
    block: int = 0
    is_custom: bool = False

    def __str__(self) -> str:
        if self.is_custom:  # A layer of the user's may be called like one of the library's without its prefix.
            return f"{CUSTOM_PREFIX}{self.role}" if parse_layer_name(self.role) else self.role
        return TEMPLATES[self.role].format(stage=self.stage, block=self.block)


CUSTOM_PREFIX = "other."
LAST_NORM = LayerName("head_layernorm")


@functools.cache
def _template_parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """Returns the literal parts of a template, each with the number that follows it, the last first."""
    return tuple((literal, field) for literal, field, _, _ in reversed([*string.Formatter().parse(template)]))


def _unformat(template: str, name: str) -> tuple[str, dict[str, int]] | None:
    """Inverts `template.format`: returns the prefix of a name, and the numbers of the template.

    Example:
        >>> _unformat("stage_{stage}_add", "tiny_stage_3_add")
        ('tiny_', {'stage': 3})
    """
    numbers, rest = {}, name
    for literal, field in _template_parts(template):
        if field:
            start = len(rest.rstrip("0123456789"))
            if start == len(rest):
                return None
            numbers[field], rest = int(rest[start:]), rest[:start]
        if not rest.endswith(literal):
            return None
        rest = rest.removesuffix(literal)
    return rest, numbers


def parse_layer_name(name: str) -> tuple[str, LayerName] | None:
    """Splits a layer name into its prefix and a `LayerName`; returns None for other names.

    Example:
        >>> parse_layer_name("convnext_tiny_downsampling_conv_1")
        ('convnext_tiny_', LayerName(role='downsampling_conv', stage=1, block=0, is_custom=False))
    """
    readings = {role: _unformat(template, name) for role, template in TEMPLATES.items()}
    fits = {role: fit for role, fit in readings.items() if fit and not (fit[0] and role in TEXT_TEMPLATES)}
    if not fits:
        return None
    role = min(fits, key=lambda role: len(fits[role][0]))
    prefix, numbers = fits[role]
    return prefix, LayerName(role, numbers.get("stage", 0), numbers.get("block", 0))


def parse_layer_names(layers: Mapping[str, bool]) -> dict[str, LayerName]:
    """Returns the layers of a model, or of a file that one was saved to, as the table has them.

    The prefix is that of the first block; layers with another one, and the user's own, are foreign. Keras
    leaves the last norm of a model without a top unnamed, so it is known by its place: the first norm behind the last
    block.

    Args:
        layers: Layers for each layer's name, in the order of the graph, whether the layer is a norm.

    Example:
        >>> parse_layer_names({"a_stage_0_block_0_add": False, "layer_normalization_7": True})["layer_normalization_7"]
        LayerName(role='head_layernorm', stage=0, block=0, is_custom=False)
    """
    readings = {name: reading for name in layers if (reading := parse_layer_name(name))}
    own = next((prefix for prefix, layer in readings.values() if layer.role in BLOCK_ROLES), None)
    known = {name: layer for name, (prefix, layer) in readings.items() if layer.role in TEXT_TEMPLATES or prefix == own}
    names = [*layers]
    blocks = [index for index, name in enumerate(names) if name in known and known[name].role in BLOCK_ROLES]
    if blocks and LAST_NORM not in known.values():
        behind = [name for name in names[blocks[-1] + 1 :] if layers[name] and name not in known]
        known |= dict.fromkeys(behind[:1], LAST_NORM)
    return {name: known.get(name) or LayerName(name, is_custom=True) for name in names}
