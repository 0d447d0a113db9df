"""Strict, atomic loading of a weight file of any format and layout into a model."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from convnext_keras.checkpoints import key_mapping
from convnext_keras.checkpoints.download import VerifiedFile
from convnext_keras.checkpoints.formats import WeightsError, WeightsReader
from convnext_keras.checkpoints.key_mapping import Key
from convnext_keras.checkpoints.registry import WeightsSource
from convnext_keras.checkpoints.shards import open_checkpoint
from convnext_keras.data.class_names import resolve_class_names
from convnext_keras.layer_names import LAST_NORM, LayerName, parse_layer_names
from convnext_keras.layers import NORMS, DepthwiseConvolution, FusedDense
from convnext_keras.model import ConvNeXtModel
from convnext_keras.pretrained_info import PretrainedInfo

FLOATS = ("float32", "float16", "bfloat16")
CLASSIFIER = LayerName("head_dense")
CLASSIFIER_KEYS = [Key(CLASSIFIER, variable) for variable in ("kernel", "bias")]
# What a file may have for a model without a head.
HEAD = [*(Key(LayerName("head_hidden"), variable) for variable in ("kernel", "bias")), *CLASSIFIER_KEYS]
CLASSIFIERS = (CLASSIFIER, LayerName("decoder_classifier"), LayerName("auxiliary_classifier"))
AUXILIARY = "auxiliary_"  # the roles of the classifier of segmentation models that is used in training only
FRESH_WARNING = (
    "The layer '{model}_{layer}' has fresh random weights: {file} has no classifier for these classes. Train "
)
MISSING_HEAD_WARNINGS = {
    CLASSIFIER: f"{FRESH_WARNING}it, or set classes= to the weights', or include_top=False.",
    **dict.fromkeys(CLASSIFIERS[1:], f"{FRESH_WARNING}it, or set classes= to the weights'."),
    LAST_NORM: "The last norm of {model!r} keeps its initial 1 and 0: {file} has none.",
}
# The first convolution of each kind of stem, whose kernel depends on the number of input channels.
STEM_KERNELS = [Key(LayerName(role), "kernel") for role in ("stem_conv", "stem_conv_1")]
# Facts that descriptions of repositories have, and rows of a registry do not.
OPTIONAL_FACTS = ("reduce_labels", "problem_type", "thresholds", "categories")
MAX_EXAMPLES = 3  # examples of each fault in an error

# The classes of this library that stand for one of Keras' in models that keras.applications' ConvNeXt is part of.
KERAS_CLASSES = {DepthwiseConvolution: "Conv2D", FusedDense: "Dense", ConvNeXtModel: "Functional"}


class VariableSlot(NamedTuple):
    """Variable of a model, with its paths in `.weights.h5` files of this library and of keras.applications.

    Attributes:
        variable: The variable to fill.
        path: Its path in files of this library.
        keras_path: Its path in files of keras.applications.
        shape: Its shape in the file, which is the variable's own except for a first kernel of other input channels.
    """

    variable: keras.Variable
    path: str
    keras_path: str
    shape: tuple[int, ...]


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads a weight file of any published layout into a model, strictly.

    Names, shapes and types of all tensors are compared with the model before any data is read, then all data is read
    and found finite, and only then is anything assigned. A classifier in the file is left out if the model has none.

    Args:
        model: A model of this library, or one built on it.
        path: `.h5` of Keras 2 or 3, `.weights.h5`, `.safetensors` of any layout that `layouts` lists, or the index
            `model.safetensors.index.json` of one that is cut into several files.

    Raises:
        WeightsError: If the file does not fit; the model is then as it was before.

    Example:
        >>> from convnext_keras import create_model, load_weights
        >>> model = create_model("convnext_mini", weights=None, classes=10)
        >>> load_weights(model, "weights/convnext_mini.digits.safetensors")
    """
    load(model, Path(path))


def load(
    model: keras.Model, path: Path, is_new_model: bool = False, allow_missing_head: bool = False
) -> list[LayerName]:
    """Loads weights like `load_weights`, for a constructor that may leave the head with random weights.

    Args:
        model: The model to fill.
        path: The file.
        is_new_model: Whether the model is new and is discarded if loading fails.
        allow_missing_head: Whether a classifier that the file has not, or has for other classes, stays as it is, and
            with it a last norm that the file has not.

    Returns:
        The layers that keep their random weights.
    """
    slots = variable_slots(model)
    with open_checkpoint(path) as file:
        fit = _match_file(file, slots)
        if allow_missing_head:
            slots = _adapt_input_channels(file, fit, slots)
        fresh = _find_missing_head(file, fit, slots) if allow_missing_head else []
        slots = {key: slot for key, slot in slots.items() if key.layer not in fresh}
        _raise_if_mismatch(file, fit, slots, model.name)
        if not is_new_model:
            # Reading all of it twice is the price of changing nothing unless all is good, with one tensor in memory.
            for key, slot in slots.items():
                _read_tensor(file, fit, key, slot)
        for key, slot in slots.items():
            slot.variable.assign(_read_tensor(file, fit, key, slot))
    return fresh


def _find_missing_head(
    file: WeightsReader, fit: key_mapping.KeyMatch, slots: Mapping[Key, VariableSlot]
) -> list[LayerName]:
    """Returns layers of the head that the file has no tensors for, or a classifier for other classes."""
    fresh = []
    for layer in CLASSIFIERS:
        head = {key: slot for key, slot in slots.items() if key.layer == layer}
        if not all(key in fit.sources for key in head) or _shape_errors(file, fit, head):
            fresh.append(layer)
    auxiliary = dict.fromkeys(key.layer for key in slots if key.layer.role.startswith(AUXILIARY))
    if not any(key.layer in auxiliary for key in fit.sources):
        fresh += [layer for layer in auxiliary if layer not in fresh]
    # Files of self-supervised training end before the last norm.
    has_norm = any(key.layer == LAST_NORM for key in fit.sources) or all(key.layer != LAST_NORM for key in slots)
    return fresh if has_norm or CLASSIFIER_KEYS[0] in fit.sources else [*fresh, LAST_NORM]


def _adapt_input_channels(
    file: WeightsReader, fit: key_mapping.KeyMatch, slots: Mapping[Key, VariableSlot]
) -> dict[Key, VariableSlot]:
    """Returns the slots, with the shape in the file for a first kernel that differs in its input channels only."""
    found = dict(slots)
    for key in (key for key in STEM_KERNELS if key in slots and key in fit.sources):
        shape = slots[key].shape
        stored = file.headers[fit.sources[key]].shape
        channels = stored[1 if fit.torch else 2] if len(stored) == len(shape) else 0
        other = (*shape[:2], channels, shape[3])
        if channels not in (0, shape[2]) and stored in (
            key_mapping.torch_shapes(key, other) if fit.torch else (other,)
        ):
            found[key] = slots[key]._replace(shape=other)
            warnings.warn(
                f"The first kernel of {file.path.name} is converted from {channels} to {shape[2]} input channels. "
                "Train the model before you use it.",
                stacklevel=6,
            )
    return found


def adapt_input_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Converts the first kernel of a network to another number of input channels, as timm does.

    Source: `adapt_input_conv` of timm 1.0 (timm/models/_manipulate.py). One channel gets the sum over the channels of
    the file. Other numbers get the channels of the file in turn, scaled so that equal channels give the same sum.

    Args:
        kernel: `(height, width, channels of the file, filters)`.
        channels: Number of input channels of the model.

    Returns:
        `(height, width, channels, filters)`.

    Example:
        >>> adapt_input_kernel(np.ones((4, 4, 3, 8)), 1).shape
        (4, 4, 1, 8)
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % kernel.shape[2]] * (kernel.shape[2] / channels)


def named_layers(model: keras.Model) -> list[tuple[LayerName, keras.Layer]]:
    """Returns the innermost layers of a model in graph order, each with its `LayerName`."""
    unique: dict[str, keras.Layer] = {}
    for path, layer in iter_layer_paths(model, lambda kind: kind.__name__):
        unique[path if layer.name in unique else layer.name] = layer
    names = parse_layer_names({name: type(layer) in NORMS.values() for name, layer in unique.items()})
    return [*zip(names.values(), unique.values(), strict=True)]


def variable_slots(model: keras.Model) -> dict[Key, VariableSlot]:
    """Returns each variable of a model but the state of random generators, by its key."""
    paths = [path for path, _ in iter_layer_paths(model, lambda kind: kind.__name__)]
    keras_paths = [path for path, _ in iter_layer_paths(model, lambda kind: KERAS_CLASSES.get(kind, kind.__name__))]
    slots = {}
    for (name, layer), path, keras_path in zip(named_layers(model), paths, keras_paths, strict=True):
        for index, variable in enumerate(layer.weights):
            if variable.name != "seed_generator_state":
                end = f"vars/{index}"
                shape = tuple(variable.shape)
                slots[Key(name, variable.name)] = VariableSlot(variable, f"{path}/{end}", f"{keras_path}/{end}", shape)
    return slots


def snake_case(class_name: str) -> str:
    """Returns the name that Keras gives layers of a class in `.weights.h5` files.

    Example:
        >>> snake_case("LayerNormalization")
        'layer_normalization'
    """
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", class_name).lower()


def iter_layer_paths(
    model: keras.Model, class_name: Callable[[type], str], root: str = ""
) -> Iterator[tuple[str, keras.Layer]]:
    """Returns the innermost layers of a model, with the paths that Keras' `.weights.h5` gives them: class and count."""
    counts: dict[str, int] = {}
    for layer in model.layers:
        kind = snake_case(class_name(type(layer)))
        count = counts[kind] = counts.get(kind, -1) + 1
        path = f"{root}layers/{kind}_{count}" if count else f"{root}layers/{kind}"
        if isinstance(layer, keras.Model):
            yield from iter_layer_paths(layer, class_name, f"{path}/")
        else:
            yield path, layer


def _match_file(file: WeightsReader, slots: Mapping[Key, VariableSlot]) -> key_mapping.KeyMatch:
    files = {name: header.shape for name, header in file.headers.items()}
    shapes = {key: slot.shape for key, slot in slots.items()}
    # A head that the model does not have is looked for too, to know it from a tensor that nobody expected.
    absent = dict.fromkeys((key for key in HEAD if key not in shapes), ())
    paths = [{key: slot.path for key, slot in slots.items()}, {key: slot.keras_path for key, slot in slots.items()}]
    return key_mapping.match_keys(file.format, files, {**shapes, **absent}, paths)


def _shape_errors(file: WeightsReader, fit: key_mapping.KeyMatch, slots: Mapping[Key, VariableSlot]) -> list[str]:
    """Returns one phrase for each variable whose shape or type does not fit."""
    wrong = []
    for key in (key for key in slots if key in fit.sources):
        variable, name = slots[key].variable, fit.sources[key]
        shape, header = slots[key].shape, file.headers[name]
        valid = key_mapping.torch_shapes(key, shape) if fit.torch else (shape,)
        if header.shape not in valid:
            wrong.append(f"{name!r} is {header.shape}, expected {valid[0]}")
        elif header.dtype not in (*FLOATS, variable.dtype):
            wrong.append(f"{name!r} is of type {header.dtype}, expected one of {', '.join(FLOATS)}")
    return wrong


def _raise_if_mismatch(
    file: WeightsReader, fit: key_mapping.KeyMatch, slots: Mapping[Key, VariableSlot], model_name: str
) -> None:
    """Raises unless every variable has its tensor and every tensor its variable."""
    if fit.layout is None:
        raise WeightsError(f"{file.path}: its names are of no known layout; it begins with {_preview(file.headers)}.")
    faults = {
        "missing": [str(key) for key in slots if key not in fit.sources],
        "not expected": [repr(name) for name in fit.unexpected],
        "unfit": _shape_errors(file, fit, slots),
    }
    if any(faults.values()):
        text = "; ".join(f"{len(cases)} {kind}: {_preview(cases)}" for kind, cases in faults.items() if cases)
        raise WeightsError(f"{file.path} (layout {fit.layout}) does not fit the model {model_name!r}: {text}.")


def _preview(items) -> str:
    items = list(items)
    return ", ".join(items[:MAX_EXAMPLES]) + (
        f" and {len(items) - MAX_EXAMPLES} more" if len(items) > MAX_EXAMPLES else ""
    )


def _read_tensor(file: WeightsReader, fit: key_mapping.KeyMatch, key: Key, slot: VariableSlot) -> np.ndarray:
    """Returns one variable's values in at least float32, found finite in the variable's own type."""
    name, variable = fit.sources[key], slot.variable
    try:
        array = file.read(name).astype("float64" if variable.dtype == "float64" else "float32")
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{file.path}: {name!r} cannot be read: {error}") from error
    if fit.torch:
        array = key_mapping.from_torch(key, array, slot.shape)
    if slot.shape != tuple(variable.shape):
        array = adapt_input_kernel(array, variable.shape[2])
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(variable.dtype)).all()
    if not finite:
        raise WeightsError(f"{file.path}: {name!r} holds values that are not finite in {variable.dtype}.")
    return array


def load_pretrained(
    model: ConvNeXtModel, source: WeightsSource | Path, file: VerifiedFile, allow_missing_head: bool = True
) -> PretrainedInfo:
    """Fills a fresh model from the file that was fetched of a source, and notes where its weights come from.

    A classifier for other classes than the model's leaves the model's own as it is, with a warning that names it,
    unless nothing `allow_missing_head`.
    """
    fresh = load(model, file.path, is_new_model=True, allow_missing_head=allow_missing_head)
    for layer in (layer for layer in fresh if layer in MISSING_HEAD_WARNINGS):
        warnings.warn(
            MISSING_HEAD_WARNINGS[layer].format(layer=layer, file=file.path.name, model=model.name), stacklevel=5
        )
    known = {}
    if isinstance(source, WeightsSource):
        known = {
            "weights_name": source.name,
            "license": source.license,
            "transform": source.transform,
            "class_names": resolve_class_names(source.labels),
            **{name: getattr(source, name) for name in OPTIONAL_FACTS if hasattr(source, name)},
        }
    info = PretrainedInfo(file.path, file.sha256, **known)
    model.pretrained_info = info.without_classes() if {*CLASSIFIERS[:2]} & {*fresh} else info
    return model.pretrained_info
