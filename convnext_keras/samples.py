"""Held-out images of the two bundled models."""

import csv

import numpy as np
from PIL import Image

from convnext_keras.checkpoints import BUNDLED_WEIGHTS_DIR


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Loads the handwritten digits that `convnext_mini.digits` was not trained on.

    Returns:
        Gray pixels `(359, 8, 8)`, uint8, and labels `(359,)`, from 0 to 9 in ascending order.
    """
    sheet = np.asarray(Image.open(BUNDLED_WEIGHTS_DIR / "digits_held_out.png"))
    cells = sheet.reshape(10, 8, -1, 8).swapaxes(1, 2)  # one row per digit, with empty cells at its end
    filled = cells.any(axis=(2, 3))
    return cells[filled], np.nonzero(filled)[0]


def load_shapes() -> tuple[np.ndarray, list[str]]:
    """Loads drawn shapes whose combinations of attributes `convnext_mini.shapes` was not trained on.

    Returns:
        Pixels `(48, 64, 64, 3)`, uint8, and one caption per image.
    """
    sheet = np.asarray(Image.open(BUNDLED_WEIGHTS_DIR / "shapes_held_out.png"))
    with (BUNDLED_WEIGHTS_DIR / "shapes_held_out.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    size = sheet.shape[0] // (1 + int(rows[-1]["row"]))
    cells = sheet.reshape(-1, size, sheet.shape[1] // size, size, 3).swapaxes(1, 2)
    return cells.reshape(-1, size, size, 3), [row["caption"] for row in rows]
