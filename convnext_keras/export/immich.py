"""A ConvNeXt-CLIP in the folders that Immich's machine-learning service loads.

The layout is that of immich-app/immich, `machine-learning/immich_ml/models/clip` (read 2026-11): `config.json`,
`textual/model.onnx` (int32 `(1, L)`, named `text`) with `tokenizer.json` and `tokenizer_config.json`, and
`visual/model.onnx` (normalized float32 `(1, 3, H, W)`, named `image`) with `preprocess_cfg.json`.
"""

import json
import os
from pathlib import Path
from typing import Any

from convnext_keras.clip.model import CLIP
from convnext_keras.data.transforms import ImageTransform, get_statistics
from convnext_keras.export.api import ExportResult, check_model, check_output_folder, export
from convnext_keras.export.clip import with_unit_vectors
from convnext_keras.export.onnx import rename_input
from convnext_keras.export.runtimes import METADATA_SUFFIX
from convnext_keras.export.tokenizer_file import tokenizer_config_json, tokenizer_json
from convnext_keras.files import atomic_path

CONFIG_FILE = "config.json"
RESIZE_MODES = ("shortest", "squash")  # that Immich knows


def export_immich(
    model: CLIP, folder: str | os.PathLike, *, precision: str = "float32", overwrite: bool = False, verify: bool = True
) -> ExportResult:
    """Writes a ConvNeXt-CLIP as Immich's smart search loads it: both towers as ONNX files, with its tokenizer.

    Copy the folder to Immich's model cache as `clip/NAME/` (`clip/NAME/main/` if it keeps revisions), and enter `NAME`
    as the CLIP model of the administration's machine-learning settings.

    Args:
        model: The ConvNeXt-CLIP.
        folder: Folder to write.
        precision: `"float32"`, `"float16"` or `"int8_weights"`, see `export`.
        overwrite: Whether a folder that this function wrote may be replaced.
        verify: See `export`.

    Returns:
        What was written: all bytes, the larger difference, and the seconds for one image.

    Raises:
        TypeError: If the model is no ConvNeXt-CLIP.
        ValueError: If the folder exists, or images are prepared in a way that Immich does not know; or see `export`.

    Example:
        >>> from convnext_keras import clip, export
        >>> written = export.export_immich(clip.create_model("convnext_mini.shapes"), "shapes-immich", verify=False)
        >>> sorted(path.name for path in (written.path / "textual").iterdir())
        ['model.onnx', 'tokenizer.json', 'tokenizer_config.json']
    """
    check_model(model, CLIP, "a ConvNeXt-CLIP")
    folder = Path(folder)
    check_output_folder(folder, overwrite, is_own=(folder / "visual" / "model.onnx").is_file())
    transform, tokenizer = model.transform, model.tokenizer
    preprocessing = preprocess_config(transform)
    with atomic_path(folder) as whole:
        options: dict[str, Any] = {"precision": precision, "batch_size": 1, "verify": verify}
        towers = {
            "visual": (model.image_encoder, "image", {"layout": "nchw", "normalized": True}),
            "textual": (model.text_encoder, "text", {"input_size": tokenizer.context_length}),
        }
        results = []
        for name, (tower, input_name, form) in towers.items():
            file = whole / name / "model.onnx"
            file.parent.mkdir(parents=True)
            results.append(export(with_unit_vectors(tower), file, **options, **form))
            rename_input(file, input_name)
            file.with_name(file.name + METADATA_SUFFIX).unlink()
        contents = {
            CONFIG_FILE: {
                "embed_dim": model.embed_dim,
                "vision_cfg": {"image_size": preprocessing["size"]},
                "text_cfg": {"context_length": tokenizer.context_length, "vocab_size": tokenizer.vocab_size},
            },
            "visual/preprocess_cfg.json": preprocessing,
            "textual/tokenizer.json": tokenizer_json(tokenizer),
            "textual/tokenizer_config.json": tokenizer_config_json(tokenizer),
        }
        for name, content in contents.items():
            (whole / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    images, texts = results
    errors = [part.max_relative_error for part in results if part.max_relative_error is not None]
    return ExportResult(folder, "immich", texts.precision, max(errors, default=None), size, images.latency_seconds)


def preprocess_config(transform: ImageTransform) -> dict[str, Any]:
    """Returns OpenCLIP's description of how images are prepared.

    Raises:
        ValueError: If Immich does not prepare images so.
    """
    if transform.resize_mode not in RESIZE_MODES or transform.crop_pct != 1 or transform.shape[0] != transform.shape[1]:
        raise ValueError(f"Immich resizes the shorter edge and crops a square, or squashes. Received: {transform}")
    statistics = get_statistics(transform.statistics)
    return {
        "size": transform.shape[0],
        "mode": "RGB",
        "mean": [*statistics.mean],
        "std": [*statistics.std],
        "interpolation": transform.interpolation,
        "resize_mode": transform.resize_mode,
        "fill_color": 0,
    }
