"""Images for the bundled models that they were not trained on."""

import csv

import numpy as np
from PIL import Image, ImageDraw

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


def draw_scenes() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draws scenes for `fpn_convnext_mini.shapes`: a circle, a square and a triangle on waves of color.

    Returns:
        Four images `(160, 160, 3)`, uint8, and the classes of their pixels, `(160, 160)`.
    """
    random, size, scenes, masks = np.random.default_rng(5), 160, [], []
    rows, columns = np.mgrid[:size, :size]
    corner_counts = {1: 40, 2: 4, 3: 3}
    for _ in range(4):
        first, tilt = random.uniform(40, 215, 3), random.uniform(0, 0.3, 2)
        waves = np.sin(rows * tilt[0] + columns * tilt[1])[..., None]
        image = Image.fromarray(np.clip(first + 25 * waves, 0, 255).astype("uint8"))
        mask = Image.new("L", image.size)
        places = random.permutation([(45, 45), (115, 45), (45, 115), (115, 115)])[:3]
        for (kind, count), (left, top) in zip(corner_counts.items(), places, strict=True):
            radius, turn = random.uniform(20, 32), random.uniform(0, 6.3)
            paint = (first + random.choice([-1, 1], 3) * random.uniform(60, 110, 3)) % 256
            angles = turn + 2 * np.pi * np.arange(count) / count
            corners = [(left + radius * np.cos(angle), top + radius * np.sin(angle)) for angle in angles]
            ImageDraw.Draw(image).polygon(corners, fill=tuple(paint.astype(int).tolist()))
            ImageDraw.Draw(mask).polygon(corners, fill=kind)
        scenes.append(np.asarray(image))
        masks.append(np.asarray(mask))
    return scenes, masks
