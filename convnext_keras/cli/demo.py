"""Command `demo`: the bundled models on images that they were not trained on."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from convnext_keras.cli.options import BUNDLED_CLIP

DIGITS, SEGMENTER = "convnext_mini.digits", "fpn_convnext_mini.shapes"
MIN_CONTRAST = 250  # between the sums of red, green and blue of ink and paper
SHAPE_QUERIES = (
    "three big green stars in the lower part on black",
    "a pair of little yellow circles in the lower part on brown",
    "a group of three purple squares on the right side",
)


def demo(
    output: Annotated[Path, typer.Option(help="Output directory.")] = Path("demo-output"),
    train: Annotated[
        bool, typer.Option("--train", help="Fine-tune the digits model on colored digits instead.")
    ] = False,
) -> None:
    """Run the three bundled models on images that they were not trained on, offline.

    [dim]convnext-keras demo[/]

    [dim]convnext-keras demo --train --output shown/[/]
    """
    output.mkdir(parents=True, exist_ok=True)
    if train:
        shown = train_on_colors(output / "colored-digits", output / "colored-digits-model")
    else:
        shown = [*classify_digits(output / "predictions.png"), *search_shapes(output / "search.png")]
        shown += segment_scenes(output / "segmentation.png")
    for part in shown:
        if isinstance(part, str):
            print(part)
        else:
            Console().print(part)


def draw_digits(digits: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """Draws a grid of digits, one row per label, each with its prediction in green (correct) or red (wrong)."""
    from convnext_keras.contact_sheet import contact_sheet

    rows = []
    for label in range(10):
        mine = labels == label
        guesses = [(str(guess), "green" if guess == label else "red") for guess in predicted[mine]]
        rows.append([(255 - digit, *guess) for digit, guess in zip(digits[mine], guesses, strict=True)])
    return contact_sheet(rows, cell_size=44)


def classify_digits(output: Path) -> list[Table | str]:
    """Draws handwritten digits with their predictions; returns the text to print."""
    from convnext_keras import create_model
    from convnext_keras.checkpoints import load_registry
    from convnext_keras.samples import load_digits

    digits, labels = load_digits()
    model, transform = create_model(DIGITS), load_registry()[DIGITS].transform
    scores = model.predict_on_batch(np.stack([transform(digit) for digit in digits]))
    predicted = scores.argmax(axis=1)
    table = Table("digit", "images", "right", "taken for", "mean score of the true digit")
    for digit in range(10):
        mine = labels == digit
        wrong = ", ".join(str(other) for other in predicted[mine] if other != digit)
        right = int((predicted[mine] == digit).sum())
        table.add_row(str(digit), str(mine.sum()), str(right), wrong, f"{scores[mine, digit].mean():.3f}")
    right = int((predicted == labels).sum())
    draw_digits(digits, labels, predicted).save(output)
    return [
        table,
        f"{DIGITS}: {right} of {len(labels)} held-out digits right, {100 * right / len(labels):.2f} %",
        f"Look at {output}: each digit with its prediction below, green if right, red if wrong.",
    ]


def segment_scenes(output: Path) -> list[Table | str]:
    """Draws scenes beside the classes of their pixels; returns the text to print."""
    from convnext_keras import create_model, segmentation
    from convnext_keras.contact_sheet import contact_sheet
    from convnext_keras.samples import draw_scenes

    scenes, masks = draw_scenes()
    maps = segmentation.segment(create_model(SEGMENTER), scenes, with_scores=False)
    rows: list[list[tuple]] = [[], []]
    for scene, found in zip(scenes, maps, strict=True):
        areas = [name for name in found.areas if name != "background"]
        rows[0].append((scene, "", "black"))
        rows[1].append((segmentation.overlay(scene, found, alpha=0.75, legend=False), ", ".join(areas), "black"))
    contact_sheet(rows, cell_size=160).save(output)
    right = np.mean([found.labels == mask for found, mask in zip(maps, masks, strict=True)])
    return [
        f"{SEGMENTER}: {100 * right:.1f} % of the pixels of {len(scenes)} drawn scenes right",
        f"Look at {output}: each scene, and below it the classes of its pixels in color.",
    ]


def colorize(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draws a digit `(8, 8)` in one color on another, 32 pixels high, for a model trained on white on black."""
    while True:
        ink, paper = rng.integers(0, 256, (2, 3))
        if abs(int(ink.sum()) - int(paper.sum())) > MIN_CONTRAST:
            break
    part = digit[..., None] / 255
    return Image.fromarray((paper + part * (ink - paper)).round().astype("uint8")).resize(
        (32, 32), Image.Resampling.BICUBIC
    )


def train_on_colors(images: Path, model: Path) -> list[Table | str]:
    """Writes digits in color, fine-tunes the bundled model on four of five; returns what is to be printed.

    Raises:
        ValueError: If a folder to write exists.
        ImportError: If what training needs is missing.
    """
    from convnext_keras import training
    from convnext_keras.data.class_names import load_class_names
    from convnext_keras.samples import load_digits
    from convnext_keras.training import charts, reports

    for folder in (images, model):
        if folder.exists():
            raise ValueError(f"{folder} exists. Move it away, or choose another place with --output.")
    charts.new_figure(1, 1)  # Before minutes of training.
    rng = np.random.default_rng(0)
    names = [name for _, name in load_class_names("digits")]
    for number, (digit, label) in enumerate(zip(*load_digits(), strict=True)):
        folder = images / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        colorize(digit, rng).save(folder / f"{number}.png")
    kept, held_out = training.train_val_split(images, 0.2, None, 0, "raise")
    before = training.evaluate(DIGITS, held_out)
    trained = training.fine_tune(DIGITS, kept, validation=held_out, verbose=2)
    reports.save_training_result(trained, model)
    table = Table("model", f"right of {len(held_out)} digits in color")
    for name, result in ((DIGITS, before), (str(model), trained.evaluation)):
        table.add_row(name, training.format_metrics(result)["accuracy"])
    return [
        table,
        f"Look at {images} for the images, and at {model}/README.md for the card with its charts.",
        f"Use it: convnext-keras classify {images}/{names[0]} --weights {model}",
    ]


def search_shapes(output: Path) -> list[Table | str]:
    """Classifies images of shapes with text labels and searches them by text; returns the text to print."""
    from convnext_keras import clip, retrieval
    from convnext_keras.contact_sheet import contact_sheet
    from convnext_keras.samples import load_shapes

    images, captions = load_shapes()
    model = clip.create_model(BUNDLED_CLIP)
    classifier = clip.ZeroShotClassifier(model, captions, "{}")
    table = Table("image shows", "best of 48 captions", "probability")
    best = [rows[0] for rows in classifier.predict(images, top_k=1)]
    for caption, row in list(zip(captions, best, strict=True))[:6]:
        table.add_row(caption, row.label, f"{row.probability:.3f}")
    right = sum(caption == row.label for caption, row in zip(captions, best, strict=True))
    index = retrieval.InMemoryIndex(model)
    index.add(images)
    rows = []
    for query in SHAPE_QUERIES:
        hits = index.search(query, top_k=6)
        rows.append([(images[hit.index], f"{hit.cosine:.2f}", "black") for hit in hits])
    contact_sheet(rows, cell_size=128, titles=SHAPE_QUERIES).save(output)
    return [
        table,
        f"{BUNDLED_CLIP}: {right} of {len(captions)} held-out images have their own caption first (chance: 1)",
        f"Look at {output}: the most similar images to {len(SHAPE_QUERIES)} texts, with cosine similarity.",
    ]
