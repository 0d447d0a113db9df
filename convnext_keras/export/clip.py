"""Both towers of a ConvNeXt-CLIP in the format of another program, used as the model in Keras is."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np

from convnext_keras import checkpoints
from convnext_keras.checkpoints.download import cache_dir
from convnext_keras.clip.constructors import create_model
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.clip.model import CLIP
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.export.api import ExportResult, check_model, check_output_folder, export
from convnext_keras.export.exported_model import ExportedModel
from convnext_keras.export.formats import FORMATS
from convnext_keras.export.metadata import get_tokenizer_config
from convnext_keras.files import atomic_path
from convnext_keras.inference import l2_normalize, pad_batch, trim_padding
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.validation import format_choices

CLIP_FILE = "clip.json"  # what belongs to neither tower
BATCH_BUCKETS = 4  # sizes of batch between powers of two: another size costs these programs milliseconds, once
CLIP_FORMATS = tuple(
    name for name, row in FORMATS.items() if row.supports_dynamic_length
)  # formats that texts of any length fit


def export_clip(
    model: CLIP,
    folder: str | os.PathLike,
    format: str = "openvino",
    *,
    precision: str = "float32",
    calibration_data: Any = None,
    overwrite: bool = False,
    verify: bool = True,
) -> ExportResult:
    """Writes both towers of a ConvNeXt-CLIP to a folder, from which `ExportedCLIP` runs them.

    Args:
        model: The ConvNeXt-CLIP.
        folder: Folder to write: `image` and `text` with the suffix of the format, their descriptions, and
            `clip.json`.
        format: `"openvino"` or `"onnx"`.
        precision: See `export`; with `"int8"`, the text tower is written in `"int8_weights"`.
        calibration_data: See `export`.
        overwrite: Whether a folder that this function wrote may be replaced.
        verify: See `export`.

    Returns:
        What was written: all bytes, the larger difference, and the seconds for one image.

    Raises:
        TypeError: If the model is no ConvNeXt-CLIP.
        ValueError: If an argument is not valid, or see `export`; nothing is left at the folder then.

    Example:
        >>> from convnext_keras import clip, export
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> written = export.export_clip(model, "shapes-openvino")
        >>> exported = export.ExportedCLIP("shapes-openvino")
        >>> exported.encode_text("a red star").shape
        (1, 96)
    """
    check_model(model, CLIP, "a ConvNeXt-CLIP")
    folder = Path(folder)
    if format not in CLIP_FORMATS:
        raise ValueError(f"format must be {format_choices(CLIP_FORMATS)} for both towers. Received: format={format!r}")
    check_output_folder(folder, overwrite, is_own=is_exported_clip(folder))
    suffix = FORMATS[format].suffix
    with atomic_path(folder) as whole:
        of_text = "int8_weights" if precision == "int8" else precision
        options: dict[str, Any] = {"format": format, "verify": verify}
        of_images = {
            "precision": precision,
            "calibration_data": calibration_data,
            "input_dtype": "uint8",
        }  # first: may be refused
        images = export(model.image_encoder, whole / f"image{suffix}", **of_images, **options)
        texts = export(model.text_encoder, whole / f"text{suffix}", precision=of_text, **options)
        pretrained_info = model.pretrained_info or PretrainedInfo()
        facts = {
            "name": str(pretrained_info.weights_name or model.name),
            "format": format,
            "precision": precision,
            "embed_dim": model.embed_dim,
            "logit_scale": model.logit_scale,
            "logit_bias": model.logit_bias,
            "fingerprint": model.fingerprint(),
            "tokenizer": get_tokenizer_config(model.text_encoder),
            **dataclasses.replace(pretrained_info, transform=model.transform).to_config(),
        }
        (whole / CLIP_FILE).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    differences = [part.max_relative_error for part in (images, texts) if part.max_relative_error is not None]
    return ExportResult(
        folder,
        format,
        precision,
        max(differences, default=None),
        images.size_bytes + texts.size_bytes,
        images.latency_seconds,
    )


def with_unit_vectors(tower: keras.Model) -> keras.Model:
    """Returns a tower whose vectors have the length 1."""
    inputs = keras.Input(tower.inputs[0].shape[1:], dtype=tower.inputs[0].dtype, name=tower.inputs[0].name)
    return keras.Model(inputs, keras.layers.UnitNormalization()(tower(inputs)), name=tower.name)


class ExportedCLIP(DualEncoder):
    """ConvNeXt-CLIP that `export_clip` wrote, run by OpenVINO or ONNX Runtime.

    Args:
        folder: Folder that `export_clip` wrote.
        streams: Batches of one tower that threads may run at a time, each with its share of the processors.

    Attributes:
        name: Name of the weight set, or of the model.
        format: Format of the towers.
        pretrained_info: Where the weights come from.

    Raises:
        ValueError: If the folder is not one, or not whole.
        ImportError: If the format's own program is not installed.

    Example:
        >>> from convnext_keras import clip, export
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> written = export.export_clip(model, "shapes-exported", verify=False)
        >>> classifier = clip.ZeroShotClassifier(export.ExportedCLIP(written.path), ["red", "blue"], "a {} background")
        >>> classifier.predict(np.full((64, 64, 3), (0, 0, 255), "uint8"))[0][0].label
        'blue'
    """

    def __init__(self, folder: str | os.PathLike, streams: int = 1) -> None:
        folder, self.streams = Path(folder), streams
        if not is_exported_clip(folder):
            raise ValueError(f"{folder} has no {CLIP_FILE}: it is not a folder that `export_clip` wrote.")
        self.facts = json.loads((folder / CLIP_FILE).read_text(encoding="utf-8"))
        self.format: str = self.facts["format"]
        suffix = FORMATS[self.format].suffix
        self.image, self.text = (ExportedModel(folder / f"{tower}{suffix}", streams) for tower in ("image", "text"))
        self.name, self.pretrained_info = self.facts["name"], PretrainedInfo.from_config(self.facts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name!r} for {self.format}>"

    @property
    def embed_dim(self) -> int:
        return self.facts["embed_dim"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(**self.facts["tokenizer"])

    @property
    def transform(self) -> ImageTransform:
        known: Any = self.pretrained_info
        return known.transform

    @property
    def logit_scale(self) -> float:
        return self.facts["logit_scale"]

    @property
    def logit_bias(self) -> float:
        return self.facts["logit_bias"]

    def encode_pixels(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        return l2_normalize(self.image(pad_batch(pixels, batch_size, BATCH_BUCKETS))[: len(pixels)])

    def encode_tokens(self, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        filled = pad_batch(trim_padding(tokens, self.tokenizer.end), batch_size, BATCH_BUCKETS)
        filled[len(tokens) :, 0] = self.tokenizer.end  # Of the rows that fill up, so that each has an end.
        return l2_normalize(self.text(filled)[: len(tokens)])

    def fingerprint(self) -> str:
        return self.facts["fingerprint"]


def get_or_export_clip(name: str, format: str) -> Path:
    """Returns the folder, in the cache, of a ConvNeXt-CLIP in a format; written the first time.

    Args:
        name: See `clip.create_model`. Only published weights need not be loaded the next time.
        format: See `export_clip`.

    Raises:
        ValueError: If there is no such model, or see `export_clip`.
    """
    weight_set = checkpoints.find_weight_set(name, checkpoints.CLIP_REGISTRY) or checkpoints.default_weight_set(
        name, checkpoints.CLIP_REGISTRY
    )
    model = None if weight_set else create_model(name)
    source = f"{model.fingerprint() if model else weight_set} {importlib.metadata.version('convnext-keras')}"
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = cache_dir() / "exported" / f"{format}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):  # of several processes that need it, one writes
        if not is_exported_clip(folder):
            export_clip(model or create_model(name), folder, format)
    return folder


def is_exported_clip(folder: str | os.PathLike) -> bool:
    """Returns whether a folder is one that `export_clip` wrote."""
    return (Path(folder) / CLIP_FILE).is_file()
