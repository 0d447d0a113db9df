"""The rest of the family, models by name, and their features; apart so that `convnext` stays one readable file."""

import difflib
import fnmatch
import re
from collections.abc import Sequence
from typing import Any

import keras

from convnext_keras import weights as weight_sets
from convnext_keras.convnext import ConvNeXt, constructor_of
from convnext_keras.variants import VARIANTS

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
    return fnmatch.filter(VARIANTS, pattern)


def create_model(name: str, **arguments: Any) -> keras.Model:
    """A model by the name of a variant or of a weight set.

    Args:
        name: a variant of `list_models()`, which comes with its default weights, or a weight set of `list_weights()`.
        **arguments: those of `ConvNeXt`, such as `weights=None` for a variant from scratch. Classes, input size and the
            presence of a classifier are the weight set's unless given.

    Raises:
        ValueError: if the name is unknown; see `ConvNeXt` for others.

    Example:
        >>> create_model("convnext_mini.digits").output_shape
        (None, 10)
    """
    sets = weight_sets.registry()
    weight_set = sets.get(name) or weight_sets.default(name)
    variant = weight_set.variant if weight_set else name
    if variant not in VARIANTS:
        close = difflib.get_close_matches(name, [*VARIANTS, *sets], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"name must be one of list_models() or list_weights(). Received: name={name!r}.{hint}")
    arguments.setdefault("weights", weight_set)
    arguments["weights"] = chosen = weight_sets.find(arguments["weights"], variant)
    if isinstance(chosen, weight_sets.WeightSet):
        arguments.setdefault("include_top", chosen.classes > 0)
        arguments.setdefault("classes", chosen.classes or 1000)
        if not chosen.labels:  # The classifier's outputs are an embedding, not scores of classes.
            arguments.setdefault("classifier_activation", None)
    return ConvNeXt(**VARIANTS[variant]._asdict(), **{"name": variant, **arguments})


def feature_extractor(model: keras.Model, stages: Sequence[int] = (0, 1, 2, 3)) -> keras.Model:
    """A model that gives the outputs of stages, which shares the layers and weights of `model`.

    Args:
        model: a model of this library.
        stages: which ones, 0 to 3, in the order wanted.

    Returns:
        A model with a list of outputs `(N, H / s, W / s, dims[stage])`, where `s` is 4, 8, 16, 32 (at most the model's
        `output_stride`); channels last, as the stages compute.

    Raises:
        ValueError: if the model has no such stage.

    Example:
        >>> from convnext_keras import ConvNeXtTiny
        >>> model = ConvNeXtTiny(weights=None, include_top=False, input_shape=(64, 64, 3))
        >>> [shape[1:] for shape in feature_extractor(model, stages=(0, 3)).output_shape]
        [(16, 16, 96), (2, 2, 768)]
    """
    last_blocks = {}
    for layer in model.layers:
        if place := re.fullmatch(r".*stage_(\d+)_block_\d+_add", layer.name):
            last_blocks[int(place[1])] = layer  # Blocks come in order: the last one stays.
    missing = [stage for stage in stages if stage not in last_blocks]
    if missing or not stages:
        raise ValueError(f"stages must be some of {sorted(last_blocks)} for {model.name!r}. Received: {tuple(stages)}")
    return keras.Model(model.input, [last_blocks[stage].output for stage in stages], name=f"{model.name}_features")
