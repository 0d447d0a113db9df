"""Class names of the published label sets: ImageNet-1k, -12k and -22k, and those of the bundled checkpoints.

`scripts/make_labels.py` makes the table of the ImageNet classes and names its source.
"""

import csv
import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ClassNames = tuple[tuple[str, str], ...]  # one (identifier, name) per class
IMAGENET_FILE = Path(__file__).parent / "imagenet.tsv.gz"
PUBLISHED_LABEL_SETS = {"imagenet-1k": 1000, "imagenet-12k": 11_821, "imagenet-22k": 21_841}  # number of classes
LABEL_SETS = (*PUBLISHED_LABEL_SETS, "digits", "shapes")
SHAPES = ("background", "circle", "square", "triangle")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@functools.cache
def load_class_names(label_set: str) -> ClassNames:
    """Loads the classes of a label set, in the order of the classifier's outputs.

    Args:
        label_set: A name in `LABEL_SETS`.

    Returns:
        One `(identifier, name)` per class. Identifiers of ImageNet classes are WordNet 3.0 identifiers.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> load_class_names("imagenet-1k")[0]
        ('n01440764', 'tench')
    """
    if label_set == "digits":
        return tuple((str(digit), name) for digit, name in enumerate(DIGITS))
    if label_set == "shapes":
        return tuple((name, name) for name in SHAPES)
    if label_set not in LABEL_SETS:
        raise ValueError(f"label_set must be one of {LABEL_SETS}. Received: label_set={label_set!r}")
    with gzip.open(IMAGENET_FILE, "rt", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if row[label_set]]
    return tuple((row["wnid"], row["name"]) for row in sorted(rows, key=lambda row: int(row[label_set])))


def resolve_class_names(labels: str | Sequence[tuple[str, str]] | None) -> ClassNames | None:
    """Returns classes as `(identifier, name)`, from the name of a label set or from such pairs; None if there are none.

    Example:
        >>> resolve_class_names("digits")[3]
        ('3', 'three')
    """
    if isinstance(labels, str) and labels:
        return load_class_names(labels)
    return tuple(labels or ()) or None


def find_label_set(class_names: Sequence[tuple[str, str]]) -> str | None:
    """Returns the name of the label set with exactly these classes; None if there is none."""
    sizes = {**PUBLISHED_LABEL_SETS, "digits": len(DIGITS)}
    names = [name for name, size in sizes.items() if size == len(class_names)]
    return next((name for name in names if load_class_names(name) == tuple(class_names)), None)


def decode_predictions(
    preds: Any, top: int = 5, class_names: str | Sequence[str] | Sequence[tuple[str, str]] | None = None
) -> list[list[tuple[str, str, float]]]:
    """Returns the best classes of each row of scores, like `keras.applications.convnext.decode_predictions`, offline.

    Args:
        preds: Scores `(N, classes)`, array or tensor.
        top: Number of classes per row, 1 or more. Defaults to 5.
        class_names: A name in `LABEL_SETS`; or the class names, each alone or as `(identifier, name)`, such as
            `model.pretrained_info.class_names`. None uses the set of `PUBLISHED_LABEL_SETS` with this number of
            classes.

    Returns:
        For each row, up to `top` tuples `(identifier, name, score)`, the best first.

    Raises:
        ValueError: If the shape is not `(N, classes)`, or no label set has this number of classes.

    Example:
        >>> decode_predictions(np.eye(1000)[:1], top=1)
        [[('n01440764', 'tench', 1.0)]]
    """
    if not isinstance(preds, np.ndarray):
        import keras

        preds = keras.ops.convert_to_numpy(preds)
    if preds.ndim != 2:
        raise ValueError(f"preds must have shape (N, classes). Received: shape {preds.shape}")
    if top < 1:
        raise ValueError(f"top must be 1 or more. Received: top={top}")
    sets = [class_names] if class_names else PUBLISHED_LABEL_SETS
    known = [load_class_names(names) if isinstance(names, str) else names for names in sets]
    by_count = {len(names): [(name, name) if isinstance(name, str) else name for name in names] for names in known}
    if preds.shape[1] not in by_count:
        raise ValueError(f"preds must have {' or '.join(map(str, by_count))} columns. Received: shape {preds.shape}")
    names = by_count[preds.shape[1]]
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [[(*names[index], float(row[index])) for index in order] for row, order in zip(preds, best, strict=True)]
