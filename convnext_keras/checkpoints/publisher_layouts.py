"""Tables of the tensor names and shapes of each publisher.

Each layout says under which name its files hold the variables of a layer of a certain role; `names` has the roles, and
says how the library's own files name them.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Layout(NamedTuple):
    """Tensor names of one publisher.

    Attributes:
        rows: Rows for each role, the names that it may have, in order of preference. Fields: `{stage}`, `{block}`;
            `{next}`, the stage after a downsampling block; `{odd}`, `2 stage + 1`; `{even}`, twice the stage after;
            `{variable}`, PyTorch's name of the variable, and `{keras}`, Keras'.
        prefixes: Prefixes that all names may have.
        dropped: Patterns of names that are not part of a ConvNeXt, each with the reason; without `module.` in front.
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
            "first_downsampling_layernorm": ("stages.0.downsample.0.{variable}",),
            "first_downsampling_conv": ("stages.0.downsample.1.{variable}",),
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
            "output_norm": ("hidden_states_norms.stage{next}.{variable}",),
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
# Segmentation: a backbone of one of the layouts above, and a decoder whose convolution blocks and classifiers have
# other names with each publisher.
DECODER_PARTS = {
    "pyramid": "decode_head.psp_modules.{block}.1",
    "pyramid_bottleneck": "decode_head.bottleneck",
    "lateral": "decode_head.lateral_convs.{stage}",
    "fpn": "decode_head.fpn_convs.{stage}",
    "fpn_bottleneck": "decode_head.fpn_bottleneck",
    "auxiliary": "auxiliary_head.convs.{block}",
    "auxiliary_concat": "auxiliary_head.conv_cat",
}


def _decoder_rows(norm: str, classifier: str) -> dict[str, tuple[str, ...]]:
    """Returns the names of the decoder's layers, for a publisher's words for batch norms and classifiers."""
    rows = {f"{part}_conv": (f"/{name}.conv.{{variable}}",) for part, name in DECODER_PARTS.items()}
    rows |= {f"{part}_norm": (f"/{name}.{norm}.{{variable}}",) for part, name in DECODER_PARTS.items()}
    heads = {"decoder_classifier": "decode_head", "auxiliary_classifier": "auxiliary_head"}
    return rows | {role: (f"/{head}.{classifier}.{{variable}}",) for role, head in heads.items()}


DECODER_DROPPED = {
    r"auxiliary_head\..*": "classifier that is used in training only",
    r".*\.num_batches_tracked": "counters of batch norms",
}
MMPRETRAIN_WORDS = {"dwconv": "depthwise_conv", "pwconv1": "pointwise_conv1", "pwconv2": "pointwise_conv2"}
LAYOUTS |= {
    "transformers UPerNet": Layout(
        {
            **LAYOUTS["transformers"].rows,
            **_decoder_rows("batch_norm", "classifier"),
        },
        ("backbone.",),
        DECODER_DROPPED,
    ),
    "transformers DINOv3 UPerNet": Layout(
        {**LAYOUTS["transformers DINOv3"].rows, **_decoder_rows("batch_norm", "classifier")},
        ("backbone.model.", "backbone."),
        DECODER_DROPPED,
    ),
    "mmsegmentation UPerNet": Layout(
        {
            **{
                role: (*names, *(name.replace(old, new) for name in names for old, new in MMPRETRAIN_WORDS.items()))
                for role, names in LAYOUTS["meta"].rows.items()
            },
            "output_norm": ("norm{stage}.{variable}",),
            **_decoder_rows("bn", "conv_seg"),
        },
        ("backbone.",),
        DECODER_DROPPED,
    ),
}
# OpenCLIP: timm's ConvNeXt as the image tower, its projection, and a text tower with or without a prefix of its own.
TEXT_BLOCK = "transformer.resblocks.{block}."
TEXT_ROWS = {
    "text_token_embedding": "token_embedding.{variable}",
    "text_position_embedding": "positional_embedding",
    "norm_1": TEXT_BLOCK + "ln_1.{variable}",
    "attention_in": TEXT_BLOCK + "attn.in_proj_{variable}",
    "attention_out": TEXT_BLOCK + "attn.out_proj.{variable}",
    "norm_2": TEXT_BLOCK + "ln_2.{variable}",
    "mlp_in": TEXT_BLOCK + "mlp.c_fc.{variable}",
    "mlp_out": TEXT_BLOCK + "mlp.c_proj.{variable}",
    "text_final_norm": "ln_final.{variable}",
    "text_projection": "text_projection",
}
OPEN_CLIP_IMAGE = {
    **LAYOUTS["timm"].rows,
    "projection_hidden": ("/visual.head.mlp.fc1.{variable}",),
    "projection": ("/visual.head.proj.{variable}", "/visual.head.mlp.fc2.{variable}"),
}
OPEN_CLIP_TEXT = {role: (f"/{name}", f"/text.{name}") for role, name in TEXT_ROWS.items()}
OPEN_CLIP_PREFIXES = ("visual.trunk.",)
OPEN_CLIP_PARTS = {
    "image tower": r"visual\..*",
    "projection of the image tower": r"visual\.head\..*",
    "text tower": r"(text\.)?((transformer|ln_final|token_embedding)\..*|positional_embedding|text_projection)",
    "temperature of the similarities": r"logit_(scale|bias)",
}

# The whole model, and each tower by itself, where the rest of the file is left out.
LAYOUTS |= {
    "OpenCLIP": Layout({**OPEN_CLIP_IMAGE, **OPEN_CLIP_TEXT, "similarity": ("/{keras}",)}, OPEN_CLIP_PREFIXES),
    "OpenCLIP image tower": Layout(
        OPEN_CLIP_IMAGE,
        OPEN_CLIP_PREFIXES,
        {pattern: part for part, pattern in OPEN_CLIP_PARTS.items() if part != "image tower"},
    ),
    "OpenCLIP text tower": Layout(
        OPEN_CLIP_TEXT,
        OPEN_CLIP_PREFIXES,
        {pattern: part for part, pattern in OPEN_CLIP_PARTS.items() if part != "text tower"},
    ),
}
