"""Compares models read from repositories with what their publishers' libraries computed, and prints a table.

    python scripts/compare_hub.py [FOLDER]     # that make_hub_references.py wrote; the committed one by default

One row for each repository: how far pixels are off, in levels of 255, and outputs, relative to the largest.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from make_hub_references import HUB, TOKENS
from make_references import arrays_of

from convnext_keras import clip, create_model, segmentation
from convnext_keras.feature_extraction import FeatureExtractor


def outputs_of(folder: Path, image: Path) -> dict[str, Any]:
    """Returns this library's outputs for a repository and an image."""
    if (folder / "open_clip_config.json").exists():
        model: Any = clip.create_model(folder)
        pixels = model.transform(image)
        vectors = model.image_encoder(pixels[None].astype("float32"))
        texts = model.text_encoder(TOKENS)
        logits = model({"images": pixels[None].astype("float32"), "tokens": TOKENS})
        return {"pixels": pixels, "outputs": vectors, "texts": texts, "logits": logits}
    model = create_model(folder)
    pixels = model.pretrained_info.transform(image)
    if isinstance(model, FeatureExtractor):
        maps = model(pixels[None].astype("float32"))
        return {"pixels": pixels, **{f"outputs_{index}": row for index, row in enumerate(maps)}}
    if len(model.output_shape) == 4 and segmentation.is_segmentation_model(model):
        outputs: Any = keras.ops.convert_to_numpy(model(pixels[None].astype("float32")))
        return {
            "pixels": pixels,
            "outputs": outputs[:, ::3, ::3],
            "labels": segmentation.segment(model, image)[0].labels,
        }
    return {"pixels": pixels, "outputs": model(pixels[None].astype("float32"))}


def differences(folder: Path, image: Path) -> dict[str, float]:
    """The largest difference of each array: of pixels in levels, of others relative to the largest number."""
    expected, worst = arrays_of(folder.with_suffix(".npz")), {}
    for name, found in outputs_of(folder, image).items():
        values, wanted = np.asarray(keras.ops.convert_to_numpy(found), "float64"), expected[name].astype("float64")
        if values.shape != wanted.shape:
            raise ValueError(f"{folder}: {name} has shape {values.shape}, expected {wanted.shape}")
        scale = 1 if name == "pixels" else np.abs(wanted).max()
        worst[name] = float(np.abs(values - wanted).max() / scale)
    return worst


def main(show: Callable[[str], None] = print) -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HUB
    for path in sorted(root.glob("*.npz")):
        folder = path.with_suffix("")
        try:
            row = differences(folder, root / "image.png")
        except Exception as error:  # One that cannot be read is a row too.
            show(f"| `{folder.name}` | {type(error).__name__}: {str(error)[:300]} |")
            continue
        shown = " | ".join(f"{name} {value:.1e}" for name, value in row.items())
        bad = row["pixels"] > 1 or any(value > 1e-4 for name, value in row.items() if name != "pixels")
        show(f"| `{folder.name}` | {shown} |{' BAD' if bad else ''}")


if __name__ == "__main__":
    main()
