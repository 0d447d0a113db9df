"""ConvNeXt: block, stage, stem, head, and the five constructors of keras.applications.

"A ConvNet for the 2020s" (https://arxiv.org/abs/2201.03545v2) and "ConvNeXt V2" (https://arxiv.org/abs/2301.00808v1).
Layer names and weight order are those of `keras.applications.convnext`, so files pass both ways.
"""

import dataclasses
import functools
import inspect
import os
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import keras
import numpy as np
from keras import layers

from convnext_keras import checkpoints, hub, validation
from convnext_keras.configs import CONVNEXT_CONFIGS, ConvNeXtConfig, ConvNeXtOptions, build_config
from convnext_keras.data.transforms import ImageTransform, NormalizationStats, get_statistics
from convnext_keras.initializers import Normal
from convnext_keras.layer_names import LayerName
from convnext_keras.layers import (
    ACTIVATIONS,
    NORMS,
    POOLINGS,
    DepthwiseConvolution,
    FusedDense,
    GlobalResponseNormalization,
    LayerScale,
)
from convnext_keras.model import ConvNeXtModel
from convnext_keras.problem_types import CLASSIFIER_ACTIVATIONS
from convnext_keras.validation import hint_foreign_arguments

Weights = str | os.PathLike | checkpoints.WeightsSource | None
InputShape = tuple[int | None, ...] | None
Pooling = Literal["avg", "max", "avgmax", "catavgmax"] | None
CHANNELS_LAST = {"data_format": "channels_last"}


class BuildContext(NamedTuple):
    """Parameters shared by the functions that build one model."""

    variant: ConvNeXtConfig
    name: str
    drop_path_rate: float
    layer_scale_init_value: float | None
    output_stride: int
    dtype: Any

    def layer_name(self, role: str, stage: int = 0, block: int = 0) -> str:
        """Returns the name of a layer of the model."""
        return f"{self.name}_{LayerName(role, stage, block)}"

    def norm(self, name: str | None = None, dtype: Any = None, epsilon: float | None = None) -> keras.Layer:
        """Returns a new norm of the variant's kind."""
        return NORMS[self.variant.norm](epsilon=epsilon or self.variant.epsilon, name=name, dtype=dtype or self.dtype)

    @property
    def convolution(self) -> dict[str, Any]:
        """Returns the arguments that all convolutions have in common."""
        return {"kernel_initializer": Normal(), "use_bias": self.variant.conv_bias, "dtype": self.dtype}

    def dense(self, units: int, name: str, activation: Any = "linear", dtype: Any = None) -> keras.Layer:
        """Returns a dense layer with its own initializer; a shared one would give equal weights."""
        options: dict[str, Any] = {"kernel_initializer": Normal(), "dtype": dtype or self.dtype}
        return FusedDense(units, activation=activation, name=name, **options)

    @property
    def head_dtype(self) -> Any:
        """Returns float32 for 16-bit policies, because pixels and probabilities need it, and else the policy."""
        policy = keras.dtype_policies.get(self.dtype or keras.config.dtype_policy())
        return "float32" if policy.compute_dtype in ("float16", "bfloat16") else self.dtype


def convnext_block(inputs, stage: int, block: int, drop_path_rate: float, design: BuildContext, dilation_rate: int = 1):
    """Builds one residual block: depthwise convolution, norm, and two pointwise layers with 4 C channels between.

    Args:
        inputs: `(N, H, W, C)`.
        stage: 0 to 3.
        block: Block in its stage, from 0.
        drop_path_rate: Probability 0..1 with which a sample skips the block in training.
        design: Design of the whole model.
        dilation_rate: Distance between positions of the depthwise kernel, in pixels.

    Returns:
        `(N, H, W, C)`.
    """
    channels, dtype, variant = inputs.shape[-1], design.dtype, design.variant
    name = functools.partial(design.layer_name, stage=stage, block=block)
    options: dict[str, Any] = {"name": name("depthwise_conv"), "dilation_rate": dilation_rate, **design.convolution}
    x = DepthwiseConvolution(channels, variant.kernel_sizes[stage], **options)(inputs)
    x = design.norm(name("layernorm"))(x)
    x = design.dense(4 * channels, name("pointwise_conv_1"), ACTIVATIONS[variant.activation])(x)
    # Keras' name for the activation, which is applied inside the layer before.
    x = layers.Activation("linear", name=name(variant.activation), dtype=dtype)(x)
    if variant.use_grn:
        x = GlobalResponseNormalization(name=name("grn"), dtype=dtype)(x)
    x = design.dense(channels, name("pointwise_conv_2"))(x)
    if variant.layer_scale and design.layer_scale_init_value is not None:
        x = LayerScale(design.layer_scale_init_value, name=name("layer_scale"), dtype=dtype)(x)
    if drop_path_rate:
        # One choice a sample: stochastic depth is dropout of whole residual branches.
        options = {"noise_shape": (None, 1, 1, 1), "name": name("stochastic_depth"), "dtype": dtype}
        x = layers.Dropout(drop_path_rate, **options)(x)
    else:
        x = layers.Activation("linear", name=name("identity"), dtype=dtype)(x)
    return layers.Add(name=name("add"), dtype=dtype)([inputs, x])


def convnext_stage(inputs, stage: int, drop_path_rates: list[float], design: BuildContext, dilation_rate: int = 1):
    """Builds one stage: downsampling by two (usually not before the first stage), and the blocks.

    Args:
        inputs: `(N, H, W, C)` with the channels of the stage before.
        stage: 0 to 3.
        drop_path_rates: One for each block.
        design: Design of the whole model.
        dilation_rate: 1 to halve height and width; otherwise they stay, and the kernels are spread so far in place.

    Returns:
        `(N, H // 2, W // 2, dims[stage])`; for stage 0, or if dilated, of the height and width of `inputs`.
    """
    variant, x = design.variant, inputs
    if stage > 0 or variant.first_downsampling:
        # Keras numbers the layers between two stages by the stage before.
        kind, number = ("downsampling", stage - 1) if stage > 0 else ("first_downsampling", 0)
        names = {role: design.layer_name(f"{kind}_{role}", number) for role in ("layernorm", "conv", "block")}
        # A dilated convolution still sees the stage before, which was spread half as far.
        dilated = {"padding": "same", "dilation_rate": dilation_rate // 2}
        options = {**design.convolution, **CHANNELS_LAST, **({"strides": 2} if dilation_rate == 1 else dilated)}
        conv = layers.Conv2D(variant.dims[stage], 2, name=names["conv"], **options)
        x = keras.Sequential([design.norm(names["layernorm"]), conv], name=names["block"])(x)
    for block, rate in enumerate(drop_path_rates):
        x = convnext_block(x, stage, block, rate, design, dilation_rate)
    return x


def convnext_stem(inputs, design: BuildContext):
    """Returns pixels to the first stage's channels: `(N, H, W, 3)` -> `(N, H // 4, W // 4, dims[0])`."""
    dtype, variant, name = design.dtype, design.variant, design.layer_name
    if variant.stem == "patch":
        options = {"strides": variant.patch_size, "name": name("stem_conv"), **design.convolution, **CHANNELS_LAST}
        steps = [layers.Conv2D(variant.dims[0], variant.patch_size, **options)]
    else:
        steps = []
        for number, width in enumerate((variant.stem_width, variant.dims[0]), start=1):
            options = {"strides": 2, **design.convolution, **CHANNELS_LAST}
            steps += [
                layers.ZeroPadding2D(1, name=name(f"stem_padding_{number}"), dtype=dtype, **CHANNELS_LAST),
                layers.Conv2D(width, 3, name=name(f"stem_conv_{number}"), **options),
            ]
        if variant.stem == "overlap_gelu":
            steps.insert(2, layers.Activation("gelu", name=name("stem_gelu"), dtype=dtype))
    if variant.stem_norm:
        steps.append(design.norm(name("stem_layernorm")))
    return keras.Sequential(steps, name=name("stem"))(inputs)


def convnext_head(inputs, pooling: str | None, classes: int | None, classifier_activation: Any, design: BuildContext):
    """Builds pooling, norm and classifier: `(N, H, W, C)` -> `(N, classes)`, or features if `classes` is None."""
    name, dtype, variant = design.layer_name, design.head_dtype, design.variant
    # Without a top, Keras leaves pooling and norm unnamed.
    names = (None, None) if classes is None else (name("head_gap"), name("head_layernorm"))
    steps: list[Any] = [POOLINGS[pooling](name=names[0], dtype=dtype, **CHANNELS_LAST)] if pooling else []
    steps.insert(0 if variant.head_norm_first else 1, design.norm(names[1], dtype, variant.head_epsilon))
    if variant.head_hidden_size and (pooling or classes is not None):
        steps.append(design.dense(variant.head_hidden_size, name("head_hidden"), "gelu", dtype))
    if classes is not None:
        steps.append(design.dense(classes, name("head_dense"), classifier_activation, dtype))
    return functools.reduce(lambda x, layer: layer(x), steps, inputs)


def convnext_model(
    design: BuildContext,
    inputs,
    statistics: str | NormalizationStats | None,
    pooling: str | None,
    classes: int | None,
    activation,
) -> ConvNeXtModel:
    """Builds the whole network; None for statistics or classes leaves out the normalization or the classifier."""
    first = keras.config.image_data_format() == "channels_first"
    x = layers.Permute((2, 3, 1), name=design.layer_name("channels_last"))(inputs) if first else inputs
    if statistics is not None:
        mean, std = (np.asarray(row) * 255 for row in get_statistics(statistics))
        options = {"mean": mean.tolist(), "variance": (std**2).tolist(), "dtype": design.head_dtype}
        x = layers.Normalization(name=design.layer_name("prestem_normalization"), **options)(x)
    x = convnext_stem(x, design)
    depths = design.variant.depths
    rates = np.linspace(0, design.drop_path_rate, sum(depths)).tolist()
    for stage, depth in enumerate(depths):
        dilation_rate = max(1, design.variant.stride(stage) // design.output_stride)
        x = convnext_stage(x, stage, rates[sum(depths[:stage]) :][:depth], design, dilation_rate)
    x = convnext_head(x, pooling, classes, activation, design)
    if first and len(x.shape) == 4:
        x = layers.Permute((3, 1, 2), name=design.layer_name("channels_first"), dtype=design.head_dtype)(x)
    origins = keras.utils.get_source_inputs(inputs)
    return ConvNeXtModel(origins[0] if len(origins) == 1 else origins, x, name=design.name)


@hint_foreign_arguments
def ConvNeXt(  # noqa: N802 - named like the constructors of keras.applications
    depths: tuple[int, ...],
    dims: tuple[int, ...],
    *,
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = None,
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
    **architecture: Unpack[ConvNeXtOptions],
) -> ConvNeXtModel:
    """Builds a ConvNeXt of any depths and widths.

    Args:
        depths: Blocks in each stage.
        dims: Channels in each stage.
        include_top: Whether the classifier is part of the model.
        include_preprocessing: Whether the model normalizes pixels of 0..255; if not, see `data.transforms.normalize`.
        weights: None for random ones, a path to a file (see `load_weights`), a `WeightSet`, or a folder or repository
            of the hub, `"hf://owner/name"`, that describes the same architecture.
        input_tensor: Output of a Keras layer to start from.
        input_shape: `(H, W, 3)` in pixels; height and width may be None.
        pooling: Without the top: None for the last feature map, or a key of `layers.POOLINGS` for one vector per image.
        classes: Width of the classifier.
        classifier_activation: Activation of the classifier; None for logits.
        name: Name of the model and, followed by `_`, of all its layers.
        drop_path_rate: Probability 0..1 of the last block; it rises linearly from 0 in the first one.
        layer_scale_init_value: See `LayerScale`; None for blocks without it.
        output_stride: Pixels of the input for one of the last feature map: 8, 16 or 32 (None) for the published
            variants. Below 32, the last stages keep their resolution with dilated kernels, for dense prediction.
        dtype: Type or policy of the layers, such as `"mixed_bfloat16"`. None for Keras' global policy. Under all 16-bit
            policies, also the pure `"bfloat16"`, the normalization of pixels and the head compute in float32.
        **architecture: Other attributes of `ConvNeXtConfig`.

    Returns:
        A functional model from `(N, H, W, 3)` to `(N, classes)`, or to features `(N, H // 32, W // 32, dims[-1])` or
        `(N, dims[-1])`; outputs are float32 under mixed precision. `model.pretrained_info` has the
        origin of its weights.

    Raises:
        ValueError: If an argument is not valid; nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit the model.

    Example:
        >>> ConvNeXt((1, 1, 2, 1), (16, 32, 64, 128), classes=10).output_shape
        (None, 10)
    """
    validation.validate_name(name)
    variant = build_config(depths, dims, architecture, others=inspect.signature(ConvNeXt).parameters)
    source = hub.resolve_weights(weights)
    published = None if isinstance(source, Path) else source
    trained_with = published.activations if published else (None, *CLASSIFIER_ACTIVATIONS)
    valid = trained_with if include_top and source is not None else None
    validation.validate_constructor_args(pooling, POOLINGS, classes, classifier_activation, valid, drop_path_rate)
    classes = int(classes)  # Keras takes no number of NumPy.
    if published:
        published.check(variant, include_top)
    stride = validation.resolve_output_stride(output_stride, variant.stride(0), variant.minimum_size)
    transform = published.transform if published else ImageTransform(variant.input_size)
    size = transform.size if include_top else None
    inputs = validation.get_input_tensor(input_tensor, input_shape, size, variant.minimum_size, transform.channels)
    file = None if source is None else checkpoints.fetch_weights(source, include_top)
    design = BuildContext(variant, name, drop_path_rate, layer_scale_init_value, stride, dtype)
    statistics = transform.statistics if include_preprocessing else None
    channels = inputs.shape[-1 if keras.config.image_data_format() == "channels_last" else 1]
    if channels != transform.channels and source is not None:
        statistics = statistics and transform.with_channels(channels).statistics
    elif channels != transform.channels and include_preprocessing:  # as `keras.applications` does
        warnings.warn(
            f"There are no statistics for {channels} channels, so the model does not normalize its input. Normalize it "
            "outside, and use include_preprocessing=False.",
            stacklevel=3,
        )
        statistics = None
    if include_top:
        pooling = None if variant.head_pooling == "none" else variant.head_pooling
    model = convnext_model(design, inputs, statistics, pooling, classes if include_top else None, classifier_activation)
    if source is not None and file is not None:
        checkpoints.load_pretrained(model, source, file)
        known = model.pretrained_info
        if known and known.transform:
            model.pretrained_info = dataclasses.replace(known, transform=known.transform.with_channels(channels))
    return model


@hint_foreign_arguments
def ConvNeXtTiny(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "imagenet",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_tiny",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Tiny (https://arxiv.org/abs/2201.03545v2), 28.6 million parameters with 1,000 classes.

    Args:
        include_top: Whether the model ends with the classifier. Defaults to True.
        include_preprocessing: Whether the model normalizes pixels in 0..255 itself. Defaults to True.
        weights: `"imagenet"` (the default), another tag of `list_weights("convnext_tiny.*")`, such as
            `'in12k_ft_in1k'`; the path of a weight file; a directory; `"hf://owner/name[@revision]"`; or None for
            random weights.
        input_tensor: Output of a Keras layer that the model starts from. None creates an input.
        input_shape: `(H, W, C)` in pixels, at least 32 x 32; `(C, H, W)` if Keras is set to channels first. None uses
            the size of the weights with a classifier, and any size without one.
        pooling: Without a classifier, None for feature maps, or `"avg"`, `"max"`, `"avgmax"` or `"catavgmax"` for one
            vector per image.
        classes: Number of classes. Defaults to 1000.
        classifier_activation: Activation of the classifier; None for logits. Defaults to `"softmax"`.
        name: Name of the model, and prefix of its layer names.
        drop_path_rate: Probability in [0, 1) of skipping the last block in training; it rises linearly over the blocks.
        layer_scale_init_value: Initial value of the layer scale; None for blocks without layer scale.
        output_stride: 8, 16 or 32 (None): input pixels per position of the last feature map.
        dtype: Type or policy of the layers, such as `"mixed_bfloat16"`. None for Keras' global policy.

    Returns:
        A functional model from `(N, H, W, C)` to float32 probabilities `(N, classes)`, or without a classifier to
        features `(N, H // 32, W // 32, 768)` or `(N, 768)`.

    Raises:
        ValueError: If an argument is not valid. Nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit the model.

    Example:
        >>> ConvNeXtTiny(weights=None, include_top=False, pooling="avg").output_shape
        (None, 768)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_tiny"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_tiny"),
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        output_stride=output_stride,
        dtype=dtype,
    )


@hint_foreign_arguments
def ConvNeXtSmall(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "imagenet",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_small",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Small (https://arxiv.org/abs/2201.03545v2), 50.2 million parameters with 1,000 classes.

    Args:
        include_top: Whether the model ends with the classifier. Defaults to True.
        include_preprocessing: Whether the model normalizes pixels in 0..255 itself. Defaults to True.
        weights: `"imagenet"` (the default), another tag of `list_weights("convnext_small.*")`, such as
            `'in12k_ft_in1k'`; the path of a weight file; a directory; `"hf://owner/name[@revision]"`; or None for
            random weights.
        input_tensor: Output of a Keras layer that the model starts from. None creates an input.
        input_shape: `(H, W, C)` in pixels, at least 32 x 32; `(C, H, W)` if Keras is set to channels first. None uses
            the size of the weights with a classifier, and any size without one.
        pooling: Without a classifier, None for feature maps, or `"avg"`, `"max"`, `"avgmax"` or `"catavgmax"` for one
            vector per image.
        classes: Number of classes. Defaults to 1000.
        classifier_activation: Activation of the classifier; None for logits. Defaults to `"softmax"`.
        name: Name of the model, and prefix of its layer names.
        drop_path_rate: Probability in [0, 1) of skipping the last block in training; it rises linearly over the blocks.
        layer_scale_init_value: Initial value of the layer scale; None for blocks without layer scale.
        output_stride: 8, 16 or 32 (None): input pixels per position of the last feature map.
        dtype: Type or policy of the layers, such as `"mixed_bfloat16"`. None for Keras' global policy.

    Returns:
        A functional model from `(N, H, W, C)` to float32 probabilities `(N, classes)`, or without a classifier to
        features `(N, H // 32, W // 32, 768)` or `(N, 768)`.

    Raises:
        ValueError: If an argument is not valid. Nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit the model.

    Example:
        >>> ConvNeXtSmall(weights=None, include_top=False, pooling="avg").output_shape
        (None, 768)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_small"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_small"),
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        output_stride=output_stride,
        dtype=dtype,
    )


@hint_foreign_arguments
def ConvNeXtBase(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "imagenet",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_base",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Base (https://arxiv.org/abs/2201.03545v2), 88.6 million parameters with 1,000 classes.

    Args:
        include_top: Whether the model ends with the classifier. Defaults to True.
        include_preprocessing: Whether the model normalizes pixels in 0..255 itself. Defaults to True.
        weights: `"imagenet"` (the default), another tag of `list_weights("convnext_base.*")`, such as
            `'fb_in22k_ft_in1k_384'`; the path of a weight file; a directory; `"hf://owner/name[@revision]"`; or None
            for random weights.
        input_tensor: Output of a Keras layer that the model starts from. None creates an input.
        input_shape: `(H, W, C)` in pixels, at least 32 x 32; `(C, H, W)` if Keras is set to channels first. None uses
            the size of the weights with a classifier, and any size without one.
        pooling: Without a classifier, None for feature maps, or `"avg"`, `"max"`, `"avgmax"` or `"catavgmax"` for one
            vector per image.
        classes: Number of classes. Defaults to 1000.
        classifier_activation: Activation of the classifier; None for logits. Defaults to `"softmax"`.
        name: Name of the model, and prefix of its layer names.
        drop_path_rate: Probability in [0, 1) of skipping the last block in training; it rises linearly over the blocks.
        layer_scale_init_value: Initial value of the layer scale; None for blocks without layer scale.
        output_stride: 8, 16 or 32 (None): input pixels per position of the last feature map.
        dtype: Type or policy of the layers, such as `"mixed_bfloat16"`. None for Keras' global policy.

    Returns:
        A functional model from `(N, H, W, C)` to float32 probabilities `(N, classes)`, or without a classifier to
        features `(N, H // 32, W // 32, 1024)` or `(N, 1024)`.

    Raises:
        ValueError: If an argument is not valid. Nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit the model.

    Example:
        >>> ConvNeXtBase(weights=None, include_top=False, pooling="avg").output_shape
        (None, 1024)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_base"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_base"),
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        output_stride=output_stride,
        dtype=dtype,
    )


@hint_foreign_arguments
def ConvNeXtLarge(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "imagenet",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_large",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Large (https://arxiv.org/abs/2201.03545v2), 197.8 million parameters with 1,000 classes.

    Args:
        include_top: Whether the model ends with the classifier. Defaults to True.
        include_preprocessing: Whether the model normalizes pixels in 0..255 itself. Defaults to True.
        weights: `"imagenet"` (the default), another tag of `list_weights("convnext_large.*")`, such as
            `'fb_in22k_ft_in1k_384'`; the path of a weight file; a directory; `"hf://owner/name[@revision]"`; or None
            for random weights.
        input_tensor: Output of a Keras layer that the model starts from. None creates an input.
        input_shape: `(H, W, C)` in pixels, at least 32 x 32; `(C, H, W)` if Keras is set to channels first. None uses
            the size of the weights with a classifier, and any size without one.
        pooling: Without a classifier, None for feature maps, or `"avg"`, `"max"`, `"avgmax"` or `"catavgmax"` for one
            vector per image.
        classes: Number of classes. Defaults to 1000.
        classifier_activation: Activation of the classifier; None for logits. Defaults to `"softmax"`.
        name: Name of the model, and prefix of its layer names.
        drop_path_rate: Probability in [0, 1) of skipping the last block in training; it rises linearly over the blocks.
        layer_scale_init_value: Initial value of the layer scale; None for blocks without layer scale.
        output_stride: 8, 16 or 32 (None): input pixels per position of the last feature map.
        dtype: Type or policy of the layers, such as `"mixed_bfloat16"`. None for Keras' global policy.

    Returns:
        A functional model from `(N, H, W, C)` to float32 probabilities `(N, classes)`, or without a classifier to
        features `(N, H // 32, W // 32, 1536)` or `(N, 1536)`.

    Raises:
        ValueError: If an argument is not valid. Nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit the model.

    Example:
        >>> ConvNeXtLarge(weights=None, include_top=False, pooling="avg").output_shape
        (None, 1536)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_large"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_large"),
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        output_stride=output_stride,
        dtype=dtype,
    )


@hint_foreign_arguments
def ConvNeXtXLarge(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "imagenet",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_xlarge",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-XLarge (https://arxiv.org/abs/2201.03545v2), 350.2 million parameters with 1,000 classes.

    Args:
        include_top: Whether the model ends with the classifier. Defaults to True.
        include_preprocessing: Whether the model normalizes pixels in 0..255 itself. Defaults to True.
        weights: `"imagenet"` (the default), another tag of `list_weights("convnext_xlarge.*")`, such as
            `'fb_in22k_ft_in1k_384'`; the path of a weight file; a directory; `"hf://owner/name[@revision]"`; or None
            for random weights.
        input_tensor: Output of a Keras layer that the model starts from. None creates an input.
        input_shape: `(H, W, C)` in pixels, at least 32 x 32; `(C, H, W)` if Keras is set to channels first. None uses
            the size of the weights with a classifier, and any size without one.
        pooling: Without a classifier, None for feature maps, or `"avg"`, `"max"`, `"avgmax"` or `"catavgmax"` for one
            vector per image.
        classes: Number of classes. Defaults to 1000.
        classifier_activation: Activation of the classifier; None for logits. Defaults to `"softmax"`.
        name: Name of the model, and prefix of its layer names.
        drop_path_rate: Probability in [0, 1) of skipping the last block in training; it rises linearly over the blocks.
        layer_scale_init_value: Initial value of the layer scale; None for blocks without layer scale.
        output_stride: 8, 16 or 32 (None): input pixels per position of the last feature map.
        dtype: Type or policy of the layers, such as `"mixed_bfloat16"`. None for Keras' global policy.

    Returns:
        A functional model from `(N, H, W, C)` to float32 probabilities `(N, classes)`, or without a classifier to
        features `(N, H // 32, W // 32, 2048)` or `(N, 2048)`.

    Raises:
        ValueError: If an argument is not valid. Nothing is downloaded in this case.
        WeightsError: If the weight file is not available, or does not fit the model.

    Example:
        >>> ConvNeXtXLarge(weights=None, include_top=False, pooling="avg").output_shape
        (None, 2048)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_xlarge"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_xlarge"),
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        output_stride=output_stride,
        dtype=dtype,
    )
