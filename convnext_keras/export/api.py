"""Models in the formats of other programs: written, checked by these programs, and described."""

import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from convnext_keras import clip
from convnext_keras.clip.model import CLIP
from convnext_keras.constructors import create_model
from convnext_keras.export import reducing, runtimes
from convnext_keras.export.calibration import prepare_calibration
from convnext_keras.export.formats import FORMATS, resolve_format
from convnext_keras.export.metadata import build_metadata, get_context_length, get_embedded_stats
from convnext_keras.export.verification import verify_export
from convnext_keras.export.writing import DEFAULT_OPSET, run_subprocess, write
from convnext_keras.files import atomic_path
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.surgery import cast_to_bfloat16, fold_for_inference, to_functional
from convnext_keras.validation import format_choices

INPUT_LAYOUTS = ("nhwc", "nchw")
INPUT_DTYPES = ("float32", "uint8", "normalized")
MIN_OPSET = 18  # that PyTorch writes


class ExportResult(NamedTuple):
    """What was written.

    Attributes:
        path: of the artifact; beside it lies its description, `PATH.json`.
        format: a key of `FORMATS`.
        precision: of its weights and products.
        max_relative_error: the largest between its outputs and the Keras model's, by the largest output; None if
            unchecked.
        size_bytes: of all its files.
        latency_seconds: for one image or text, by the format's own program; None if unchecked.
    """

    path: Path
    format: str
    precision: str
    max_relative_error: float | None
    size_bytes: int
    latency_seconds: float | None


def export(
    model: keras.Model | clip.ZeroShotClassifier | str,
    path: str | os.PathLike,
    format: str | None = None,
    *,
    batch: int | None = None,
    size: int | tuple[int, int] | None = None,
    layout: str = "nhwc",
    pixels: str = "float32",
    precision: str = "float32",
    calibration: Any = None,
    opset: int | None = None,
    overwrite: bool = False,
    check: bool = True,
) -> ExportResult:
    """Writes a model for inference in a format of other programs, whatever the active backend.

    Pixels go in as 0..255, with the normalization inside, unless `pixels` says otherwise. The file is run by the
    format's own program, in a process without Keras and this library, and compared with the model before it is put in
    its place.

    Args:
        model: a classifier, backbone or `feature_extractor` of this library, or one built on it, or its name for
            `create_model`; a tower of a ConvNeXt-CLIP, or a `ZeroShotClassifier`, whose labels become part of it.
        path: of the file or, for `"load_saved_model"`, folder to write.
        format: `"load_saved_model"`, `"litert"`, `"onnx"`, `"torch"` (an `ExportedProgram`), `"openvino"` or
            `"stablehlo"` (by `jax.export`, for CPUs, CUDA and TPUs); by default the one that the path ends like.
        batch: rows of the input; None for any number.
        size: height and width in pixels, or the number of tokens of a text tower; by default those of the model.
        layout: `"nhwc"`, or `"nchw"` for pixels with their channels in front.
        pixels: `"float32"`, `"uint8"` for pixels as they are decoded, or `"normalized"` for a model that takes what
            `normalize` gives.
        precision: `"float32"`; `"float16"` for weights of half the size; `"bfloat16"` for products of such weights too,
            but for the head's; `"int8_weights"` for weights of a quarter; or `"int8"` for products of such numbers too,
            which are faster. See `FORMATS` for which formats have them. The input and the outputs keep their types.
        calibration: for `"int8"`, images such as those that the model will see (see `CLIP.encode_image` for what they
            may be); a few hundred are enough. Every eighth is kept apart for the check.
        opset: of ONNX, 18 or higher; 20 by default.
        overwrite: whether what is at the path may be replaced.
        check: whether to run and compare it.

    Raises:
        ValueError: if an argument is not valid, the path is taken, the format cannot say the model, or the outputs
            differ by more than 1e-4 of the largest (0.01 in float16, 0.05 in bfloat16 and int8_weights, 0.25 in int8);
            nothing is left at the path then.
        ImportError: if a package is missing; the message names the extra that brings it.

    Example:
        >>> from convnext_keras import create_model, export
        >>> written = export.export(create_model("convnext_mini.digits"), "digits.xml")
        >>> written.format, written.max_relative_error < 1e-5
        ('openvino', True)
    """
    path = Path(path)
    name = resolve_format(format, path)
    _check_choices(layout=(layout, INPUT_LAYOUTS), pixels=(pixels, INPUT_DTYPES))
    _check_precision(name, precision, calibration, opset)
    for place in (path, path.with_name(path.name + runtimes.METADATA_SUFFIX)):
        _check_output_path(place, overwrite)
    _check_packages(name, precision)
    model = create_model(model) if isinstance(model, str) else model
    if isinstance(model, CLIP):
        raise ValueError(
            "A ConvNeXt-CLIP has two towers: use export_clip, or export model.image_encoder or model.text_encoder."
        )
    source = model.to_keras_model() if isinstance(model, clip.ZeroShotClassifier) else model
    ready = prepare_for_export(source, name, batch, size, layout, pixels)
    statistics = get_embedded_stats(source) if pixels == "normalized" else None
    facts: dict[str, Any] = {"layout": layout, "pixels": pixels, "statistics": statistics, "precision": precision}
    description = build_metadata(
        source, ready, name, facts | ({"opset": opset or DEFAULT_OPSET} if name == "onnx" else {})
    )
    rows = held_out = None
    if precision == "int8":
        if get_context_length(source):
            raise ValueError("The products of a text tower lose too much in int8. Choose precision='int8_weights'.")
        transform = PretrainedInfo.from_config(description).transform
        rows, held_out = prepare_calibration(ready, transform, layout, statistics, calibration)
    with atomic_path(path) as partial:
        folder = partial.parent
        beside = partial.with_name(partial.name + runtimes.METADATA_SUFFIX)
        _write(source, ready, partial, description, rows)
        beside.write_text(json.dumps(description, indent=2), encoding="utf-8")
        difference, seconds = verify_export(ready, partial, precision, held_out) if check else (None, None)
        if difference is not None:
            beside.write_text(json.dumps({**description, "difference": difference}, indent=2), encoding="utf-8")
        total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file != beside)
        for (
            part
        ) in folder.iterdir():  # OpenVINO's and large ONNX models have a second file, whose name may be taken too.
            _check_output_path(path.parent / part.name, overwrite)
    return ExportResult(path, name, precision, difference, total, seconds)


def _write(
    source: keras.Model, ready: keras.Model, path: Path, description: dict[str, Any], rows: np.ndarray | None
) -> None:
    """Writes an artifact, and lowers its precision where that is done to the file, in a process of its own.

    Raises:
        ValueError: if its backend cannot write it.
    """
    name, precision = description["format"], description["precision"]
    try:
        write(name, cast_to_bfloat16(ready) if precision == "bfloat16" else ready, path, description)
        if (name, precision) not in reducing.QUANTIZERS:
            return
        count = ready.inputs[0].shape[0] or 1
        used = np.zeros((0, 1)) if rows is None else rows
        whole = used[: len(used) // count * count]
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "rows.npz"
            np.savez(given, rows=whole.reshape(-1, count, *whole.shape[1:]))
            run_subprocess([reducing.__file__, name, precision, str(path), str(given)])
    except RuntimeError as error:
        backend = FORMATS[name].backend
        raise ValueError(f"{backend} cannot write {source.name!r} as {name} in {precision}: {error}") from error


def _check_choices(**words: tuple[str, Sequence[str]]) -> None:
    for name, (given, valid) in words.items():
        if given not in valid:
            raise ValueError(f"{name} must be {format_choices(valid)}. Received: {name}={given!r}")


def _check_output_path(path: Path, overwrite: bool) -> None:
    """Raises ValueError if a path is taken and must not, or by a folder that `export` did not write."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Choose another path, or overwrite it.")
    if path.is_dir() and not path.with_name(path.name + runtimes.METADATA_SUFFIX).is_file():
        raise ValueError(f"{path} is a folder that no export wrote. Choose another path, or remove it.")


def _check_precision(name: str, precision: str, calibration: Any, opset: int | None) -> None:
    _check_choices(precision=(precision, FORMATS[name].precisions))
    if calibration is not None and precision != "int8":
        raise ValueError(f"calibration is for precision='int8'. Received: precision={precision!r}")
    if calibration is None and precision == "int8":
        raise ValueError("int8 needs calibration: images such as the model will see. Or choose int8_weights.")
    if opset is not None and (name != "onnx" or opset < MIN_OPSET):
        raise ValueError(f"opset is of onnx, and {MIN_OPSET} or higher. Received: opset={opset} for {name}")


def _check_packages(name: str, precision: str) -> None:
    needed = dict.fromkeys(FORMATS[name].packages, FORMATS[name].extra)
    if (name, precision) in reducing.NNCF_QUANTIZED:
        needed["nncf"] = "int8"
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            what = precision if extra == "int8" else name
            raise ImportError(f'{what} needs {package}: pip install "convnext-keras[{extra}]"')


def prepare_for_export(
    model: keras.Model, format: str, batch: int | None, size: int | tuple[int, int] | None, layout: str, pixels: str
) -> keras.Model:
    """The model folded for inference, behind an input of the shape, layout and type wanted.

    Raises:
        ValueError: if the format cannot leave open what is open.
    """
    try:
        folded = fold_for_inference(model)
    except ValueError:
        if not get_context_length(model):
            raise
        folded = to_functional(model)  # A text tower, which has nothing to fold.
    if len(folded.inputs) != 1:
        raise ValueError(f"{model.name!r} has {len(folded.inputs)} inputs. Export a model with one.")
    _, *shape = folded.inputs[0].shape
    if len(shape) == 1:
        length = size or shape[0] or (None if FORMATS[format].supports_dynamic_length else get_context_length(folded))
        inputs = keras.Input((length,), batch_size=batch, dtype="int32", name="tokens")
        return keras.Model(inputs, folded(inputs), name=model.name)
    height, width = (size, size) if isinstance(size, int) else size or shape[:2]
    if None in (height, width) and not FORMATS[format].supports_dynamic_size:
        free = format_choices(name for name, row in FORMATS.items() if row.supports_dynamic_size)
        raise ValueError(f"{format} needs a fixed height and width, such as size=224; {free} leaves them open.")
    channels = shape[2]
    wanted = (height, width, channels) if layout == "nhwc" else (channels, height, width)
    inputs = keras.Input(wanted, batch_size=batch, dtype="uint8" if pixels == "uint8" else "float32", name="pixels")
    rows = ops.cast(inputs, "float32") if pixels == "uint8" else inputs
    rows = ops.transpose(rows, (0, 2, 3, 1)) if layout == "nchw" else rows
    if pixels == "normalized":  # What the layer inside does is undone, so that any model can be exported so.
        mean, deviation = (np.asarray(part, "float32") * 255 for part in get_embedded_stats(model))
        rows = rows * deviation + mean
    return keras.Model(inputs, folded(rows), name=model.name)
