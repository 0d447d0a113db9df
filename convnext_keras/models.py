"""Models by name, over the constructors; apart from them so that `convnext` is the architecture and nothing else."""

import difflib
import fnmatch
from typing import Any

import keras

from convnext_keras import weights as weight_sets
from convnext_keras.convnext import ConvNeXt
from convnext_keras.variants import VARIANTS


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
    weight_set = sets.get(name) or next((row for row in sets.values() if row.variant == name), None)
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
    return ConvNeXt(**VARIANTS[variant]._asdict(), **{"name": variant, **arguments})
