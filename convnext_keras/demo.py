"""What `convnext-keras demo` shows: the two bundled models on pictures that they never saw. It prints, like `cli`."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from convnext_keras import clip, create_model, sheets
from convnext_keras.weights import registry

DIGITS, SHAPES = "convnext_mini.digits", "convnext_mini.shapes"
SHAPE_QUERIES = ("red circles", "a blue star", "three squares", "a black background")


def classify_digits(output: Path) -> None:
    """Handwritten digits, each with its prediction."""
    digits, labels = sheets.held_out_digits()
    model, recipe = create_model(DIGITS), registry()[DIGITS].recipe
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
    print(f"{DIGITS}: {right} of {len(labels)} held-out digits right, {100 * right / len(labels):.2f} %")
    sheets.sheet_of_digits(digits, labels, predicted).save(output)
    print(f"Look at {output}: each digit with its prediction below, green if right, red if wrong.")


def search_shapes(output: Path) -> None:
    """Zero-shot labels of pictures of shapes, and pictures found by words."""
    pictures, captions = sheets.held_out_shapes()
    model = clip.create_model(SHAPES)
    classifier = clip.ZeroShotClassifier(model, captions, "{}")
    table = Table("picture shows", "best of 48 captions", "probability")
    best = [rows[0] for rows in classifier.predict(pictures, top=1)]
    for caption, row in list(zip(captions, best, strict=True))[:6]:
        table.add_row(caption, row.label, f"{row.probability:.3f}")
    Console().print(table)
    right = sum(caption == row.label for caption, row in zip(captions, best, strict=True))
    print(f"{SHAPES}: {right} of {len(captions)} held-out pictures have their own caption first (chance: 1)")
    found = clip.ImageIndex(model)
    found.add(pictures)
    rows = []
    for query in SHAPE_QUERIES:
        hits = found.search(query, top=6)
        names = [f"{hit.cosine:.2f}" if rank else f"{query}: {hit.cosine:.2f}" for rank, hit in enumerate(hits)]
        rows.append(
            [(pictures[found.names.index(hit.name)], name, "black") for hit, name in zip(hits, names, strict=True)]
        )
    sheets.sheet_of(rows, cell=128).save(output)
    print(
        f"Look at {output}: the pictures nearest to {', '.join(repr(query) for query in SHAPE_QUERIES)}, one row each."
    )
