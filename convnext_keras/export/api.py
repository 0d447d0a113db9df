"""`export`: writes a model in another format, verifies it, and describes it."""

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
from convnext_keras.export import runner
from convnext_keras.export.calibration import prepare_calibration
from convnext_keras.export.formats import (
    FORMATS,
    NNCF_QUANTIZED,
    POST_TRAINING_PRECISIONS,
    WRITTEN_QUANTIZED,
    resolve_format,
)
from convnext_keras.export.metadata import build_metadata, get_context_length, get_embedded_stats
from convnext_keras.export.onnx import DEFAULT_OPSET, MIN_OPSET
from convnext_keras.export.runtimes import METADATA_SUFFIX
from convnext_keras.export.verification import verify_export
from convnext_keras.export.writer import run_subprocess, write_model
from convnext_keras.files import atomic_path
from convnext_keras.model import get_pretrained_info
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.segmentation import is_segmentation_model
from convnext_keras.surgery import cast_to_bfloat16, fold_for_inference, to_functional
from convnext_keras.validation import format_choices

INPUT_LAYOUTS = ("nhwc", "nchw")
INPUT_DTYPES = ("float32", "uint8")


class ExportResult(NamedTuple):
    """An exported model.

    Attributes:
        path: The exported file or directory. The metadata are stored next to it as `PATH.json`.
        format: A key of `FORMATS`.
        precision: Precision of weights and activations.
        max_relative_error: Maximum difference from the Keras model, relative to its largest output; None if not
            verified.
        size_bytes: Total size of all files.
        latency_seconds: Time of the format's runtime for one image or text; None if not verified.
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
    batch_size: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    layout: str = "nhwc",
    input_dtype: str = "float32",
    normalized: bool = False,
    precision: str = "float32",
    calibration_data: Any = None,
    opset: int | None = None,
    overwrite: bool = False,
    verify: bool = True,
) -> ExportResult:
    """Exports a model for inference in another format, on any Keras backend.

    The exported model normalizes pixels in 0..255 itself, unless `normalized` is True. The runtime of the format runs
    it in another process, and its outputs are compared with those of the model before the file is moved to `path`.

    Args:
        model: A classifier, backbone or `feature_extractor` of this library, or a model built on one; its name for
            `create_model`; a tower of a ConvNeXt-CLIP; or a `ZeroShotClassifier`, whose labels become constants.
        path: The file or, for `"saved_model"`, directory to write.
        format: `"saved_model"`, `"litert"`, `"onnx"`, `"torch"` (an `ExportedProgram`), `"openvino"` or `"stablehlo"`.
            None selects the format by the suffix of the path.
        batch_size: Fixed batch size. None for a dynamic one.
        input_size: Height and width in pixels, or number of tokens of a text tower. None for those of the model; of a
            segmentation model for any size, those of its weights if the format needs a fixed one.
        layout: `"nhwc"`, or `"nchw"` for channels first. Defaults to `"nhwc"`.
        input_dtype: Type of the pixels, `"float32"` or `"uint8"`. Defaults to `"float32"`.
        normalized: Whether the exported model takes the result of `normalize` instead of pixels in 0..255.
        precision: `"float32"`; `"float16"`, float16 weights; `"bfloat16"`, weights and matmuls except in the head;
            `"int8_weights"`; or `"int8"`, weights and activations. `FORMATS` lists the precisions of each format.
            Inputs and outputs keep their types.
        calibration_data: For `"int8"`, 16 or more images like those that the model will get, see
            `CLIP.encode_image`. Every eighth one is used for verification only.
        opset: ONNX opset, 18 or higher. None for 20.
        overwrite: Whether an existing file is replaced.
        verify: Whether the exported model is run and compared with the model.

    Returns:
        The path, size, maximum error and latency of the exported model.

    Raises:
        ValueError: If an argument is not valid, the path exists, the format does not support the model, or the maximum
            error is above 1e-4 (float32), 0.01 (float16), 0.05 (bfloat16, int8_weights) or 0.25 (int8). Nothing is left
            at the path in this case.
        TypeError: If the model is none of these.
        ImportError: If a package is not installed. The message names the extra.

    Example:
        >>> from convnext_keras import create_model, export
        >>> result = export.export(create_model("convnext_mini.digits"), "digits.xml")
        >>> result.format, result.max_relative_error < 1e-5
        ('openvino', True)
    """
    path = Path(path)
    name = resolve_format(format, path)
    _check_choices(layout=(layout, INPUT_LAYOUTS), input_dtype=(input_dtype, INPUT_DTYPES))
    if normalized and input_dtype != "float32":
        raise ValueError(f"Normalized pixels have input_dtype='float32'. Received: input_dtype={input_dtype!r}")
    _check_precision(name, precision, calibration_data, opset)
    for output in (path, path.with_name(path.name + METADATA_SUFFIX)):
        _check_output_path(output, overwrite)
    _check_packages(name, precision)
    model = create_model(model) if isinstance(model, str) else model
    check_model(model, (keras.Model, clip.ZeroShotClassifier, CLIP), "a Keras model, its name, or a ZeroShotClassifier")
    if isinstance(model, CLIP):
        raise ValueError(
            "A ConvNeXt-CLIP has two towers. Use export_clip, or export model.image_encoder or model.text_encoder."
        )
    source = model.to_keras_model() if isinstance(model, clip.ZeroShotClassifier) else model
    ready = prepare_for_export(source, name, batch_size, input_size, layout, input_dtype, normalized)
    statistics = get_embedded_stats(source) if normalized else None
    options: dict[str, Any] = {"layout": layout, "statistics": statistics, "precision": precision}
    metadata = build_metadata(
        source, ready, name, options | ({"opset": opset or DEFAULT_OPSET} if name == "onnx" else {})
    )
    images = held_out = None
    if precision == "int8":
        if get_context_length(source):
            raise ValueError("int8 is not accurate enough for text encoders. Use precision='int8_weights'.")
        transform = PretrainedInfo.from_config(metadata).transform
        images, held_out = prepare_calibration(ready, transform, layout, statistics, calibration_data)
    with atomic_path(path) as partial:
        directory, metadata_file = partial.parent, partial.with_name(partial.name + METADATA_SUFFIX)
        _write(source, ready, partial, metadata, images)
        metadata_file.write_text(json.dumps(metadata, indent=2), encoding="utf-8")
        error, seconds = verify_export(ready, partial, precision, held_out) if verify else (None, None)
        if error is not None:
            metadata_file.write_text(json.dumps({**metadata, "max_relative_error": error}, indent=2), encoding="utf-8")
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file != metadata_file)
        for part in directory.iterdir():  # OpenVINO and large ONNX models have a second file, which may exist too
            _check_output_path(path.parent / part.name, overwrite)
    return ExportResult(path, name, precision, error, size, seconds)


def _write(
    source: keras.Model, ready: keras.Model, path: Path, metadata: dict[str, Any], images: np.ndarray | None
) -> None:
    """Writes the model, and quantizes the file in another process if the precision requires it.

    Raises:
        ValueError: If the backend of the format cannot write the model.
    """
    name, precision = metadata["format"], metadata["precision"]
    try:
        write_model(name, cast_to_bfloat16(ready) if precision == "bfloat16" else ready, path, metadata)
        if precision not in POST_TRAINING_PRECISIONS or name in WRITTEN_QUANTIZED:
            return
        batch = ready.inputs[0].shape[0] or 1
        used = np.zeros((0, 1)) if images is None else images[: len(images) // batch * batch]
        with tempfile.TemporaryDirectory() as directory:
            batches = Path(directory) / "batches.npz"
            np.savez(batches, batches=used.reshape(-1, batch, *used.shape[1:]))
            run_subprocess(["-P", runner.__file__, "quantize", name, precision, str(path), str(batches)])
    except RuntimeError as error:
        backend = FORMATS[name].backend
        raise ValueError(f"{backend} cannot write {source.name!r} as {name} in {precision}: {error}") from error


def _check_choices(**arguments: tuple[str, Sequence[str]]) -> None:
    for name, (value, choices) in arguments.items():
        if value not in choices:
            raise ValueError(f"{name} must be {format_choices(choices)}. Received: {name}={value!r}")


def _check_output_path(path: Path, overwrite: bool) -> None:
    """Raises ValueError if a path exists and may not be replaced, or is a directory that `export` did not write."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Choose another path, or set overwrite.")
    if path.is_dir() and not path.with_name(path.name + METADATA_SUFFIX).is_file():
        raise ValueError(f"{path} is a directory that `export` did not write. Choose another path, or remove it.")


def check_model(model: Any, types: type | tuple[type, ...], valid: str) -> None:
    """Raises a TypeError if a model is of another type."""
    if not isinstance(model, types):
        raise TypeError(f"model must be {valid}. Received: {type(model).__name__}")


def check_output_folder(folder: Path, overwrite: bool, is_own: bool) -> None:
    """Raises a ValueError if a folder exists and is not to be replaced.

    Args:
        folder: The folder to write.
        overwrite: Whether a folder that the same function wrote may be replaced.
        is_own: Whether the same function wrote what is there.
    """
    if folder.exists() and not (overwrite and is_own):
        remedy = ", or set overwrite" if is_own else ""
        raise ValueError(f"{folder} exists. Choose another folder{remedy}.")


def _check_precision(name: str, precision: str, calibration_data: Any, opset: int | None) -> None:
    _check_choices(precision=(precision, FORMATS[name].precisions))
    if calibration_data is not None and precision != "int8":
        raise ValueError(f"calibration_data is for precision='int8' only. Received: precision={precision!r}")
    if calibration_data is None and precision == "int8":
        raise ValueError("int8 requires calibration_data: images like those that the model will get.")
    if opset is not None and (name != "onnx" or opset < MIN_OPSET):
        raise ValueError(f"opset is for onnx only, {MIN_OPSET} or higher. Received: opset={opset} for {name}")


def _check_packages(name: str, precision: str) -> None:
    required = dict.fromkeys(FORMATS[name].packages, FORMATS[name].extra)
    if (name, precision) in NNCF_QUANTIZED:
        required["nncf"] = "int8"
    for package, extra in required.items():
        if importlib.util.find_spec(package) is None:
            feature = precision if extra == "int8" else name
            raise ImportError(f'{feature} needs {package}: pip install "convnext-keras[{extra}]"')


def prepare_for_export(
    model: keras.Model,
    format: str,
    batch_size: int | None,
    input_size: int | tuple[int, int] | None,
    layout: str,
    input_dtype: str,
    normalized: bool,
) -> keras.Model:
    """Returns the model folded for inference, with an input of the requested shape, layout and type.

    The arguments are those of `export`.

    Raises:
        ValueError: If the format requires a fixed size and the model has none.
    """
    try:
        folded = fold_for_inference(model)
    except ValueError:
        if not get_context_length(model):
            raise
        folded = to_functional(model)  # a text tower has nothing to fold
    if len(folded.inputs) != 1:
        raise ValueError(f"{model.name!r} has {len(folded.inputs)} inputs. Export a model with one input.")
    _, *shape = folded.inputs[0].shape
    if len(shape) == 1:
        dynamic_length = FORMATS[format].supports_dynamic_length
        length = input_size or shape[0] or (None if dynamic_length else get_context_length(folded))
        tokens = keras.Input((length,), batch_size=batch_size, dtype="int32", name="tokens")
        return keras.Model(tokens, folded(tokens), name=model.name)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size or shape[:2]
    supports_dynamic_size = FORMATS[format].supports_dynamic_size
    if None in (height, width) and not supports_dynamic_size and is_segmentation_model(model):
        info = get_pretrained_info(model)
        height, width = info.transform.shape[:2] if info and info.transform else (height, width)
    if None in (height, width) and not supports_dynamic_size:
        dynamic = format_choices(name for name, row in FORMATS.items() if row.supports_dynamic_size)
        raise ValueError(f"{format} needs a fixed size, such as input_size=224. {dynamic} supports a dynamic size.")
    channels = shape[2]
    input_shape = (height, width, channels) if layout == "nhwc" else (channels, height, width)
    inputs = keras.Input(input_shape, batch_size=batch_size, dtype=input_dtype, name="pixels")
    x = ops.cast(inputs, "float32") if input_dtype == "uint8" else inputs
    x = ops.transpose(x, (0, 2, 3, 1)) if layout == "nchw" else x
    if normalized:  # undoes what the normalization layer of the model does
        mean, std = (np.asarray(values, "float32") * 255 for values in get_embedded_stats(model))
        x = x * std + mean
    return keras.Model(inputs, folded(x), name=model.name)
