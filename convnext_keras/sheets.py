"""Pictures to look at: grids of pictures with a line below each."""

from PIL import Image, ImageDraw

from convnext_keras.images import open_image

LINE = 18  # pixels of a line of text below a picture


def sheet_of(rows: list[list[tuple]], cell: int) -> Image.Image:
    """A grid of pictures on white.

    Args:
        rows: of `(picture, text, colour)`; a picture is what `open_image` takes, and is fitted into its cell.
        cell: height and width of a picture on the sheet, in pixels.
    """
    sheet = Image.new("RGB", (max(map(len, rows)) * (cell + 4), len(rows) * (cell + LINE + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, items in enumerate(rows):
        for column, (picture, text, colour) in enumerate(items):
            opened = open_image(picture)
            scale = cell / max(opened.size)
            size = (max(1, round(scale * opened.width)), max(1, round(scale * opened.height)))
            fitted = opened.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
            left, top = column * (cell + 4), row * (cell + LINE + 4)
            sheet.paste(fitted, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
            place = (left + cell // 2, top + cell + LINE // 2)
            draw.text(place, text, fill=colour, anchor="mm", font_size=12)
    return sheet
