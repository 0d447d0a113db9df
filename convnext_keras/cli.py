"""The command `convnext-keras`: parses, calls the library, prints."""

import difflib
import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from convnext_keras import create_model, decode_predictions, list_weights
from convnext_keras.variants import VARIANTS
from convnext_keras.weights import BUNDLED, RESTRICTED, WeightSet, default, fetch, registry

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
WHICH = "Weight set; 'convnext-keras models' lists them."
WeightSetName = Annotated[str, typer.Option(help=WHICH)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DEMO = "convnext_mini.digits"
CELL, GAP = 48, 18  # pixels of a digit in the demo's picture, and of the line below it


def main() -> None:
    """Entry point: an error of the library is one sentence on stderr and exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"convnext-keras: {error}")


@app.callback()
def program() -> None:
    """Every public ConvNeXt, in Keras 3. Set [bold]KERAS_BACKEND[/] to tensorflow, jax, torch or openvino."""


def weight_set_named(name: str) -> WeightSet:
    """The registry's row of that name, or of a variant's first weight set."""
    found = registry().get(name) or default(name)
    if found is None:
        close = difflib.get_close_matches(name, registry(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name!r} is no weight set.{hint} 'convnext-keras models' lists them.")
    return found


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Pictures: PNG, JPEG, WebP, GIF.", show_default=False)],
    weights: WeightSetName = "convnext_tiny.imagenet",
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Names what is in pictures.

    [dim]convnext-keras classify cat.jpg dog.jpg --weights convnext_base --top 3[/]
    """
    weight_set = weight_set_named(weights)
    if not weight_set.labels:
        raise ValueError(f"{weight_set.name} has no classes. Choose a weight set with a classifier.")
    pixels = np.stack([weight_set.recipe(image) for image in images])  # Before anything is fetched.
    scores = create_model(weight_set.name).predict(pixels, verbose=0)
    decoded = decode_predictions(scores, top=top, labels=weight_set.labels)
    if as_json:
        keys = ("id", "name", "score")
        rows = [[dict(zip(keys, row, strict=True)) for row in rows] for rows in decoded]
        results = [{"image": str(image), "predictions": row} for image, row in zip(images, rows, strict=True)]
        print(json.dumps(results, indent=2))
        return
    table = Table("image", "class", "id", "score")
    for image, rows in zip(images, decoded, strict=True):
        for rank, (identifier, name, score) in enumerate(rows):
            table.add_row(
                "" if rank else str(image), name, identifier, f"{score:.4f}", end_section=rank == len(rows) - 1
            )
    Console().print(table)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as '*base*'.")] = "*",
    license: Annotated[str, typer.Option(help="Only this licence, such as mit.")] = "",
    labels: Annotated[str, typer.Option(help="Only this label set, such as imagenet-1k.")] = "",
    size: Annotated[int, typer.Option(help="Only this input size in pixels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Lists what exists: weight sets with their size, parameters, licence and published accuracy.

    [dim]convnext-keras models "convnextv2*" --size 384[/]
    """
    wanted = {"license": license, "labels": labels, "input_size": size}
    rows = [registry()[name] for name in list_weights(pattern)]
    rows = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items() if value)]
    if as_json:
        print(json.dumps([{"name": row.name, **row._asdict()} for row in rows], indent=2))
        return
    table = Table("weight set", "million parameters", "MB", "pixels", "classes", "top-1 %", "licence")
    for row in rows:
        million = f"{(VARIANTS[row.variant].parameters or 0) / 1e6:.1f}"
        licence = f"[yellow]{row.license}[/]" if row.license in RESTRICTED else row.license
        table.add_row(row.name, million, str(row.megabytes), str(row.input_size), str(row.classes), row.top1, licence)
    console = Console()
    console.print(table)
    restrictions = "; ".join(f"{name}: {meaning}" for name, meaning in RESTRICTED.items())
    console.print(f"[yellow]Licences in yellow[/] restrict the use: {restrictions}.")


@app.command("fetch")
def fetch_file(
    name: Annotated[str, typer.Argument(help=WHICH)],
    top: Annotated[bool, typer.Option(help="The file with the classifier, or without.")] = True,
) -> None:
    """Downloads a weight set for later and prints where it lies.

    [dim]convnext-keras fetch convnext_base.imagenet --no-top[/]
    """
    print(fetch(weight_set_named(name), include_top=top))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the picture of predictions goes.")] = Path("predictions.png"),
) -> None:
    """Classifies the handwritten digits that the bundled model never saw in training.

    [dim]convnext-keras demo --output predictions.png[/]
    """
    digits, labels = held_out_digits()
    model, recipe = create_model(DEMO), registry()[DEMO].recipe
    scores = model.predict(np.stack([recipe(digit) for digit in digits]), verbose=0)
    predicted = scores.argmax(axis=1)
    table = Table("digit", "pictures", "right", "taken for", "mean score of the true digit")
    for digit in range(10):
        mine = labels == digit
        wrong = ", ".join(str(other) for other in predicted[mine] if other != digit)
        right = int((predicted[mine] == digit).sum())
        table.add_row(str(digit), str(mine.sum()), str(right), wrong, f"{scores[mine, digit].mean():.3f}")
    Console().print(table)
    right = int((predicted == labels).sum())
    print(f"{DEMO}: {right} of {len(labels)} held-out digits right, {100 * right / len(labels):.2f} %")
    picture_of(digits, labels, predicted).save(output)
    print(f"Look at {output}: each digit with its prediction below, green if right, red if wrong.")


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(N, 8, 8)` and labels `(N,)` of the sheet: one row for each digit, with empty cells at its end."""
    sheet = np.asarray(Image.open(BUNDLED / "digits_held_out.png"))
    cells = sheet.reshape(10, 8, -1, 8).swapaxes(1, 2)
    filled = cells.any(axis=(2, 3))
    return cells[filled], np.nonzero(filled)[0]


def picture_of(digits: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """A grid of the digits, each with its prediction below, one row for each label."""
    columns = int(np.bincount(labels).max())
    picture = Image.new("RGB", (columns * CELL, 10 * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(picture)
    for label in range(10):
        mine = labels == label
        for column, (digit, guess) in enumerate(zip(digits[mine], predicted[mine], strict=True)):
            left, top = column * CELL, label * (CELL + GAP)
            picture.paste(
                Image.fromarray(255 - digit).resize((CELL - 4, CELL - 4), Image.Resampling.NEAREST), (left, top)
            )
            colour = "green" if guess == label else "red"
            draw.text((left + CELL // 2 - 6, top + CELL - 6), str(guess), fill=colour, font_size=16)
    return picture
