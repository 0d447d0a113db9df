"""The constructors of the rest of the family, and models by name; apart so that `convnext` stays one readable file."""

import fnmatch
import os
from pathlib import Path
from typing import Any

import keras

from convnext_keras import checkpoints, hub
from convnext_keras.checkpoints import WeightsError, WeightSet, WeightsSource
from convnext_keras.configs import CONVNEXT_CONFIGS
from convnext_keras.convnext import ConvNeXt, constructor_of
from convnext_keras.model import ConvNeXtModel
from convnext_keras.validation import reject_foreign_arguments, suggestion

ConvNeXtAtto = constructor_of("convnext_atto", "ConvNeXtAtto")
ConvNeXtFemto = constructor_of("convnext_femto", "ConvNeXtFemto")
ConvNeXtPico = constructor_of("convnext_pico", "ConvNeXtPico")
ConvNeXtNano = constructor_of("convnext_nano", "ConvNeXtNano")
ConvNeXtXXLarge = constructor_of("convnext_xxlarge", "ConvNeXtXXLarge")
ConvNeXtV2Atto = constructor_of("convnextv2_atto", "ConvNeXtV2Atto")
ConvNeXtV2Femto = constructor_of("convnextv2_femto", "ConvNeXtV2Femto")
ConvNeXtV2Pico = constructor_of("convnextv2_pico", "ConvNeXtV2Pico")
ConvNeXtV2Nano = constructor_of("convnextv2_nano", "ConvNeXtV2Nano")
ConvNeXtV2Tiny = constructor_of("convnextv2_tiny", "ConvNeXtV2Tiny")
ConvNeXtV2Base = constructor_of("convnextv2_base", "ConvNeXtV2Base")
ConvNeXtV2Large = constructor_of("convnextv2_large", "ConvNeXtV2Large")
ConvNeXtV2Huge = constructor_of("convnextv2_huge", "ConvNeXtV2Huge")


def list_models(pattern: str = "*") -> list[str]:
    """Names of the variants.

    Args:
        pattern: shell pattern that the name matches, such as `"*base*"`.

    Example:
        >>> list_models("*mini")
        ['convnext_mini']
    """
    return fnmatch.filter(CONVNEXT_CONFIGS, pattern)


def create_model(name: str | os.PathLike | WeightsSource, **arguments: Any) -> ConvNeXtModel:
    """A model by the name of a variant, of a weight set, or of any repository that holds a ConvNeXt.

    Args:
        name: a variant of `list_models()`, which comes with its default weights, or a weight set of `list_weights()`;
            or a repository of the hub, `"hf://owner/name"` or `"hf://owner/name@revision"`, or a folder, as timm,
            transformers and `save_pretrained` write them, whose own files say what the model is; or a `.keras` file
            of a whole model; or the row of a registry, or the description of a repository, itself.
        **arguments: those of `ConvNeXt`, such as `weights=None` for a variant from scratch. Architecture, classes,
            input size, pooling and the presence of a classifier are the published ones unless given.

    Raises:
        ValueError: if the name is unknown; see `ConvNeXt` for others.
        WeightsError: if a description cannot be had, or cannot be followed.

    Example:
        >>> create_model("convnext_mini.digits").output_shape
        (None, 10)
    """
    reject_foreign_arguments("create_model", arguments)
    if isinstance(name, str | os.PathLike) and Path(name).suffix == ".keras":
        return _load_saved_model(Path(name), arguments)
    weight_set = name if isinstance(name, WeightSet) else None
    if isinstance(name, str):
        weight_set = checkpoints.find_weight_set(name) or checkpoints.default_weight_set(name)
    variant = weight_set.variant if weight_set else str(name)
    if variant not in CONVNEXT_CONFIGS and (description := hub.load_model_info(name)):
        described: dict[str, Any] = {"weights": description, **description.arguments, **arguments}
        return ConvNeXt(**described)
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


def _load_saved_model(path: Path, arguments: dict[str, Any]) -> ConvNeXtModel:
    """A model of this library from a file that `model.save` wrote."""
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
