"""A weight file into a model: one strict gate for every format and layout, all or nothing.

Apart from `weights`, which says where files come from: this module knows models, that one does not.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from convnext_keras import matching
from convnext_keras.download import file_sha256
from convnext_keras.readers import WeightFile, WeightsError, open_weights
from convnext_keras.weights import Provenance, WeightSet, fetch

FLOATS = ("float32", "float16", "bfloat16")
HEAD = ("head_hidden/kernel", "head_hidden/bias", "head_dense/kernel", "head_dense/bias")
FRESH = {
    "head_dense": "The layer '{model}_{layer}' has fresh random weights: {file} has no classifier for these classes. "
    "Train it, or set classes= to the weights', or include_top=False.",
    "head_layernorm": "The last norm of {model!r} keeps its initial 1 and 0: {file} has none.",
}
SHOWN = 3  # examples of each fault in an error

# A variable with its path in a `.weights.h5` file, by its key.
Variables = Mapping[str, tuple[str, keras.Variable]]


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads a weight file of any published layout into a model, strictly.

    Names, shapes and types of all tensors are compared with the model before any data is read, then all data is read
    and found finite, and only then is anything assigned. A classifier in the file is left out if the model has none.

    Args:
        model: a model of this library, or one built on it.
        path: `.h5` of Keras 2 or 3, `.weights.h5`, or `.safetensors` of any layout that `layouts` lists.

    Raises:
        WeightsError: if the file does not fit; the model is then as it was before.

    Example:
        >>> from convnext_keras import create_model, load_weights
        >>> model = create_model("convnext_mini", weights=None, classes=10)
        >>> load_weights(model, "weights/convnext_mini.digits.safetensors")
    """
    load(model, Path(path))


def load(model: keras.Model, path: Path, may_stay_fresh: bool = False) -> list[str]:
    """`load_weights` for a constructor, which may leave the head fresh.

    Args:
        model: the model to fill.
        path: the file.
        may_stay_fresh: whether a classifier that the file has not, or has for other classes, stays as it is, and with
            it a last norm that the file has not.

    Returns:
        Keys of the layers that were left as they were.
    """
    variables = named_variables(model)
    with open_weights(path) as file:
        fit = _match(file, variables)
        fresh = _unfit_head(file, fit, variables) if may_stay_fresh else []
        variables = {key: value for key, value in variables.items() if key.split("/")[0] not in fresh}
        _refuse(file, fit, variables, model.name)
        for key, (_, variable) in variables.items():
            _read(file, fit, key, variable)
        for key, (_, variable) in variables.items():
            variable.assign(_read(file, fit, key, variable))
    return fresh


def _unfit_head(file: WeightFile, fit: matching.Match, variables: Variables) -> list[str]:
    """Layers of the head that the file has no tensors for, or a classifier for other classes."""
    head = [key for key in ("head_dense/kernel", "head_dense/bias") if key in variables]
    norm = [key for key in variables if key.startswith("head_layernorm/")]
    other = not all(key in fit.sources for key in head) or _misshapen(file, fit, {key: variables[key] for key in head})
    fresh = ["head_dense"] if head and other else []
    # Files of self-supervised training end before the last norm.
    if "head_dense/kernel" not in fit.sources and not any(key in fit.sources for key in norm):
        fresh += ["head_layernorm"]
    return fresh


def named_variables(model: keras.Model) -> dict[str, tuple[str, keras.Variable]]:
    """Each variable of a model with its path in a `.weights.h5` file, by its key (see `layouts`)."""
    found = list(inner_layers(model))
    stems = (re.fullmatch(r"(.*)stem_conv(_1)?", layer.name) for _, layer in found)
    prefix = next((stem[1] for stem in stems if stem), "")
    named = {}
    for path, layer in found:
        name = layer.name
        if re.fullmatch(r"(layer|rms|simple)_normalization(_\d+)?", name):
            name = f"{prefix}head_layernorm"  # Keras leaves the last norm unnamed in models without a top.
        for index, variable in enumerate(layer.weights):
            key = f"{name.removeprefix(prefix)}/{variable.name}"
            if variable.name != "seed_generator_state":
                key = key if key not in named else f"{layer.path}/{variable.name}"
                named[key] = (f"{path}/vars/{index}", variable)
    return named


def inner_layers(model: keras.Model, root: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """The innermost layers of a model, with the names that Keras' `.weights.h5` gives them: class and count."""
    counts: dict[str, int] = {}
    for layer in model.layers:
        kind = re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        count = counts[kind] = counts.get(kind, -1) + 1
        path = f"{root}layers/{kind}_{count}" if count else f"{root}layers/{kind}"
        if isinstance(layer, keras.Model):
            yield from inner_layers(layer, f"{path}/")
        else:
            yield path, layer


def _match(file: WeightFile, variables: Variables) -> matching.Match:
    files = {name: header.shape for name, header in file.headers.items()}
    shapes = {key: tuple(variable.shape) for key, (_, variable) in variables.items()}
    # A head that the model does not have is looked for too, to know it from a tensor that nobody expected.
    absent = dict.fromkeys((key for key in HEAD if key not in shapes), ())
    paths = {key: path for key, (path, _) in variables.items()}
    return matching.match(file.format, files, {**shapes, **absent}, paths)


def _misshapen(file: WeightFile, fit: matching.Match, variables: Variables) -> list[str]:
    """What is wrong with shapes and types, one phrase for each variable."""
    wrong = []
    for key in (key for key in variables if key in fit.sources):
        variable = variables[key][1]
        shape = tuple(variable.shape)
        header = file.headers[fit.sources[key]]
        valid = matching.torch_shapes(key, shape) if fit.torch else (shape,)
        if header.shape not in valid:
            wrong.append(f"{fit.sources[key]!r} is {header.shape}, expected {valid[0]}")
        elif header.dtype not in (*FLOATS, variable.dtype):
            wrong.append(f"{fit.sources[key]!r} is of type {header.dtype}, expected one of {', '.join(FLOATS)}")
    return wrong


def _refuse(file: WeightFile, fit: matching.Match, variables: Variables, model_name: str) -> None:
    """Raises unless every variable has its tensor and every tensor its variable."""
    if fit.layout is None:
        raise WeightsError(f"{file.path}: its names are of no known layout; it begins with {_some(file.headers)}.")
    findings = {
        "missing": [key for key in variables if key not in fit.sources],
        "not expected": [repr(name) for name in fit.surplus],
        "unfit": _misshapen(file, fit, variables),
    }
    if any(findings.values()):
        text = "; ".join(f"{len(found)} {kind}: {_some(found)}" for kind, found in findings.items() if found)
        raise WeightsError(f"{file.path} (layout {fit.layout}) does not fit the model {model_name!r}: {text}.")


def _some(items) -> str:
    items = list(items)
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _read(file: WeightFile, fit: matching.Match, key: str, variable: keras.Variable) -> np.ndarray:
    """One variable's values in at least float32, found finite in the variable's own type."""
    name = fit.sources[key]
    try:
        array = file.read(name).astype("float64" if variable.dtype == "float64" else "float32")
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{file.path}: {name!r} cannot be read: {error}") from error
    if fit.torch:
        array = matching.from_torch(key, array, tuple(variable.shape))
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(variable.dtype)).all()
    if not finite:
        raise WeightsError(f"{file.path}: {name!r} holds values that are not finite in {variable.dtype}.")
    return array


def load_source(model: keras.Model, source: WeightSet | Path, include_top: bool, may_stay_fresh: bool = True) -> None:
    """Fills a fresh model from a weight set or a file, and notes where its weights come from.

    A classifier for other classes than the model's leaves the model's own as it is, with a warning that names it,
    unless nothing `may_stay_fresh`.
    """
    path = source if isinstance(source, Path) else fetch(source, include_top)
    fresh = load(model, path, may_stay_fresh)
    for layer in fresh:
        warnings.warn(FRESH[layer].format(layer=layer, file=path.name, model=model.name), stacklevel=5)
    if isinstance(source, WeightSet):
        labels = None if "head_dense" in fresh else source.labels or None
        known = {"weights": source.name, "license": source.license, "recipe": source.recipe, "labels": labels}
    else:
        known = {}
    model.provenance = Provenance(file=path, sha256=file_sha256(path), **known)
