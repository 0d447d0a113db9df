"""Images as the inputs of a model that is quantized by what it makes of them."""

from typing import Any

import keras
import numpy as np

from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform, NormalizationStats, normalize

MIN_IMAGES = 16  # images, of which every eighth is kept apart
HOLDOUT_EVERY = 8


def prepare_calibration(
    model: keras.Model,
    transform: ImageTransform | None,
    layout: str,
    statistics: NormalizationStats | None,
    images: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs `(N, ...)` of a model to calibrate with, and others to check with.

    Args:
        model: Model with one input of pixels.
        transform: The transform of its weights, if known.
        layout: Layout of the pixels, `"nhwc"` or `"nchw"`.
        statistics: Statistics that the pixels are normalized with, None for pixels in 0..255.
        images: See `as_image_list`.

    Raises:
        ValueError: If there are fewer than 16, or one cannot be read.
    """
    row = model.inputs[0]
    edges: Any = row.shape[1:3] if layout == "nhwc" else row.shape[2:]
    chosen = transform or ImageTransform(224)
    if None not in edges and edges != chosen.shape[:2]:
        chosen = chosen._replace(size=edges, resize_size=None)
    parts = [pixels for _, pixels in iter_batches(images, chosen._replace(exif_transpose=True), batch_size=32)]
    if sum(map(len, parts)) < MIN_IMAGES:
        raise ValueError(f"calibration needs {MIN_IMAGES} images or more. Received: {sum(map(len, parts))}")
    rows = np.concatenate(parts)
    rows = rows if statistics is None else np.asarray(normalize(rows, statistics))
    rows = (rows.transpose(0, 3, 1, 2) if layout == "nchw" else rows).astype(row.dtype)
    kept = np.arange(len(rows)) % HOLDOUT_EVERY != 0
    return rows[kept], rows[~kept]
