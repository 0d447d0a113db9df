"""Decoders for semantic segmentation on any ConvNeXt: UPerNet, FPN and U-Net.

UPerNet is that of "Unified Perceptual Parsing for Scene Understanding" (https://arxiv.org/abs/1807.10221v1) in the
configuration of Meta's ConvNeXt models, FPN the semantic branch of https://arxiv.org/abs/1901.02446v2 without group
norms, and U-Net that of https://arxiv.org/abs/1505.04597v1 with bilinear upsampling.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers

from convnext_keras import validation
from convnext_keras.checkpoints import WeightsSource, fetch_weights, load_pretrained
from convnext_keras.configs import AUXILIARY_STAGE, NUM_SEGMENTATION_STAGES, ConvNeXtConfig, SegmentationConfig
from convnext_keras.convnext import BuildContext, InputShape, convnext_model
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.feature_extraction import FeatureExtractor, feature_extractor, normalized_outputs, stage_outputs
from convnext_keras.initializers import Normal
from convnext_keras.layer_names import LayerName, parse_layer_name
from convnext_keras.layers import BatchNormalization
from convnext_keras.model import ConvNeXtModel, get_pretrained_info
from convnext_keras.resampling import AdaptiveAveragePooling2D, MultiscaleConv2D, ResizeLike
from convnext_keras.surgery import to_functional

# Of PyTorch's default, whose momentum of 0.1 is Keras' 0.9.
BATCH_NORM: dict[str, Any] = {"epsilon": 1e-5, "momentum": 0.9}
LOGITS_ACTIVATIONS = (None, "softmax")


class DecoderContext(NamedTuple):
    """Config, prefix of layer names and type, shared by the functions that build one decoder."""

    config: SegmentationConfig
    prefix: str
    dtype: Any

    def layer_name(self, role: str, stage: int = 0, block: int = 0) -> str:
        """Returns the name of a layer of the decoder."""
        return f"{self.prefix}{LayerName(role, stage, block)}"

    @property
    def head_dtype(self) -> Any:
        """Returns float32 for 16-bit policies, because logits need it, and else the policy."""
        return "float32" if self.dtype.compute_dtype in ("float16", "bfloat16") else self.dtype


def build_segmentation_model(
    backbone: keras.Model,
    config: SegmentationConfig,
    classes: int,
    *,
    activation: str | None = None,
    auxiliary_output: bool = False,
    name: str | None = None,
) -> ConvNeXtModel:
    """Builds a decoder on a backbone, whose layers and weights become part of the model.

    Args:
        backbone: A ConvNeXt of this library with four stages, with or without a classifier, which is left out.
        config: Config of the decoder; its `backbone` is not read.
        classes: Number of classes.
        activation: None for logits, or `"softmax"`.
        auxiliary_output: Whether the logits of the auxiliary classifier are a second output, for training.
        name: Name of the model; that of the backbone and the decoder if None.

    Returns:
        A model from pixels `(N, H, W, C)` to float32 logits `(N, H, W, classes)`, or a list of two.

    Raises:
        ValueError: If the backbone has not four stages, or an argument is not valid.
    """
    validate_decoder(config, classes, activation, auxiliary_output)
    inputs, stages = stage_outputs(to_functional(backbone))
    if sorted(stages) != [*range(NUM_SEGMENTATION_STAGES)]:
        raise ValueError(
            f"backbone must be a ConvNeXt with {NUM_SEGMENTATION_STAGES} stages. "
            f"Received: {backbone.name!r} with {len(stages)}"
        )
    last: Any = stages[NUM_SEGMENTATION_STAGES - 1]._keras_history.operation
    reading = parse_layer_name(last.name)
    design = DecoderContext(config, reading[0] if reading else "", last.dtype_policy)
    pixels = _channels_last(inputs)
    stages = normalized_outputs(stages, range(NUM_SEGMENTATION_STAGES)) if config.output_norms else stages
    features = [stages[stage] for stage in range(NUM_SEGMENTATION_STAGES)]
    outputs = [_logits(DECODERS[config.decoder](features, design), pixels, classes, activation, "decoder", design)]
    if auxiliary_output:
        x = auxiliary_decoder(features[AUXILIARY_STAGE], design)
        outputs.append(_logits(x, pixels, classes, None, "auxiliary", design))
    name = name or f"{config.decoder}_{backbone.name}"
    model = ConvNeXtModel(inputs, outputs if auxiliary_output else outputs[0], name=name)
    info = get_pretrained_info(backbone)
    model.pretrained_info = info and info.without_classes()
    return model


def create_segmentation_model(
    config: SegmentationConfig,
    weights: WeightsSource | Path | None,
    *,
    classes: int,
    activation: str | None = None,
    auxiliary_output: bool = False,
    name: str = "upernet",
    transform: ImageTransform | None = None,
    **arguments: Any,
) -> ConvNeXtModel:
    """Builds a segmentation model from its config, and loads its weights.

    Args:
        config: Architecture of backbone and decoder.
        weights: Weights of the whole model; None for random ones.
        classes: Number of classes; other classes than those of the weights leave the classifier with random weights.
        activation: See `build_segmentation_model`.
        auxiliary_output: See `build_segmentation_model`.
        name: Name of the model, and prefix of all its layers.
        transform: Transform whose statistics are embedded; by default that of the weights.
        **arguments: Other arguments of `build_backbone`.

    Raises:
        ValueError: If an argument is not valid; nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit.
    """
    validate_decoder(config, classes, activation, auxiliary_output)
    published = None if weights is None or isinstance(weights, Path) else weights
    transform = transform or (published.transform if published else ImageTransform(config.image_size))
    backbone = build_backbone(config.backbone, transform, name=name, **arguments)
    options: dict[str, Any] = {"activation": activation, "auxiliary_output": auxiliary_output, "name": name}
    model = build_segmentation_model(backbone, config, classes, **options)
    if weights is not None:
        _load(model, weights)
    return model


def _load(model: ConvNeXtModel, weights: WeightsSource | Path) -> None:
    """Fetches and loads weights, and notes their transform for the channels that the model has."""
    known = load_pretrained(model, weights, fetch_weights(weights))
    channels = model.input_shape[-1 if keras.config.image_data_format() == "channels_last" else 1]
    if known.transform:
        model.pretrained_info = dataclasses.replace(known, transform=known.transform.with_channels(channels))


def build_backbone(
    variant: ConvNeXtConfig,
    transform: ImageTransform,
    *,
    include_preprocessing: bool = True,
    input_tensor: Any = None,
    input_shape: InputShape = None,
    name: str = "convnext",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds a ConvNeXt without a classifier, which embeds the statistics of a transform.

    Args:
        variant: The architecture.
        transform: Transform whose statistics are embedded.
        include_preprocessing: See `ConvNeXt`, as for all that follow.
        input_tensor: Output of a Keras layer to start from.
        input_shape: `(H, W, C)` in pixels; None for any height and width.
        name: Name of the model, and prefix of all its layers.
        drop_path_rate: Probability 0..1 of the last block.
        layer_scale_init_value: See `LayerScale`.
        output_stride: Pixels of the input for one of the last feature map.
        dtype: Type or policy of the layers.
    """
    validation.validate_name(name)
    stride = validation.resolve_output_stride(output_stride, variant.stride(0), variant.minimum_size)
    inputs = validation.get_input_tensor(input_tensor, input_shape, None, variant.minimum_size, transform.channels)
    channels = inputs.shape[-1 if keras.config.image_data_format() == "channels_last" else 1]
    statistics = transform.with_channels(channels).statistics if include_preprocessing else None
    design = BuildContext(variant, name, drop_path_rate, layer_scale_init_value, stride, dtype)
    return convnext_model(design, inputs, statistics, None, None, None)


def create_backbone(
    variant: ConvNeXtConfig,
    weights: WeightsSource | None,
    stages: Sequence[int],
    *,
    norms: bool,
    transform: ImageTransform,
    **arguments: Any,
) -> ConvNeXtModel:
    """Returns a `feature_extractor` with the weights of a backbone of transformers.

    Args:
        variant: The architecture.
        weights: Weights of all stages; None for random ones.
        stages: Stages whose outputs are wanted.
        norms: Whether these outputs are normalized.
        transform: Transform whose statistics are embedded.
        **arguments: Arguments of `build_backbone`.

    Raises:
        WeightsError: If the weight file is not available, or does not fit.
    """
    backbone = build_backbone(variant, transform, **arguments)
    extractor = feature_extractor(backbone, stages, norms)
    # The file has all stages, also those after the last one that is wanted.
    last = stage_outputs(backbone)[1][len(variant.depths) - 1]
    whole = FeatureExtractor(backbone.input, [*extractor.outputs, last], name=extractor.name)
    if weights is not None:
        _load(whole, weights)
        extractor.pretrained_info = whole.pretrained_info
    return extractor


def validate_decoder(config: SegmentationConfig, classes: int, activation: str | None, auxiliary_output: bool) -> None:
    """Raises ValueError for an argument that no decoder can be built with."""
    if config.decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {[*DECODERS]}. Received: decoder={config.decoder!r}")
    if activation not in LOGITS_ACTIVATIONS:
        raise ValueError(f"activation must be None or 'softmax'. Received: activation={activation!r}")
    numbers = {"classes": classes, "hidden_size": config.hidden_size, "auxiliary_channels": config.auxiliary_channels}
    numbers |= {f"pool_scales[{index}]": scale for index, scale in enumerate(config.pool_scales)}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive whole number. Received: {name}={number!r}")
    if auxiliary_output and not config.auxiliary_head:
        raise ValueError("auxiliary_output=True needs a config with auxiliary_head=True.")
    if config.decoder == "unet" and config.hidden_size % 4:
        raise ValueError(f"hidden_size of a U-Net must be divisible by 4. Received: {config.hidden_size}")


def _channels_last(inputs: Any) -> Any:
    """Returns the pixels `(N, H, W, C)`, of which Keras' data format may have the channels first."""
    if keras.config.image_data_format() == "channels_last":
        return inputs
    return layers.Permute((2, 3, 1))(inputs)


def conv_block(x: Any, filters: int, kernel_size: int, part: str, design: DecoderContext, stage=0, block=0):
    """Builds convolution, batch norm and ReLU: `(N, H, W, C)`, or a list of maps, -> `(N, H, W, filters)`.

    Args:
        x: A map, or maps of several sizes, see `MultiscaleConv2D`.
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        part: First word of the role in the layer names.
        design: Design of the decoder.
        stage: Stage in the layer names.
        block: Block in the layer names.
    """
    name = functools.partial(design.layer_name, stage=stage, block=block)
    options: dict[str, Any] = {"kernel_initializer": Normal(), "name": name(f"{part}_conv"), "dtype": design.dtype}
    if isinstance(x, list):
        x = MultiscaleConv2D(filters, kernel_size, **options)(x)
    else:
        options |= {"padding": "same", "use_bias": False, "data_format": "channels_last"}
        x = layers.Conv2D(filters, kernel_size, **options)(x)
    x = BatchNormalization(**BATCH_NORM, name=name(f"{part}_norm"), dtype=design.dtype)(x)
    return layers.ReLU(name=name(f"{part}_relu"), dtype=design.dtype)(x)


def _logits(x: Any, pixels: Any, classes: int, activation: str | None, part: str, design: DecoderContext):
    """Builds the classifier of each position, and the resize of its logits to the input's resolution."""
    options: dict[str, Any] = {"kernel_initializer": Normal(), "data_format": "channels_last"}
    name = design.layer_name(f"{part}_classifier")
    x = layers.Conv2D(classes, 1, name=name, dtype=design.head_dtype, **options)(x)
    x = ResizeLike(name=design.layer_name(f"{part}_resize"), dtype=design.head_dtype)([x, pixels])
    if activation:
        x = layers.Softmax(name=design.layer_name("decoder_activation"), dtype=design.head_dtype)(x)
    if keras.config.image_data_format() == "channels_first":
        x = layers.Permute((3, 1, 2), dtype=design.head_dtype)(x)
    return x


def top_down(laterals: Sequence[Any], design: DecoderContext) -> list[Any]:
    """Adds each map, resized, to the one of the stage before, from the last to the first."""
    maps = [*laterals]
    for stage in range(len(maps) - 2, -1, -1):
        resized = ResizeLike(name=design.layer_name("top_down_resize", stage), dtype=design.dtype)(
            [maps[stage + 1], maps[stage]]
        )
        name = design.layer_name("top_down_add", stage)
        maps[stage] = layers.Add(name=name, dtype=design.dtype)([maps[stage], resized])
    return maps


def upernet_decoder(features: Sequence[Any], design: DecoderContext):
    """Builds pyramid pooling on the last stage, a feature pyramid, and the fusion of its levels."""
    width, last = design.config.hidden_size, features[-1]
    pooled = []
    for block, cells in enumerate(design.config.pool_scales):
        name = design.layer_name("pyramid_pool", block=block)
        x = AdaptiveAveragePooling2D(cells, name=name, dtype=design.dtype)(last)
        pooled.append(conv_block(x, width, 1, "pyramid", design, block=block))
    top = conv_block([last, *pooled], width, 3, "pyramid_bottleneck", design)
    laterals = [conv_block(x, width, 1, "lateral", design, stage) for stage, x in enumerate(features[:-1])]
    *levels, top = top_down([*laterals, top], design)
    levels = [conv_block(x, width, 3, "fpn", design, stage) for stage, x in enumerate(levels)]
    return conv_block([*levels, top], width, 3, "fpn_bottleneck", design)


def fpn_decoder(features: Sequence[Any], design: DecoderContext):
    """Builds a feature pyramid whose levels are summed at the resolution of the first stage."""
    width = design.config.hidden_size
    levels = top_down([conv_block(x, width, 1, "lateral", design, stage) for stage, x in enumerate(features)], design)
    levels = [conv_block(x, width, 3, "fpn", design, stage) for stage, x in enumerate(levels)]
    first, *others = levels
    resized = [
        ResizeLike(name=design.layer_name("level_resize", stage), dtype=design.dtype)([x, first])
        for stage, x in enumerate(others, start=1)
    ]
    return layers.Add(name=design.layer_name("level_sum"), dtype=design.dtype)([first, *resized])


def unet_decoder(features: Sequence[Any], design: DecoderContext):
    """Builds steps from the last stage to the first: resize, concatenation with the stage's output, two convolutions.

    The strides of a ConvNeXt are 4 to 32, so there are three steps of two, and the logits are resized by four.
    """
    x = features[-1]
    for stage in range(NUM_SEGMENTATION_STAGES - 2, -1, -1):
        width = design.config.hidden_size // 2 ** (NUM_SEGMENTATION_STAGES - 2 - stage)
        resized = ResizeLike(name=design.layer_name("level_resize", stage), dtype=design.dtype)([x, features[stage]])
        name = design.layer_name("skip_concat", stage)
        x = layers.Concatenate(name=name, dtype=design.dtype)([resized, features[stage]])
        for block in range(2):
            x = conv_block(x, width, 3, "unet", design, stage, block)
    return x


def auxiliary_decoder(features: Any, design: DecoderContext):
    """Builds the convolutions of the auxiliary classifier on the output of one stage."""
    config, x = design.config, features
    for block in range(config.auxiliary_num_convs):
        x = conv_block(x, config.auxiliary_channels, 3, "auxiliary", design, block=block)
    if config.auxiliary_concat_input:
        x = conv_block([features, x], config.auxiliary_channels, 3, "auxiliary_concat", design)
    return x


DECODERS: dict[str, Callable[[Sequence[Any], DecoderContext], Any]] = {
    "upernet": upernet_decoder,
    "fpn": fpn_decoder,
    "unet": unet_decoder,
}
