"""Images of label maps: a palette, an image with its classes in color, and a legend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convnext_keras.data.images import open_image
from convnext_keras.segmentation.inference import SegmentationMap

Color = tuple[int, int, int]
PALETTE_SIZE = 256
LEGEND_ROW = 22  # pixels


def palette(count: int) -> np.ndarray:
    """Returns `(count, 3)` uint8 colors that differ as much as possible from those before, black first.

    The colors are those of the PASCAL VOC data (`labelcolormap` of its development kit): the bits of the number are
    dealt to red, green and blue, the lowest first.

    Example:
        >>> palette(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    numbers = np.arange(count)[:, None]
    colors = np.zeros((count, 3), int)
    for bit in range(8):
        colors |= ((numbers >> (3 * bit + np.arange(3))) & 1) << (7 - bit)
    return colors.astype("uint8")


def label_image(labels: np.ndarray, colors: Sequence[Color] | None = None) -> Image.Image:
    """Returns a label map as an image whose pixels are the class numbers: with a palette, or of 16 bits.

    Args:
        labels: `(H, W)`, uint8 or uint16.
        colors: Red, green and blue 0..255 of the first classes; None for those of `palette`.
    """
    if labels.dtype != np.uint8:
        return Image.fromarray(labels.astype("uint16"))
    image = Image.fromarray(labels)
    image.putpalette(_with_colors(PALETTE_SIZE, colors).tobytes())
    return image


def overlay(
    image: Any,
    found: SegmentationMap,
    *,
    alpha: float = 0.5,
    legend: bool = True,
    colors: Sequence[Color] | None = None,
) -> Image.Image:
    """Draws the classes over an image.

    Args:
        image: See `open_image`.
        found: Its label map.
        alpha: Part 0..1 of the colors of the classes.
        legend: Whether the names of the classes are written below, the largest area first.
        colors: Red, green and blue 0..255 of each class; None for those of `palette`.

    Returns:
        An RGB image of the size of the label map, and the legend below it.

    Raises:
        ValueError: If the image has another size than the map, or `alpha` is not 0..1.

    Example:
        >>> found = SegmentationMap(np.eye(40, dtype="uint8"), None, ("sky", "kite"))
        >>> overlay(np.zeros((40, 40, 3), "uint8"), found, legend=False).size
        (40, 40)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be 0 to 1. Received: alpha={alpha}")
    pixels = np.asarray(open_image(image, "RGB", exif_transpose=True))
    if pixels.shape[:2] != found.labels.shape:
        raise ValueError(f"The image is {pixels.shape[:2]} pixels high and wide, its map {found.labels.shape}.")
    count = len(found.class_names)
    if colors is not None and len(colors) != count:
        raise ValueError(f"colors must be {count}, one for each class. Received: {len(colors)}")
    table = _with_colors(max(PALETTE_SIZE, count), colors)
    mixed = (1 - alpha) * pixels + alpha * table[found.labels]
    drawn = Image.fromarray(np.rint(mixed).astype("uint8"))
    return _with_legend(drawn, found, table) if legend else drawn


def _with_colors(count: int, colors: Sequence[Color] | None) -> np.ndarray:
    """Returns `(count, 3)` colors, the first of them as given."""
    table = palette(count)
    table[: len(colors or ())] = np.reshape(np.array(colors or (), "uint8"), (-1, 3))
    return table


def _with_legend(image: Image.Image, found: SegmentationMap, colors: np.ndarray) -> Image.Image:
    """Returns the image with one entry per class below, in rows of its width."""
    entries = [(name, f"{name} {100 * part:.1f} %") for name, part in found.areas.items()]
    font = ImageFont.load_default(13)
    widths = [LEGEND_ROW + int(font.getlength(text)) + 10 for _, text in entries]
    places, row, left = [], 0, 0
    for width in widths:
        if left and left + width > image.width:
            row, left = row + 1, 0
        places.append((left, row))
        left += width
    size = max(image.width, *widths), image.height + LEGEND_ROW * (row + 1)
    sheet = Image.new("RGB", size, "white")
    sheet.paste(image, (0, 0))
    draw, numbers = ImageDraw.Draw(sheet), {name: number for number, name in reversed([*enumerate(found.class_names)])}
    for (name, text), (left, row) in zip(entries, places, strict=True):
        top = image.height + row * LEGEND_ROW
        box = (left + 4, top + 4, left + LEGEND_ROW - 4, top + LEGEND_ROW - 4)
        draw.rectangle(box, fill=tuple(int(level) for level in colors[numbers[name]]), outline="black")
        draw.text((left + LEGEND_ROW, top + LEGEND_ROW // 2), text, fill="black", anchor="lm", font=font)
    return sheet
