"""Names of classes, shipped with the package: ImageNet-1k, -12k and -22k, and the digits of the bundled checkpoint.

The table of ImageNet's classes is made by `scripts/make_labels.py`, which says where it comes from.
"""

import csv
import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

IMAGENET_FILE = Path(__file__).parent / "imagenet.tsv.gz"
PUBLISHED_LABEL_SETS = ("imagenet-1k", "imagenet-12k", "imagenet-22k")  # which their numbers of classes tell apart
LABEL_SETS = (*PUBLISHED_LABEL_SETS, "digits")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@functools.cache
def load_class_names(labels: str) -> tuple[tuple[str, str], ...]:
    """The classes of a label set, in the order of the classifier's outputs, each `(identifier, name)`.

    Args:
        labels: a name in `LABEL_SETS`. Identifiers of ImageNet's classes are WordNet 3.0's.

    Raises:
        ValueError: if the name is unknown.

    Example:
        >>> load_class_names("imagenet-1k")[0]
        ('n01440764', 'tench')
    """
    if labels == "digits":
        return tuple((str(digit), name) for digit, name in enumerate(DIGITS))
    if labels not in LABEL_SETS:
        raise ValueError(f"labels must be one of {LABEL_SETS}. Received: labels={labels!r}")
    with gzip.open(IMAGENET_FILE, "rt", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if row[labels]]
    return tuple((row["wnid"], row["name"]) for row in sorted(rows, key=lambda row: int(row[labels])))


def decode_predictions(
    preds: Any, top: int = 5, labels: str | Sequence[str] | Sequence[tuple[str, str]] | None = None
) -> list[list[tuple[str, str, float]]]:
    """The best classes of each row of scores, as `keras.applications.convnext.decode_predictions` gives them, offline.

    Args:
        preds: scores `(N, classes)`, array or tensor.
        top: how many classes to give, 1 or more.
        labels: a name in `LABEL_SETS`; the names of the classes themselves, each alone or as `(identifier, name)`,
            such as `model.pretrained_info.labels`; None for the one of `PUBLISHED_LABEL_SETS` that has as many classes.

    Returns:
        For each row, the `top` best as `(identifier, name, score)`, best first.

    Raises:
        ValueError: if the shape is another, or no label set has as many classes.

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
    sets = [labels] if labels else PUBLISHED_LABEL_SETS
    known = [load_class_names(names) if isinstance(names, str) else names for names in sets]
    counts = {len(names): [(name, name) if isinstance(name, str) else name for name in names] for names in known}
    if preds.shape[1] not in counts:
        raise ValueError(f"preds must have {' or '.join(map(str, counts))} columns. Received: shape {preds.shape}")
    names = counts[preds.shape[1]]
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [[(*names[number], float(row[number])) for number in order] for row, order in zip(preds, best, strict=True)]
