"""Contact sheets: grids of images with a line of text below each."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from convnext_keras.data.images import open_image

LABEL_HEIGHT = 18  # pixels
GAP = 4  # pixels between cells


def contact_sheet(rows: list[list[tuple]], cell_size: int, titles: Sequence[str] = ()) -> Image.Image:
    """Draws a grid of images on white.

    Args:
        rows: Rows of `(image, text, color)`. An image is anything that `open_image` takes; it is fitted into its cell.
            None leaves the cell empty except for a fourth value, the name of the missing image.
        cell_size: Height and width of an image on the sheet, in pixels.
        titles: Texts above the rows, one per row. Defaults to none.

    Returns:
        An RGB image.
    """
    title_height = LABEL_HEIGHT if titles else 0
    label_height = LABEL_HEIGHT * max(1, *(str(text).count("\n") + 1 for cells in rows for _, text, *_ in cells))
    row_height = title_height + cell_size + label_height + GAP
    width, height = max(map(len, rows)) * (cell_size + GAP), len(rows) * row_height
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, title in enumerate(titles):
        draw.text((GAP, row * row_height + title_height // 2), title, fill="black", anchor="lm", font_size=13)
    for row, cells in enumerate(rows):
        for column, (image, text, color, *name) in enumerate(cells):
            left, top = column * (cell_size + GAP), row * row_height + title_height
            label_at = (left + cell_size // 2, top + cell_size + label_height // 2)
            draw.text(label_at, text, fill=color, anchor="mm", font_size=12, align="center")
            if image is None:
                missing = f"missing: {Path(*name).name}"[: cell_size // 6]
                center = (left + cell_size // 2, top + cell_size // 2)
                draw.text(center, missing, fill="black", anchor="mm", font_size=12)
                continue
            fitted = _fit(open_image(image, exif_transpose=True), cell_size)
            sheet.paste(fitted, (left + (cell_size - fitted.width) // 2, top + (cell_size - fitted.height) // 2))
    return sheet


def _fit(image: Image.Image, cell_size: int) -> Image.Image:
    """Resizes an image so that its longer edge fills the cell; strong enlargement keeps sharp pixels."""
    scale = cell_size / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
