"""Models in the formats of other programs: written, checked by these programs, and described."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from convnext_keras import clip
from convnext_keras.arguments import alternatives
from convnext_keras.clip.model import CLIP
from convnext_keras.clip.text_tower import PositionEmbedding
from convnext_keras.deploy import runtimes
from convnext_keras.deploy.folding import fold_for_inference
from convnext_keras.deploy.formats import FORMATS, format_named
from convnext_keras.deploy.writing import run_apart, write
from convnext_keras.features import functional, inner_layers
from convnext_keras.provenance import Provenance, provenance_of

LAYOUTS = ("nhwc", "nchw")
PIXELS = ("float32", "uint8")
MOST_DIFFERENCE = 1e-4  # of the largest output, between an artefact and the Keras model in float32
TOWERS = ("image_encoder", "text_encoder")
CHECKED_ROWS = (1, 3)
FREE_SIZES = ((64, 96), (96, 64))  # that are tried where height and width are open


class Export(NamedTuple):
    """What was written.

    Attributes:
        path: of the artefact; beside it lies its description, `PATH.json`.
        format: a key of `FORMATS`.
        difference: the largest between its outputs and the Keras model's, by the largest output; None if unchecked.
        bytes: of all its files.
        seconds: for one picture or text, by the format's own program; None if unchecked.
    """

    path: Path
    format: str
    difference: float | None
    bytes: int
    seconds: float | None


def export(
    model: keras.Model | clip.ZeroShotClassifier,
    path: str | os.PathLike,
    format: str | None = None,
    *,
    batch: int | None = None,
    size: int | tuple[int, int] | None = None,
    layout: str = "nhwc",
    pixels: str = "float32",
    overwrite: bool = False,
    check: bool = True,
) -> Export:
    """Writes a model for inference in a format of other programs, whatever the active backend.

    Pixels go in as 0..255: the normalisation is inside. The file is run by the format's own program, in a process
    without Keras and this library, and compared with the model before it is put in its place.

    Args:
        model: a classifier, backbone or `feature_extractor` of this library, or one built on it; a tower of a
            ConvNeXt-CLIP, or a `ZeroShotClassifier`, whose labels become part of it.
        path: of the file or, for `"saved_model"`, folder to write.
        format: `"saved_model"`, `"litert"`, `"onnx"`, `"torch"` (an `ExportedProgram`), `"openvino"` or `"stablehlo"`
            (by `jax.export`, for CPUs, CUDA and TPUs); by default the one that the path ends like.
        batch: rows of the input; None for any number.
        size: height and width in pixels, or the number of tokens of a text tower; by default those of the model.
        layout: `"nhwc"`, or `"nchw"` for pixels with their channels in front.
        pixels: `"float32"`, or `"uint8"` for pixels as they are decoded.
        overwrite: whether what is at the path may be replaced.
        check: whether to run and compare it.

    Raises:
        ValueError: if an argument is not valid, the path is taken, the format cannot say the model, or the outputs
            differ by more than 1e-4 of the largest; nothing is left at the path then.
        ImportError: if a package is missing; the message names the extra that brings it.

    Example:
        >>> from convnext_keras import create_model, deploy
        >>> written = deploy.export(create_model("convnext_mini.digits"), "digits.xml")
        >>> written.format, written.difference < 1e-5
        ('openvino', True)
    """
    path = Path(path)
    name = format_named(format, path)
    _check_words(layout=(layout, LAYOUTS), pixels=(pixels, PIXELS))
    for place in (path, path.with_name(path.name + runtimes.DESCRIPTION)):
        _check_free(place, overwrite)
    _check_packages(name)
    if isinstance(model, CLIP):
        raise ValueError("A ConvNeXt-CLIP has two towers: export model.image_encoder and model.text_encoder.")
    source = model.as_model() if isinstance(model, clip.ZeroShotClassifier) else model
    ready = prepared(source, name, batch, size, layout, pixels)
    description = described(source, ready, name, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        try:
            write(name, ready, partial, description)
        except RuntimeError as error:
            backend = FORMATS[name].backend
            raise ValueError(f"{backend} cannot write {source.name!r} as {name}: {error}") from error
        beside = partial.with_name(partial.name + runtimes.DESCRIPTION)
        beside.write_text(json.dumps(description, indent=2), encoding="utf-8")
        difference, seconds = checked(ready, partial) if check else (None, None)
        if difference is not None:
            facts = {**description, "difference": difference}
            beside.write_text(json.dumps(facts, indent=2), encoding="utf-8")
        files = [file for file in Path(folder).rglob("*") if file.is_file() and file != beside]
        total = sum(file.stat().st_size for file in files)
        parts = [*Path(folder).iterdir()]
        for part in parts:  # OpenVINO's and large ONNX models have a second file, whose name may be taken too.
            _check_free(path.parent / part.name, overwrite)
        for part in parts:
            _replace(part, path.parent / part.name)
    return Export(path, name, difference, total, seconds)


def _check_words(**words: tuple[str, Sequence[str]]) -> None:
    for name, (given, valid) in words.items():
        if given not in valid:
            raise ValueError(f"{name} must be {alternatives(valid)}. Received: {name}={given!r}")


def _check_free(path: Path, overwrite: bool) -> None:
    """Raises ValueError if a path is taken and must not, or by a folder that `export` did not write."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Choose another path, or overwrite it.")
    if path.is_dir() and not path.with_name(path.name + runtimes.DESCRIPTION).is_file():
        raise ValueError(f"{path} is a folder that no export wrote. Choose another path, or remove it.")


def _check_packages(name: str) -> None:
    missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = FORMATS[name].extra
        raise ImportError(f'{name} needs {", ".join(missing)}: pip install "convnext-keras[{extra}]"')


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def prepared(
    model: keras.Model, format: str, batch: int | None, size: int | tuple[int, int] | None, layout: str, pixels: str
) -> keras.Model:
    """The model folded for inference, behind an input of the shape, layout and type wanted.

    Raises:
        ValueError: if the format cannot leave open what is open.
    """
    try:
        folded = fold_for_inference(model)
    except ValueError:
        if not _context_length(model):
            raise
        folded = functional(model)  # A text tower, which has nothing to fold.
    if len(folded.inputs) != 1:
        raise ValueError(f"{model.name!r} has {len(folded.inputs)} inputs. Export a model with one.")
    _, *shape = folded.inputs[0].shape
    if len(shape) == 1:
        length = size or shape[0] or _context_length(folded)
        inputs = keras.Input((length,), batch_size=batch, dtype="int32", name="tokens")
        return keras.Model(inputs, folded(inputs), name=model.name)
    height, width = (size, size) if isinstance(size, int) else size or shape[:2]
    if None in (height, width) and not FORMATS[format].has_free_sizes:
        free = alternatives(name for name, row in FORMATS.items() if row.has_free_sizes)
        raise ValueError(f"{format} needs a fixed height and width, such as size=224; {free} leaves them open.")
    channels = shape[2]
    wanted = (height, width, channels) if layout == "nhwc" else (channels, height, width)
    inputs = keras.Input(wanted, batch_size=batch, dtype=pixels, name="pixels")
    rows = ops.cast(inputs, "float32") if pixels != "float32" else inputs
    return keras.Model(inputs, folded(ops.transpose(rows, (0, 2, 3, 1)) if layout == "nchw" else rows), name=model.name)


def _context_length(model: keras.Model) -> int | None:
    """Most tokens of a text tower; None for another model."""
    layers = [layer for layer in inner_layers(model) if isinstance(layer, PositionEmbedding)]
    return layers[0].context_length if layers else None


def described(model: keras.Model, ready: keras.Model, format: str, layout: str) -> dict[str, Any]:
    """What a user of the artefact has to know, as plain data."""
    row = ready.inputs[0]
    provenance = provenance_of(model) or Provenance()
    recipe, edges = provenance.recipe, row.shape[1:3] if layout == "nhwc" else row.shape[2:]
    if recipe and None not in edges and edges not in (recipe.size, (recipe.size, recipe.size)):
        provenance = dataclasses.replace(provenance, recipe=recipe._replace(size=edges, edge=None))
    return {
        "convnext_keras": importlib.metadata.version("convnext-keras"),
        "format": format,
        "input": row.name,
        "shape": [*row.shape],
        "dtype": row.dtype,
        "layout": layout if len(row.shape) == 4 else None,
        "outputs": output_names(model),
        **provenance.to_config(),
    }


def output_names(model: keras.Model) -> list[str]:
    """What a model's outputs are, in words."""
    outputs = keras.tree.flatten(model.output)
    if len(outputs) > 1:
        return [f"features_{number}" for number in range(len(outputs))]
    if len(outputs[0].shape) == 4:
        return ["features"]
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or model.name in TOWERS:
        return ["embeddings"]
    return ["logits" if last.activation is keras.activations.linear else "probabilities"]


def samples(model: keras.Model) -> dict[str, np.ndarray]:
    """Random inputs, with every number of rows and size that is to be tried."""
    random = np.random.default_rng(0)
    batch, *shape = model.inputs[0].shape
    counts = (batch,) if batch else CHECKED_ROWS
    if len(shape) == 1:
        words = next(layer.input_dim for layer in inner_layers(model) if isinstance(layer, keras.layers.Embedding))
        rows = {str(count): random.integers(1, words - 1, (count, *shape)).astype("int32") for count in counts}
        for tokens in rows.values():
            tokens[np.arange(len(tokens)), random.integers(1, shape[0], len(tokens))] = words - 1  # The end of a text.
        return rows
    found = {}
    for number, sizes in enumerate(FREE_SIZES if None in shape else FREE_SIZES[:1]):
        free = iter(sizes)
        filled = [length or next(free) for length in shape]
        for count in counts:
            values = random.integers(0, 256, (count, *filled))
            found[f"{count}, {number}"] = values.astype(model.inputs[0].dtype)
    return found


def checked(model: keras.Model, path: Path) -> tuple[float, float]:
    """Largest difference of an artefact from the Keras model by the largest output, and seconds of one row.

    Raises:
        ValueError: if it is above `MOST_DIFFERENCE`, or the format's own program cannot run it.
    """
    inputs = samples(model)
    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **inputs)  # pyright: ignore[reportArgumentType]
        try:
            run_apart([runtimes.__file__, str(path), str(given), str(results)])
        except RuntimeError as error:
            raise ValueError(f"What was written does not run: {error}") from error
        with np.load(results) as arrays:
            found = dict(arrays)
    differences = []
    for name, rows in inputs.items():
        for number, expected in enumerate(keras.tree.flatten(model(rows, training=False))):
            wanted = np.asarray(ops.convert_to_numpy(expected), "float64")
            exact = found[f"{name} {number}"]
            if exact.shape != wanted.shape:
                raise ValueError(f"What was written gives {exact.shape} where the model gives {wanted.shape}.")
            differences.append(np.abs(exact - wanted).max() / np.abs(wanted).max())
    difference = float(max(differences))
    if not difference <= MOST_DIFFERENCE:
        raise ValueError(
            f"What was written differs by {difference:.1e} of the largest output, more than {MOST_DIFFERENCE:.0e}."
        )
    return difference, float(found[f"{next(iter(inputs))} seconds"])
