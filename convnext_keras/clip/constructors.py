"""Constructors of ConvNeXt-CLIP, and models by name."""

import dataclasses
import fnmatch
import os
from typing import Any

import keras
from keras import layers

from convnext_keras import checkpoints, hub, validation
from convnext_keras.clip.model import CLIP, OPEN_CLIP_TRANSFORM, CLIPHead
from convnext_keras.clip.text_encoder import build_text_encoder
from convnext_keras.configs import CLIP_CONFIGS, CLIPConfig
from convnext_keras.convnext import BuildContext, Weights, convnext_model
from convnext_keras.data.transforms import NormalizationStats
from convnext_keras.layers import FusedDense
from convnext_keras.model import ConvNeXtModel
from convnext_keras.validation import suggestion

BUNDLED_CLIP = "convnext_mini.shapes"  # the weight set that ships with the package


def build_image_encoder(
    variant: CLIPConfig,
    inputs,
    statistics: str | NormalizationStats,
    drop_path_rate: float,
    layer_scale: float,
    dtype: Any,
) -> ConvNeXtModel:
    """Returns the image tower: a ConvNeXt's pooled and normed features, projected; pixels -> `(N, embedding)`."""
    trunk = variant.vision
    design = BuildContext(trunk, "image", drop_path_rate, layer_scale, trunk.minimum_size, dtype)
    features = convnext_model(design, inputs, statistics, trunk.head_pooling, None, None)
    x = features.output

    def options(role: str) -> dict[str, Any]:
        # PyTorch's own start of linear layers, which OpenCLIP leaves as it is here.
        initial = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        return {"kernel_initializer": initial, "name": design.layer_name(role), "dtype": design.head_dtype}

    if variant.projection_hidden_size:
        x = FusedDense(variant.projection_hidden_size, activation="gelu", **options("projection_hidden"))(x)
    x = layers.Dense(variant.embed_dim, use_bias=variant.projection_bias, **options("projection"))(x)
    return ConvNeXtModel(features.input, x, name="image_encoder")


def CLIPConvNeXt(  # noqa: N802 - named like the constructors of keras.applications
    variant: CLIPConfig,
    *,
    weights: Weights = None,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Returns a ConvNeXt-CLIP of any sizes.

    Args:
        variant: The sizes of both towers.
        weights: None for random ones, a path to a file of any known layout (see `load_weights`), or a `WeightSet`;
            also a folder or a repository of the hub, `"hf://owner/name"`, in OpenCLIP's format.
        image_size: Height and width of the images in pixels, 32 or more, or `(height, width)`; the variant's if
            None. All weights fit every size.
        name: Name of the model.
        drop_path_rate: Probability 0..1 of the image tower's last block; it rises linearly from 0 in the first one.
        layer_scale_init_value: See `LayerScale`.
        dtype: Type or policy of all layers, such as `"mixed_bfloat16"`; None for Keras' global one. Embeddings and
            logits are float32 under mixed precision.

    Returns:
        See `CLIP`.

    Raises:
        ValueError: If an argument is not valid; nothing is fetched then.
        WeightsError: If the file cannot be had or does not fit.

    Example:
        >>> from convnext_keras.clip import CLIPConvNeXt, CLIPConfig, CLIPTextConfig
        >>> from convnext_keras.configs import ConvNeXtConfig
        >>> trunk = ConvNeXtConfig((1, 1, 2, 1), (8, 16, 32, 64))
        >>> variant = CLIPConfig(trunk, CLIPTextConfig(width=32, heads=2, layers=2, vocab_size=1024), embed_dim=16)
        >>> CLIPConvNeXt(variant, image_size=64).image_encoder.output_shape
        (None, 16)
    """
    source = hub.resolve_weights(weights, table=checkpoints.CLIP_REGISTRY)
    validation.validate_constructor_args(None, (), 1, None, None, drop_path_rate)
    if isinstance(source, hub.ModelInfo):
        source.check_clip(variant)
    size = variant.image_size if image_size is None else image_size
    inputs = validation.get_input_tensor(None, validation.image_shape(size), None, variant.vision.minimum_size, 3)
    file = None if source is None else checkpoints.fetch_weights(source)
    statistics = (source.transform if isinstance(source, checkpoints.WeightsSource) else OPEN_CLIP_TRANSFORM).statistics
    images = build_image_encoder(variant, inputs, statistics, drop_path_rate, layer_scale_init_value, dtype)
    head_dtype = images.layers[-1].dtype_policy.name
    texts = build_text_encoder(variant.text, variant.embed_dim, dtype, head_dtype)
    named = {
        "images": keras.Input(images.input_shape[1:], name="images"),
        "tokens": keras.Input((None,), dtype="int32", name="tokens"),
    }
    similarity = CLIPHead(variant.logit_bias, name="similarity", dtype=head_dtype)
    model = CLIP(named, similarity(images(named["images"]), texts(named["tokens"])), name=name)
    if source is not None and file is not None:
        pretrained_info = checkpoints.load_pretrained(model, source, file, allow_missing_head=False)
        known = dataclasses.replace(pretrained_info, transform=model.transform)
        model.pretrained_info = images.pretrained_info = texts.pretrained_info = known
    return model


def CLIPConvNeXtBase(  # noqa: N802
    weights: Weights = "laion400m_s13b_b51k",
    *,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext_base",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Builds the ConvNeXt-CLIP `convnext_base`: images of 224 x 224 pixels, embeddings of 512 values.

    The arguments, results and errors are those of `CLIPConvNeXt`. `weights` also takes the tags that
    `clip.list_weights("convnext_base.*")` lists.

    Example:
        >>> from convnext_keras import clip
        >>> clip.CLIPConvNeXtBase(weights=None).image_encoder.output_shape
        (None, 512)
    """
    return CLIPConvNeXt(
        CLIP_CONFIGS["convnext_base"],
        weights=hub.resolve_weights(weights, "convnext_base", checkpoints.CLIP_REGISTRY),
        image_size=image_size,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        dtype=dtype,
    )


def CLIPConvNeXtBaseW(  # noqa: N802
    weights: Weights = "laion2b_s13b_b82k_augreg",
    *,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext_base_w",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Builds the ConvNeXt-CLIP `convnext_base_w`: images of 256 x 256 pixels, embeddings of 640 values.

    The arguments, results and errors are those of `CLIPConvNeXt`. `weights` also takes the tags that
    `clip.list_weights("convnext_base_w.*")` lists.

    Example:
        >>> from convnext_keras import clip
        >>> clip.CLIPConvNeXtBaseW(weights=None).image_encoder.output_shape
        (None, 640)
    """
    return CLIPConvNeXt(
        CLIP_CONFIGS["convnext_base_w"],
        weights=hub.resolve_weights(weights, "convnext_base_w", checkpoints.CLIP_REGISTRY),
        image_size=image_size,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        dtype=dtype,
    )


def CLIPConvNeXtBaseW320(  # noqa: N802
    weights: Weights = "laion_aesthetic_s13b_b82k_augreg",
    *,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext_base_w_320",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Builds the ConvNeXt-CLIP `convnext_base_w_320`: images of 320 x 320 pixels, embeddings of 640 values.

    The arguments, results and errors are those of `CLIPConvNeXt`. `weights` also takes the tags that
    `clip.list_weights("convnext_base_w_320.*")` lists.

    Example:
        >>> from convnext_keras import clip
        >>> clip.CLIPConvNeXtBaseW320(weights=None).image_encoder.output_shape
        (None, 640)
    """
    return CLIPConvNeXt(
        CLIP_CONFIGS["convnext_base_w_320"],
        weights=hub.resolve_weights(weights, "convnext_base_w_320", checkpoints.CLIP_REGISTRY),
        image_size=image_size,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        dtype=dtype,
    )


def CLIPConvNeXtLargeD(  # noqa: N802
    weights: Weights = "laion2b_s26b_b102k_augreg",
    *,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext_large_d",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Builds the ConvNeXt-CLIP `convnext_large_d`: images of 256 x 256 pixels, embeddings of 768 values.

    The arguments, results and errors are those of `CLIPConvNeXt`. `weights` also takes the tags that
    `clip.list_weights("convnext_large_d.*")` lists.

    Example:
        >>> from convnext_keras import clip
        >>> clip.CLIPConvNeXtLargeD(weights=None).image_encoder.output_shape
        (None, 768)
    """
    return CLIPConvNeXt(
        CLIP_CONFIGS["convnext_large_d"],
        weights=hub.resolve_weights(weights, "convnext_large_d", checkpoints.CLIP_REGISTRY),
        image_size=image_size,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        dtype=dtype,
    )


def CLIPConvNeXtLargeD320(  # noqa: N802
    weights: Weights = "laion2b_s29b_b131k_ft_soup",
    *,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext_large_d_320",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Builds the ConvNeXt-CLIP `convnext_large_d_320`: images of 320 x 320 pixels, embeddings of 768 values.

    The arguments, results and errors are those of `CLIPConvNeXt`. `weights` also takes the tags that
    `clip.list_weights("convnext_large_d_320.*")` lists.

    Example:
        >>> from convnext_keras import clip
        >>> clip.CLIPConvNeXtLargeD320(weights=None).image_encoder.output_shape
        (None, 768)
    """
    return CLIPConvNeXt(
        CLIP_CONFIGS["convnext_large_d_320"],
        weights=hub.resolve_weights(weights, "convnext_large_d_320", checkpoints.CLIP_REGISTRY),
        image_size=image_size,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        dtype=dtype,
    )


def CLIPConvNeXtXXLarge(  # noqa: N802
    weights: Weights = "laion2b_s34b_b82k_augreg_soup",
    *,
    image_size: int | tuple[int, int] | None = None,
    name: str = "clip_convnext_xxlarge",
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    dtype: Any = None,
) -> CLIP:
    """Builds the ConvNeXt-CLIP `convnext_xxlarge`: images of 256 x 256 pixels, embeddings of 1024 values.

    The arguments, results and errors are those of `CLIPConvNeXt`. `weights` also takes the tags that
    `clip.list_weights("convnext_xxlarge.*")` lists.

    Example:
        >>> from convnext_keras import clip
        >>> clip.CLIPConvNeXtXXLarge(weights=None).image_encoder.output_shape
        (None, 1024)
    """
    return CLIPConvNeXt(
        CLIP_CONFIGS["convnext_xxlarge"],
        weights=hub.resolve_weights(weights, "convnext_xxlarge", checkpoints.CLIP_REGISTRY),
        image_size=image_size,
        name=name,
        drop_path_rate=drop_path_rate,
        layer_scale_init_value=layer_scale_init_value,
        dtype=dtype,
    )


def list_weights(pattern: str = "*") -> list[str]:
    """Returns names of the weight sets of ConvNeXt-CLIP, each `variant.tag`.

    Args:
        pattern: Shell pattern that the name matches, such as `"*laion2b*"`.

    Example:
        >>> from convnext_keras import clip
        >>> clip.list_weights("convnext_xxlarge.*")[0]
        'convnext_xxlarge.laion2b_s34b_b82k_augreg_soup'
    """
    return fnmatch.filter(checkpoints.load_registry(checkpoints.CLIP_REGISTRY), pattern)


def create_model(name: str | os.PathLike | hub.ModelInfo, **arguments: Any) -> CLIP:
    """Returns a ConvNeXt-CLIP by the name of a variant, of a weight set, or of the hub's repository that holds it.

    Args:
        name: Such as `"convnext_base_w"`, which comes with its default weights,
            `"convnext_base_w.laion2b_s13b_b82k_augreg"` or `"laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg"`; a
            tag alone if only one variant has it. Or any repository in OpenCLIP's format, `"hf://owner/name"` or
            `"hf://owner/name@revision"`, or a folder of that form, whose description decides the sizes.
        **arguments: Those of `CLIPConvNeXt`, such as `weights=None` for a variant from scratch.

    Raises:
        ValueError: If the name is unknown; see `CLIPConvNeXt` for others.
        WeightsError: If a description cannot be had, or cannot be followed.

    Example:
        >>> from convnext_keras import clip
        >>> clip.create_model("convnext_mini.shapes").text_encoder.output_shape
        (None, 96)
    """
    weight_set = None
    if isinstance(name, str):
        weight_set = checkpoints.find_weight_set(name, checkpoints.CLIP_REGISTRY) or checkpoints.default_weight_set(
            name, checkpoints.CLIP_REGISTRY
        )
    if weight_set is None and name not in CLIP_CONFIGS and (description := hub.load_model_info(name)):
        variant = description.clip
        if variant is None:
            raise checkpoints.WeightsError(f"{description.name} is a classifier: use convnext_keras.create_model.")
        return CLIPConvNeXt(variant, **{"weights": description, **arguments})
    variant = weight_set.variant if weight_set else str(name)
    if variant not in CLIP_CONFIGS and isinstance(name, str) and checkpoints.find_weight_set(name):
        raise ValueError(f"{name} is a classifier. Use convnext_keras.create_model({name!r}).")
    if variant not in CLIP_CONFIGS:
        sets = checkpoints.load_registry(checkpoints.CLIP_REGISTRY)
        hint = suggestion(name, [*CLIP_CONFIGS, *sets, *(row.tag for row in sets.values())])
        raise ValueError(f"name must be one of {[*CLIP_CONFIGS]} or clip.list_weights(). Received: {name!r}.{hint}")
    source = hub.resolve_weights(arguments.pop("weights", weight_set), variant, checkpoints.CLIP_REGISTRY)
    return CLIPConvNeXt(CLIP_CONFIGS[variant], weights=source, **{"name": f"clip_{variant}", **arguments})
