"""Architectures of the family, one row each."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from convnext_keras.validation import suggestion

Stem = Literal["patch", "overlap", "overlap_gelu"]
Norm = Literal["layer", "rms", "simple"]
Activation = Literal[
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "silu",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "mish",
    "hard_mish",
    "hard_sigmoid",
    "hard_silu",
    "sigmoid",
    "tanh",
    "linear",
]
HeadPooling = Literal["avg", "max", "avgmax", "catavgmax", "none"]


class ConvNeXtConfig(NamedTuple):
    """Architecture of a ConvNeXt.

    Attributes:
        depths: Blocks in each stage.
        dims: Channels in each stage.
        parameters: Published count with a classifier of 1,000 classes.
        input_size: Height and width in pixels that the model has by default.
        stem: `"patch"`, one convolution of `patch_size`; `"overlap"`, two of 3x3 and stride 2; `"overlap_gelu"`, with
            an activation between them.
        stem_width: Channels between the two convolutions of an overlapping stem.
        stem_norm: Whether a norm follows the stem.
        patch_size: Kernel and stride of a patch stem, in pixels.
        kernel_sizes: Kernel sizes of the depthwise convolution in each stage.
        norm: `"layer"`, `"rms"`, or `"simple"`, which divides without subtracting the mean.
        epsilon: Epsilon of every norm.
        head_epsilon: Head epsilon of the last norm, None for that of the others.
        activation: Activation of the blocks, a word of `Activation`: `"gelu"` is the exact one, `"gelu_tanh"` its
            approximation.
        conv_bias: Whether stem, depthwise and downsampling convolutions have a bias.
        first_downsampling: Whether the first stage halves the resolution too, as timm does behind a patch stem of 2.
        use_grn: Global response normalization in each block, as ConvNeXt V2 has it.
        layer_scale: Whether blocks have the layer scale of V1.
        head_norm_first: Norm before the pooling and not after it.
        head_hidden: Width of a hidden layer in the head, 0 for none.
        head_pooling: Head pooling before the classifier: `"avg"`, `"max"`, `"avgmax"`, the mean of both, `"catavgmax"`,
            both side by side, or `"none"` for scores at every position.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    num_params: int | None = None
    input_size: int = 224
    stem: Stem = "patch"
    stem_width: int = 0
    stem_norm: bool = True
    patch_size: int = 4
    kernel_sizes: tuple[int, ...] = (7, 7, 7, 7)
    norm: Norm = "layer"
    epsilon: float = 1e-6
    head_epsilon: float | None = None
    activation: Activation = "gelu"
    conv_bias: bool = True
    first_downsampling: bool = False
    use_grn: bool = False
    layer_scale: bool = True
    head_norm_first: bool = False
    head_hidden_size: int = 0
    head_pooling: HeadPooling = "avg"

    def stride(self, stage: int) -> int:
        """Returns pixels of the input for one of a stage's output, from 0; nothing is dilated."""
        return self.patch_size * 2 ** (stage + self.first_downsampling)

    @property
    def minimum_size(self) -> int:
        """Returns the smallest height and width in pixels that leave one pixel after the last stage."""
        return self.stride(len(self.depths) - 1)


class ConvNeXtOptions(TypedDict, total=False):
    """Attributes of `ConvNeXtConfig` with a default, as arguments of `ConvNeXt`."""

    num_params: int | None
    input_size: int
    stem: Stem
    stem_width: int
    stem_norm: bool
    patch_size: int
    kernel_sizes: tuple[int, ...]
    norm: Norm
    epsilon: float
    head_epsilon: float | None
    activation: Activation
    conv_bias: bool
    first_downsampling: bool
    use_grn: bool
    layer_scale: bool
    head_norm_first: bool
    head_hidden_size: int
    head_pooling: HeadPooling


CHOICES = {
    "stem": get_args(Stem),
    "norm": get_args(Norm),
    "activation": get_args(Activation),
    "head_pooling": get_args(HeadPooling),
}


def validate_config(variant: ConvNeXtConfig) -> None:
    """Raises ValueError unless a model can be built of the variant.

    Example:
        >>> validate_config(ConvNeXtConfig((1, 1), (8, 16), norm="batch"))
        Traceback (most recent call last):
        ValueError: norm must be one of ('layer', 'rms', 'simple'). Received: norm='batch'.
    """
    for name, words in CHOICES.items():
        word = getattr(variant, name)
        if word not in words:
            raise ValueError(f"{name} must be one of {words}. Received: {name}={word!r}.{suggestion(word, words)}")
    depths, dims, kernel_sizes = variant.depths, variant.dims, variant.kernel_sizes
    if not depths or len(depths) != len(dims) or len(depths) > len(kernel_sizes):
        raise ValueError(
            "depths, dims and kernel_sizes must have one number for each stage. "
            f"Received: depths={depths}, dims={dims}, kernel_sizes={kernel_sizes}"
        )
    whole = {"depths": depths, "dims": dims, "kernel_sizes": kernel_sizes, "patch_size": (variant.patch_size,)}
    whole |= {} if variant.stem == "patch" else {"stem_width": (variant.stem_width,)}
    for name, numbers in whole.items():
        if not all(isinstance(number, Integral) and int(number) > 0 for number in numbers):
            raise ValueError(f"{name} must be positive and whole. Received: {name}={getattr(variant, name)!r}")
    if not all(size % 2 for size in kernel_sizes):
        raise ValueError(f"kernel_sizes must be odd. Received: kernel_sizes={kernel_sizes}")
    for name in ("epsilon", "head_epsilon"):
        number = getattr(variant, name)
        if not (isinstance(number, Real) and float(number) > 0) and (name, number) != ("head_epsilon", None):
            raise ValueError(f"{name} must be a number above 0. Received: {name}={number!r}")
    if variant.head_norm_first and variant.head_hidden_size:
        raise ValueError(
            "A head with a hidden layer has its norm after the pooling. "
            f"Received: head_hidden_size={variant.head_hidden_size}, head_norm_first=True"
        )
    if variant.head_pooling == "catavgmax" and not variant.head_norm_first:
        raise ValueError("head_pooling='catavgmax' doubles the channels, which needs head_norm_first=True.")


def count_params(variant: ConvNeXtConfig, classes: int = 0, channels: int = 3) -> int:
    """Returns the number of parameters of a model.

    Args:
        variant: The architecture.
        classes: Width of the classifier, 0 for a model without one, whose output is the head's input to it.
        channels: Channels of the images.

    Example:
        >>> count_params(CONVNEXT_CONFIGS["convnext_tiny"], classes=1000)
        28589128
    """
    dims, bias = variant.dims, int(variant.conv_bias)
    norm = 2 if variant.norm == "layer" else 1  # numbers a channel
    if variant.stem == "patch":
        count = (variant.patch_size**2 * channels + bias) * dims[0]
    else:
        count = (9 * channels + bias) * variant.stem_width + (9 * variant.stem_width + bias) * dims[0]
    count += norm * dims[0] * variant.stem_norm
    before = [dims[0] if variant.first_downsampling else 0, *dims[:-1]]
    for depth, width, inputs, size in zip(variant.depths, dims, before, variant.kernel_sizes, strict=False):
        count += (norm * inputs + (4 * inputs + bias) * width) if inputs else 0
        one_each = size**2 + bias + norm + variant.layer_scale + 8 * variant.use_grn
        count += depth * width * (one_each + (4 * width + 4) + (4 * width + 1))
    features = dims[-1] * (2 if variant.head_pooling == "catavgmax" else 1)
    count += norm * dims[-1]
    if variant.head_hidden_size:
        count, features = count + (features + 1) * variant.head_hidden_size, variant.head_hidden_size
    return count + (features + 1) * classes


def build_config(depths: Any, dims: Any, options: Mapping[str, Any], others: Iterable[str] = ()) -> ConvNeXtConfig:
    """Returns a checked variant of depths, widths and other attributes.

    Args:
        depths: Blocks in each stage.
        dims: Channels in each stage.
        options: Other attributes of `ConvNeXtConfig` by name.
        others: Further names that the caller takes, for the error about an unknown one.

    Raises:
        ValueError: If an attribute is unknown, or no model can be built.
    """
    for name in options.keys() - ConvNeXtOptions.__annotations__.keys():
        valid = [*ConvNeXtOptions.__annotations__, *others]
        raise ValueError(f"{name!r} is no option of a ConvNeXt. Valid: {valid}.{suggestion(name, valid)}")
    given = {**options, "depths": depths, "dims": dims}
    for name in {"depths", "dims", "kernel_sizes"} & given.keys():
        if not isinstance(given[name], Iterable):
            raise ValueError(f"{name} must have one number for each stage. Received: {name}={given[name]!r}")
        given[name] = tuple(given[name])
    variant = ConvNeXtConfig(**given)
    validate_config(variant)
    return variant


# Depths and widths that several rows share.
DEPTHS_2_2_6_2, DEPTHS_2_2_8_2, DEPTHS_3_3_9_3, DEPTHS_3_3_27_3 = (
    (2, 2, 6, 2),
    (2, 2, 8, 2),
    (3, 3, 9, 3),
    (3, 3, 27, 3),
)
ATTO, FEMTO, PICO, NANO = (40, 80, 160, 320), (48, 96, 192, 384), (64, 128, 256, 512), (80, 160, 320, 640)
TINY, BASE, LARGE, XLARGE = (96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536), (256, 512, 1024, 2048)
XXLARGE, HUGE, ZEPTO = (384, 768, 1536, 3072), (352, 704, 1408, 2816), (32, 64, 128, 256)
TEST = (32, 64, 96, 128)
V2: dict[str, Any] = {"use_grn": True, "layer_scale": False}
OVERLAP: dict[str, Any] = {"stem": "overlap"}
# The stem of Meta's isotropic models: one convolution to the resolution that all blocks keep.
ISOTROPIC: dict[str, Any] = {"patch_size": 16, "stem_norm": False, "kernel_sizes": (7,)}

# The paper's five, then timm's names (https://github.com/huggingface/pytorch-image-models, convnext.py of 1.0.31).
CONVNEXT_CONFIGS = {
    "convnext_tiny": ConvNeXtConfig(DEPTHS_3_3_9_3, TINY, 28_589_128),
    "convnext_small": ConvNeXtConfig(DEPTHS_3_3_27_3, TINY, 50_223_688),
    "convnext_base": ConvNeXtConfig(DEPTHS_3_3_27_3, BASE, 88_591_464),
    "convnext_large": ConvNeXtConfig(DEPTHS_3_3_27_3, LARGE, 197_767_336),
    "convnext_xlarge": ConvNeXtConfig(DEPTHS_3_3_27_3, XLARGE, 350_196_968),
    "convnext_atto": ConvNeXtConfig(DEPTHS_2_2_6_2, ATTO, 3_695_520),
    "convnext_atto_ols": ConvNeXtConfig(DEPTHS_2_2_6_2, ATTO, 3_702_912, stem_width=24, **OVERLAP),
    "convnext_atto_rms": ConvNeXtConfig(DEPTHS_2_2_6_2, ATTO, 3_693_040, norm="rms"),
    "convnext_femto": ConvNeXtConfig(DEPTHS_2_2_6_2, FEMTO, 5_217_784),
    "convnext_femto_ols": ConvNeXtConfig(DEPTHS_2_2_6_2, FEMTO, 5_226_520, stem_width=24, **OVERLAP),
    "convnext_pico": ConvNeXtConfig(DEPTHS_2_2_6_2, PICO, 9_045_672),
    "convnext_pico_ols": ConvNeXtConfig(DEPTHS_2_2_6_2, PICO, 9_061_928, stem_width=32, **OVERLAP),
    "convnext_nano": ConvNeXtConfig(DEPTHS_2_2_8_2, NANO, 15_593_560),
    "convnext_nano_ols": ConvNeXtConfig(DEPTHS_2_2_8_2, NANO, 15_649_560, stem_width=80, **OVERLAP),
    "convnext_tiny_hnf": ConvNeXtConfig(DEPTHS_3_3_9_3, TINY, 28_589_128, head_norm_first=True),
    "convnext_large_mlp": ConvNeXtConfig(DEPTHS_3_3_27_3, LARGE, 200_128_168, head_hidden_size=1536),
    "convnext_xxlarge": ConvNeXtConfig((3, 4, 30, 3), XXLARGE, 846_471_016, epsilon=1e-5),
    "convnext_zepto_rms": ConvNeXtConfig((2, 2, 4, 2), ZEPTO, 2_155_656, norm="simple"),
    "convnext_zepto_rms_ols": ConvNeXtConfig(
        (2, 2, 4, 2), ZEPTO, 2_164_232, stem="overlap_gelu", stem_width=32, norm="simple"
    ),
    "convnextv2_atto": ConvNeXtConfig(DEPTHS_2_2_6_2, ATTO, 3_708_400, **V2),
    "convnextv2_femto": ConvNeXtConfig(DEPTHS_2_2_6_2, FEMTO, 5_233_240, **V2),
    "convnextv2_pico": ConvNeXtConfig(DEPTHS_2_2_6_2, PICO, 9_066_280, **V2),
    "convnextv2_nano": ConvNeXtConfig(DEPTHS_2_2_8_2, NANO, 15_623_800, **V2),
    "convnextv2_tiny": ConvNeXtConfig(DEPTHS_3_3_9_3, TINY, 28_635_496, **V2),
    "convnextv2_small": ConvNeXtConfig(DEPTHS_3_3_27_3, TINY, 50_318_440, **V2),
    "convnextv2_base": ConvNeXtConfig(DEPTHS_3_3_27_3, BASE, 88_717_800, **V2),
    "convnextv2_large": ConvNeXtConfig(DEPTHS_3_3_27_3, LARGE, 197_956_840, **V2),
    "convnextv2_huge": ConvNeXtConfig(DEPTHS_3_3_27_3, HUGE, 660_289_640, **V2),
    "convnext_isotropic_small": ConvNeXtConfig((18,), (384,), 22_308_712, layer_scale=False, **ISOTROPIC),
    "convnext_isotropic_base": ConvNeXtConfig((18,), (768,), 87_083_752, layer_scale=False, **ISOTROPIC),
    "convnext_isotropic_large": ConvNeXtConfig((36,), (1024,), 305_942_504, **ISOTROPIC),
    "test_convnext": ConvNeXtConfig((1, 2, 4, 2), (24, 32, 48, 64), 272_128, 160, epsilon=1e-5, activation="gelu_tanh"),
    "test_convnext2": ConvNeXtConfig((1, 1, 1, 1), TEST, 477_800, 160, epsilon=1e-5, activation="gelu_tanh"),
    "test_convnext3": ConvNeXtConfig(
        (1, 1, 1, 1), TEST, 468_840, 160, epsilon=1e-5, activation="silu", kernel_sizes=(7, 5, 5, 3)
    ),
    # This project's own, for small images: 32 x 32 pixels leave 2 x 2 after the last stage.
    "convnext_mini": ConvNeXtConfig((1, 1, 3, 1), (32, 48, 64, 128), 460_664, 32, patch_size=2),
}


# Those of CLIP's tokenizer, which must not need this module: it is used without Keras.
VOCABULARY_SIZE, CONTEXT_LENGTH = 49_408, 77


class CLIPTextConfig(NamedTuple):
    """Sizes of the text tower of a ConvNeXt-CLIP.

    Attributes:
        width: Channels of every token.
        heads: Heads of the attention; 64 channels each in all published models.
        layers: Number of blocks.
        context_length: Maximum number of tokens of a text.
        vocab_size: Number of token ids.
        activation: Activation of the blocks; see `ConvNeXtConfig`.
        mlp_ratio: Width of their hidden layer for one of `width`.
    """

    width: int
    heads: int
    layers: int
    context_length: int = CONTEXT_LENGTH
    vocab_size: int = VOCABULARY_SIZE
    activation: Activation = "gelu"
    mlp_ratio: float = 4.0

    @property
    def mlp_width(self) -> int:
        """Channels of the hidden layer of a block."""
        return int(self.width * self.mlp_ratio)


class CLIPConfig(NamedTuple):
    """Architecture of a ConvNeXt-CLIP.

    Attributes:
        vision: The ConvNeXt of the image tower.
        text: Sizes of the text tower.
        embed_dim: Dimension of the embeddings.
        image_size: Height and width in pixels that the weights were trained at, or `(height, width)`.
        parameters: Published count.
        projection_hidden_size: Width of a hidden layer between the features and the embedding, None if there is none.
        projection_bias: Whether the projection adds a bias.
        logit_bias: Whether a bias is added to the logits, as models trained with the sigmoid loss have it.
    """

    vision: ConvNeXtConfig
    text: CLIPTextConfig
    embed_dim: int
    image_size: int | tuple[int, int] = 224
    num_params: int | None = None
    projection_hidden_size: int | None = None
    projection_bias: bool = False
    logit_bias: bool = False


def count_clip_params(variant: CLIPConfig) -> int:
    """Returns the number of parameters of a ConvNeXt-CLIP.

    Example:
        >>> count_clip_params(CLIP_CONFIGS["convnext_base_w"])
        179385345
    """
    vision, text, embed_dim = variant.vision, variant.text, variant.embed_dim
    features = vision.head_hidden_size or vision.dims[-1] * (2 if vision.head_pooling == "catavgmax" else 1)
    hidden = variant.projection_hidden_size
    projection = (features + 1) * hidden + hidden * embed_dim if hidden else features * embed_dim
    width = text.width
    block = 4 * width**2 + 8 * width + (2 * width + 1) * text.mlp_width + width
    tokens = (text.vocab_size + text.context_length) * width + text.layers * block + 2 * width + width * embed_dim
    biases = embed_dim * variant.projection_bias + variant.logit_bias
    return count_params(vision) + projection + tokens + 1 + biases


Decoder = Literal["upernet", "fpn", "unet"]
NUM_SEGMENTATION_STAGES = 4
AUXILIARY_LOSS_WEIGHT = 0.4
AUXILIARY_STAGE = 2  # whose output the auxiliary classifier reads


class SegmentationConfig(NamedTuple):
    """Architecture of a segmentation model; see `segmentation.UPerNet` for its parts.

    Attributes:
        backbone: The ConvNeXt, of four stages.
        decoder: `"upernet"`, `"fpn"` or `"unet"`.
        hidden_size: Channels of the decoder; of a U-Net, those of its first step.
        pool_scales: Grids of the pyramid pooling of an UPerNet.
        output_norms: Whether the output of each stage is normalized.
        auxiliary_head: Whether there is a second classifier on the third stage, which is used in training only.
        auxiliary_channels: Channels of its convolutions.
        auxiliary_num_convs: Number of its convolutions.
        auxiliary_concat_input: Whether the stage's output is concatenated to that of the convolutions.
        image_size: Height and width in pixels that the weights were trained at.
    """

    backbone: ConvNeXtConfig
    decoder: Decoder = "upernet"
    hidden_size: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    output_norms: bool = True
    auxiliary_head: bool = True
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    image_size: int | tuple[int, int] = 512


CLIP_MINI, CLIP_BASE, CLIP_LARGE, CLIP_XXLARGE = (
    CONVNEXT_CONFIGS[f"convnext_{size}"] for size in ("mini", "base", "large", "xxlarge")
)

# OpenCLIP's names and sizes (model_configs/convnext_*.json of 3.3.0); the last is this project's own.
CLIP_CONFIGS = {
    "convnext_base": CLIPConfig(CLIP_BASE, CLIPTextConfig(512, 8, 12), 512, 224, 151_518_849),
    "convnext_base_w": CLIPConfig(CLIP_BASE, CLIPTextConfig(640, 10, 12), 640, 256, 179_385_345),
    "convnext_base_w_320": CLIPConfig(CLIP_BASE, CLIPTextConfig(640, 10, 12), 640, 320, 179_385_345),
    "convnext_large_d": CLIPConfig(CLIP_LARGE, CLIPTextConfig(768, 12, 16), 768, 256, 351_772_609, 1536),
    "convnext_large_d_320": CLIPConfig(CLIP_LARGE, CLIPTextConfig(768, 12, 16), 768, 320, 351_772_609, 1536),
    "convnext_xxlarge": CLIPConfig(CLIP_XXLARGE, CLIPTextConfig(1024, 16, 24), 1024, 256, 1_200_576_385),
    "convnext_mini": CLIPConfig(CLIP_MINI, CLIPTextConfig(96, 4, 3, 40, 2048), 96, 64, 889_329),
}


def decoder_convolutions(config: SegmentationConfig) -> list[tuple[int, int, int]]:
    """Returns kernel size, input and output channels of each convolution block, without the auxiliary ones."""
    dims, width = config.backbone.dims, config.hidden_size
    if config.decoder == "unet":
        steps = [(dims[-1], width), (width, width // 2), (width // 2, width // 4)]
        pairs = [(before + skip, after) for (before, after), skip in zip(steps, dims[-2::-1], strict=True)]
        return [row for inputs, after in pairs for row in ((3, inputs, after), (3, after, after))]
    if config.decoder == "fpn":
        return [(1, channels, width) for channels in dims] + [(3, width, width)] * NUM_SEGMENTATION_STAGES
    pyramid = [(1, dims[-1], width)] * len(config.pool_scales)
    bottleneck = (3, dims[-1] + len(config.pool_scales) * width, width)
    laterals = [(1, channels, width) for channels in dims[:-1]]
    levels = [(3, width, width)] * (NUM_SEGMENTATION_STAGES - 1)
    return [*pyramid, bottleneck, *laterals, *levels, (3, NUM_SEGMENTATION_STAGES * width, width)]


def auxiliary_convolutions(config: SegmentationConfig) -> list[tuple[int, int, int]]:
    """Returns kernel size, input and output channels of each convolution block of the auxiliary classifier."""
    channels, width = config.backbone.dims[AUXILIARY_STAGE], config.auxiliary_channels
    widths = [channels, *[width] * config.auxiliary_num_convs]
    rows = [(3, before, width) for before in widths[:-1]]
    return rows + [(3, channels + widths[-1], width)] * config.auxiliary_concat_input


def output_channels(config: SegmentationConfig, auxiliary: bool = False) -> int:
    """Returns the channels that the classifier of the decoder, or the auxiliary one, reads."""
    if auxiliary:
        rows = auxiliary_convolutions(config)
        return rows[-1][2] if rows else config.backbone.dims[AUXILIARY_STAGE]
    return decoder_convolutions(config)[-1][2]


def count_segmentation_params(
    config: SegmentationConfig, classes: int, channels: int = 3, auxiliary: bool = False
) -> int:
    """Returns the number of weights of a model, with the statistics of its batch norms.

    Args:
        config: The architecture.
        classes: Number of classes.
        channels: Channels of the images.
        auxiliary: Whether the auxiliary classifier is counted.

    Example:
        >>> count_segmentation_params(SEGMENTATION_CONFIGS["upernet_convnext_tiny"], 150, auxiliary=True)
        60255436
    """
    backbone = config.backbone
    count = count_params(backbone, 0, channels) - _last_norm_params(backbone)
    count += 2 * sum(backbone.dims) * config.output_norms
    heads = [(decoder_convolutions(config), output_channels(config))]
    if auxiliary:
        heads.append((auxiliary_convolutions(config), output_channels(config, auxiliary=True)))
    for convolutions, width in heads:
        count += sum(math.prod((size, size, before, after)) + 4 * after for size, before, after in convolutions)
        count += (width + 1) * classes
    return count


def _last_norm_params(backbone: ConvNeXtConfig) -> int:
    """Returns the weights of what `count_params` counts behind the last stage."""
    hidden = backbone.head_hidden_size
    features = backbone.dims[-1] * (2 if backbone.head_pooling == "catavgmax" else 1)
    return (2 if backbone.norm == "layer" else 1) * backbone.dims[-1] + ((features + 1) * hidden if hidden else 0)


# Meta's UPerNets for ADE20K (semantic_segmentation/ of facebookresearch/ConvNeXt); the last is this project's own.
SEGMENTATION_CONFIGS = {
    **{
        f"upernet_convnext_{size}": SegmentationConfig(CONVNEXT_CONFIGS[f"convnext_{size}"], image_size=pixels)
        for size, pixels in (("tiny", 512), ("small", 512), ("base", 512), ("large", 640), ("xlarge", 640))
    },
    "fpn_convnext_mini": SegmentationConfig(
        CONVNEXT_CONFIGS["convnext_mini"], "fpn", 48, auxiliary_head=False, image_size=96
    ),
}
