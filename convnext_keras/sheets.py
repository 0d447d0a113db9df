"""Pictures to look at: the bundled held-out ones, and grids of pictures with a line below each.

Apart from `cli`, which prints.
"""

import csv

import numpy as np
from PIL import Image, ImageDraw

from convnext_keras.preprocessing import open_image
from convnext_keras.weights import BUNDLED

LINE = 18  # pixels of a line of text below a picture


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(N, 8, 8)` and labels `(N,)` of the sheet: one row for each digit, with empty cells at its end."""
    sheet = np.asarray(Image.open(BUNDLED / "digits_held_out.png"))
    cells = sheet.reshape(10, 8, -1, 8).swapaxes(1, 2)
    filled = cells.any(axis=(2, 3))
    return cells[filled], np.nonzero(filled)[0]


def held_out_shapes() -> tuple[np.ndarray, list[str]]:
    """Pixels `(N, 64, 64, 3)` of combinations that the bundled ConvNeXt-CLIP never saw, and their captions."""
    sheet = np.asarray(Image.open(BUNDLED / "shapes_held_out.png"))
    with (BUNDLED / "shapes_held_out.csv").open(encoding="utf-8", newline="") as stream:
        places = list(csv.DictReader(stream))
    size = sheet.shape[0] // (1 + int(places[-1]["row"]))
    cells = sheet.reshape(-1, size, sheet.shape[1] // size, size, 3).swapaxes(1, 2)
    return cells.reshape(-1, size, size, 3), [place["caption"] for place in places]


def sheet_of_digits(digits: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """A grid of the digits, each with its prediction below, green if right, red if wrong; one row for each label."""
    rows = []
    for label in range(10):
        mine = labels == label
        guesses = [(str(guess), "green" if guess == label else "red") for guess in predicted[mine]]
        rows.append([(255 - digit, *guess) for digit, guess in zip(digits[mine], guesses, strict=True)])
    return sheet_of(rows, cell=44)


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
            size = tuple(max(1, round(scale * length)) for length in opened.size)
            fitted = opened.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
            left, top = column * (cell + 4), row * (cell + LINE + 4)
            sheet.paste(fitted, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
            place = (left + cell // 2, top + cell + LINE // 2)
            draw.text(place, text, fill=colour, anchor="mm", font_size=12)
    return sheet
