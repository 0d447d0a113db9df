"""The other constructors of the family, and models by name."""

import fnmatch
import os
from pathlib import Path
from typing import Any

import keras

from convnext_keras import checkpoints, hub
from convnext_keras.checkpoints import WeightsError, WeightSet, WeightsSource
from convnext_keras.configs import CONVNEXT_CONFIGS, SEGMENTATION_CONFIGS
from convnext_keras.convnext import ConvNeXt, InputShape, Pooling, Weights
from convnext_keras.model import ConvNeXtModel
from convnext_keras.upernet import create_backbone, create_segmentation_model
from convnext_keras.validation import hint_foreign_arguments, suggestion


@hint_foreign_arguments
def ConvNeXtAtto(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "d2_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_atto",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Atto (https://arxiv.org/abs/2201.03545v2), 3.7 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnext_atto.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtAtto(weights=None, include_top=False, pooling="avg").output_shape
        (None, 320)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_atto"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_atto"),
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
def ConvNeXtFemto(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "d1_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_femto",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Femto (https://arxiv.org/abs/2201.03545v2), 5.2 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnext_femto.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtFemto(weights=None, include_top=False, pooling="avg").output_shape
        (None, 384)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_femto"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_femto"),
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
def ConvNeXtPico(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "d1_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_pico",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Pico (https://arxiv.org/abs/2201.03545v2), 9.1 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnext_pico.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtPico(weights=None, include_top=False, pooling="avg").output_shape
        (None, 512)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_pico"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_pico"),
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
def ConvNeXtNano(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "in12k_ft_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_nano",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-Nano (https://arxiv.org/abs/2201.03545v2), 15.6 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnext_nano.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtNano(weights=None, include_top=False, pooling="avg").output_shape
        (None, 640)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_nano"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_nano"),
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
def ConvNeXtXXLarge(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "clip_laion2b_soup_ft_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnext_xxlarge",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt-XXLarge (https://arxiv.org/abs/2201.03545v2), 846.5 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnext_xxlarge.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtXXLarge(weights=None, include_top=False, pooling="avg").output_shape
        (None, 3072)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnext_xxlarge"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnext_xxlarge"),
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
def ConvNeXtV2Atto(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_atto",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Atto (https://arxiv.org/abs/2301.00808v1), 3.7 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_atto.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Atto(weights=None, include_top=False, pooling="avg").output_shape
        (None, 320)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_atto"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_atto"),
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
def ConvNeXtV2Femto(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_femto",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Femto (https://arxiv.org/abs/2301.00808v1), 5.2 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_femto.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Femto(weights=None, include_top=False, pooling="avg").output_shape
        (None, 384)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_femto"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_femto"),
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
def ConvNeXtV2Pico(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_pico",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Pico (https://arxiv.org/abs/2301.00808v1), 9.1 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_pico.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Pico(weights=None, include_top=False, pooling="avg").output_shape
        (None, 512)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_pico"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_pico"),
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
def ConvNeXtV2Nano(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in22k_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_nano",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Nano (https://arxiv.org/abs/2301.00808v1), 15.6 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_nano.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Nano(weights=None, include_top=False, pooling="avg").output_shape
        (None, 640)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_nano"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_nano"),
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
def ConvNeXtV2Tiny(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in22k_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_tiny",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Tiny (https://arxiv.org/abs/2301.00808v1), 28.6 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_tiny.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Tiny(weights=None, include_top=False, pooling="avg").output_shape
        (None, 768)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_tiny"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_tiny"),
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
def ConvNeXtV2Base(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in22k_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_base",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Base (https://arxiv.org/abs/2301.00808v1), 88.7 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_base.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Base(weights=None, include_top=False, pooling="avg").output_shape
        (None, 1024)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_base"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_base"),
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
def ConvNeXtV2Large(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in22k_in1k",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_large",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Large (https://arxiv.org/abs/2301.00808v1), 198.0 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_large.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Large(weights=None, include_top=False, pooling="avg").output_shape
        (None, 1536)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_large"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_large"),
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
def ConvNeXtV2Huge(  # noqa: N802
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: Weights = "fcmae_ft_in22k_in1k_384",
    input_tensor: Any = None,
    input_shape: InputShape = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "convnextv2_huge",
    *,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float | None = 1e-6,
    output_stride: int | None = None,
    dtype: Any = None,
) -> ConvNeXtModel:
    """Builds ConvNeXt V2-Huge (https://arxiv.org/abs/2301.00808v1), 660.3 million parameters with 1,000 classes.

    The arguments, results and errors are those of `ConvNeXtTiny`. `list_weights("convnextv2_huge.*")` lists the weight
    sets.

    Example:
        >>> ConvNeXtV2Huge(weights=None, include_top=False, pooling="avg").output_shape
        (None, 2816)
    """
    return ConvNeXt(
        **CONVNEXT_CONFIGS["convnextv2_huge"]._asdict(),
        include_top=include_top,
        include_preprocessing=include_preprocessing,
        weights=hub.resolve_weights(weights, "convnextv2_huge"),
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


def list_models(pattern: str = "*") -> list[str]:
    """Returns names of the variants.

    Args:
        pattern: Shell pattern that the name matches, such as `"*base*"`.

    Example:
        >>> list_models("*mini")
        ['convnext_mini']
    """
    return fnmatch.filter(CONVNEXT_CONFIGS, pattern)


@hint_foreign_arguments
def create_model(name: str | os.PathLike | WeightsSource, **arguments: Any) -> ConvNeXtModel:
    """Returns a model by the name of a variant, of a weight set, or of any repository that holds a ConvNeXt.

    Args:
        name: A variant of `list_models()`, which comes with its default weights, or a weight set of `list_weights()`;
            or a repository of the hub, `"hf://owner/name"` or `"hf://owner/name@revision"`, or a folder, as timm,
            transformers and `save_pretrained` write them, whose own files say what the model is; or a `.keras` file
            of a whole model; or the row of a registry, or the description of a repository, itself.
        **arguments: Those of `ConvNeXt`, such as `weights=None` for a variant from scratch. Architecture, classes,
            input size, pooling and the presence of a classifier are the published ones unless given.

    Raises:
        ValueError: If the name is unknown; see `ConvNeXt` for others.
        WeightsError: If a description cannot be had, or cannot be followed.

    Example:
        >>> create_model("convnext_mini.digits").output_shape
        (None, 10)
    """
    if isinstance(name, str | os.PathLike) and Path(name).suffix == ".keras":
        return _load_saved_model(Path(name), arguments)
    weight_set = name if isinstance(name, WeightSet) else None
    if isinstance(name, str):
        weight_set = checkpoints.find_weight_set(name) or checkpoints.default_weight_set(name)
    if weight_set and isinstance(described := hub.complete_weight_set(weight_set), hub.ModelInfo):
        return create_model(described, **arguments)
    variant = weight_set.variant if weight_set else str(name)
    if (segmentation_set := find_segmentation_set(name)) or name in SEGMENTATION_CONFIGS:
        return _create_segmentation_model(str(name), segmentation_set, arguments)
    if variant not in CONVNEXT_CONFIGS and (description := hub.load_model_info(name)):
        if description.segmentation:
            options = {"weights": description, "classes": description.classes, **arguments}
            source = hub.resolve_weights(options.pop("weights"))
            return create_segmentation_model(description.segmentation, source, **options)
        if description.stages is not None:
            options = {"weights": description, "norms": description.stage_norms, **arguments}
            source, transform = options.pop("weights"), description.transform
            return create_backbone(description.variant, source, description.stages, transform=transform, **options)
        options = {"weights": description, **description.arguments, **arguments}
        return ConvNeXt(**options)
    if (
        variant not in CONVNEXT_CONFIGS
        and isinstance(name, str)
        and checkpoints.find_weight_set(name, checkpoints.CLIP_REGISTRY)
    ):
        raise ValueError(f"{name} is a ConvNeXt-CLIP. Use convnext_keras.clip.create_model({name!r}).")
    if variant not in CONVNEXT_CONFIGS:
        hint = suggestion(name, [*CONVNEXT_CONFIGS, *checkpoints.load_registry()])
        raise ValueError(
            "name must be one of list_models() or list_weights(), a repository such as 'hf://owner/name', or a folder. "
            f"Received: name={name!r}.{hint}"
        )
    source = hub.resolve_weights(arguments.pop("weights", weight_set), variant)
    defaults: dict[str, Any] = {**CONVNEXT_CONFIGS[variant]._asdict(), "name": variant}
    if isinstance(source, WeightSet):
        defaults |= {"include_top": source.classes > 0, "classes": source.classes or 1000}
        if not source.labels:  # The classifier's outputs are an embedding, not scores of classes.
            defaults["classifier_activation"] = None
    options: dict[str, Any] = {**defaults, **arguments, "weights": source}
    return ConvNeXt(**options)


def _create_segmentation_model(name: str, weight_set: WeightSet | None, arguments: dict[str, Any]) -> ConvNeXtModel:
    """Returns a segmentation model of the registry, or one of its variants without weights."""
    variant = weight_set.variant if weight_set else name
    options = {"weights": weight_set, "name": variant, "classes": weight_set.classes if weight_set else 2, **arguments}
    source = hub.resolve_weights(options.pop("weights"), variant, checkpoints.SEGMENTATION_REGISTRY)
    source = hub.complete_weight_set(source) if isinstance(source, WeightSet) else source
    return create_segmentation_model(SEGMENTATION_CONFIGS[variant], source, **options)


def find_segmentation_set(name: Any) -> WeightSet | None:
    """Returns the weight set of a segmentation model by its name or that of its variant; None for other names."""
    if isinstance(name, WeightSet):
        return name if name.variant in SEGMENTATION_CONFIGS else None
    if not isinstance(name, str):
        return None
    table = checkpoints.SEGMENTATION_REGISTRY
    found = checkpoints.find_weight_set(name, table)
    return found if found and {".", "/"} & set(name) else checkpoints.default_weight_set(name, table)


def is_segmentation_name(name: Any) -> bool:
    """Returns whether a name is of a segmentation model: a weight set, variant, repository or folder.

    Raises:
        WeightsError: See `hub.load_model_info`.
    """
    if find_segmentation_set(name) or name in SEGMENTATION_CONFIGS:
        return True
    table = checkpoints.CLASSIFIER_REGISTRY
    is_known = isinstance(name, str) and (name in CONVNEXT_CONFIGS or checkpoints.find_weight_set(name, table))
    info = None if is_known else hub.load_model_info(name)
    return info is not None and info.segmentation is not None


def _load_saved_model(path: Path, arguments: dict[str, Any]) -> ConvNeXtModel:
    """Returns a model of this library from a file that `model.save` wrote."""
    if arguments:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ValueError(f"{path} holds a whole model, which takes no further arguments. Received: {given}")
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read as a model that Keras saved: {error}") from error
    if not isinstance(model, ConvNeXtModel):
        raise WeightsError(f"{path} holds a {type(model).__name__}, not a model of this library.")
    return model
