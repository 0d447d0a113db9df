"""What `convnext-keras demo` shows: the two bundled models on pictures that they never saw."""

from pathlib import Path

import numpy as np
from rich.table import Table

from convnext_keras import clip, create_model, sheets
from convnext_keras.weights import registry

DIGITS, SHAPES = "convnext_mini.digits", "convnext_mini.shapes"
SHAPE_QUERIES = (
    "three big green stars in the lower part on black",
    "a pair of huge orange squares at the left on grey",
    "a tiny purple square at the top on brown",
)


def classify_digits(output: Path) -> list[Table | str]:
    """Handwritten digits, each with its prediction; returns what is to be printed."""
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
    right = int((predicted == labels).sum())
    sheets.sheet_of_digits(digits, labels, predicted).save(output)
    return [
        table,
        f"{DIGITS}: {right} of {len(labels)} held-out digits right, {100 * right / len(labels):.2f} %",
        f"Look at {output}: each digit with its prediction below, green if right, red if wrong.",
    ]


def search_shapes(output: Path) -> list[Table | str]:
    """Zero-shot labels of pictures of shapes, and pictures found by words; returns what is to be printed."""
    pictures, captions = sheets.held_out_shapes()
    model = clip.create_model(SHAPES)
    classifier = clip.ZeroShotClassifier(model, captions, "{}")
    table = Table("picture shows", "best of 48 captions", "probability")
    best = [rows[0] for rows in classifier.predict(pictures, top=1)]
    for caption, row in list(zip(captions, best, strict=True))[:6]:
        table.add_row(caption, row.label, f"{row.probability:.3f}")
    right = sum(caption == row.label for caption, row in zip(captions, best, strict=True))
    found = clip.ImageIndex(model)
    found.add(pictures)
    rows = []
    for number, query in enumerate(SHAPE_QUERIES, start=1):
        hits = found.search(query, top=6)
        texts = [f"row {number}: {hit.cosine:.2f}" for hit in hits]
        shown = [pictures[hit.place] for hit in hits]
        rows.append([(picture, text, "black") for picture, text in zip(shown, texts, strict=True)])
    sheets.sheet_of(rows, cell=128).save(output)
    queries = ", ".join(repr(query) for query in SHAPE_QUERIES)
    return [
        table,
        f"{SHAPES}: {right} of {len(captions)} held-out pictures have their own caption first (chance: 1)",
        f"Look at {output}: the pictures nearest to {queries}, one row each.",
    ]
