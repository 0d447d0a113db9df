"""Images to look at: grids of images with a line below each."""

from pathlib import Path

from PIL import Image, ImageDraw

from convnext_keras.data.images import open_image

LABEL_HEIGHT = 18  # pixels of a line of text below an image


def contact_sheet(rows: list[list[tuple]], cell: int) -> Image.Image:
    """A grid of images on white.

    Args:
        rows: of `(image, text, color)`; an image is what `open_image` takes, and is fitted into its cell. None
            leaves the cell empty but for a fourth value, the name of what is missing.
        cell: height and width of an image on the sheet, in pixels.
    """
    sheet = Image.new("RGB", (max(map(len, rows)) * (cell + 4), len(rows) * (cell + LABEL_HEIGHT + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, items in enumerate(rows):
        for column, (image, text, color, *name) in enumerate(items):
            left, top = column * (cell + 4), row * (cell + LABEL_HEIGHT + 4)
            if image is None:
                missing = f"missing: {Path(*name).name}"[: cell // 6]
                draw.text((left + cell // 2, top + cell // 2), missing, fill="black", anchor="mm", font_size=12)
                draw.text(
                    (left + cell // 2, top + cell + LABEL_HEIGHT // 2), text, fill=color, anchor="mm", font_size=12
                )
                continue
            opened = open_image(image, exif_transpose=True)
            scale = cell / max(opened.size)
            size = (max(1, round(scale * opened.width)), max(1, round(scale * opened.height)))
            fitted = opened.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
            sheet.paste(fitted, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
            place = (left + cell // 2, top + cell + LABEL_HEIGHT // 2)
            draw.text(place, text, fill=color, anchor="mm", font_size=12)
    return sheet
