"""Taggers of the WD family: timm repositories with a `selected_tags.csv`, such as `SmilingWolf/wd-convnext-tagger-v3`.

The configuration of these repositories states neither the labels nor the images' preparation. The labels are the rows
of `selected_tags.csv` (columns `tag_id,name,category,count`). The publisher's scripts lay transparent images on white,
pad them to a white square, resize them, and reverse the channels to BGR; they print tags of the categories general and
character above 0.35 and 0.75 (https://github.com/neggles/wdv3-timm at 05b0842).
"""

import csv
import dataclasses
from pathlib import Path

from convnext_keras.checkpoints import WeightsError
from convnext_keras.checkpoints.registry import TAGGER_TRANSFORM
from convnext_keras.hub.model_info import ModelInfo
from convnext_keras.problem_types import DEFAULT_THRESHOLD, MULTI_LABEL, PROBLEM_TYPES

TAGS_FILE = "selected_tags.csv"
COLUMNS = {"tag_id", "name", "category", "count"}
CATEGORIES = {"0": "general", "4": "character", "9": "rating"}
THRESHOLDS = {"general": 0.35, "character": 0.75}
MAX_TAGS_BYTES = 100_000_000


def read_tags(path: Path, count: int) -> list[dict[str, str]]:
    """Reads the rows of `selected_tags.csv`, one per output of the classifier.

    Raises:
        WeightsError: If a column is missing, or the number of rows is not that of the classes.
    """
    try:
        if path.stat().st_size > MAX_TAGS_BYTES:
            raise WeightsError(f"{path}: has more than {MAX_TAGS_BYTES} bytes.")
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [*csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WeightsError(f"{path}: cannot be read as a table of tags: {error}") from error
    if missing := sorted(COLUMNS - {key for row in rows[:1] for key in row}):
        raise WeightsError(f"{path}: has no column {missing[0]!r}. It must have {', '.join(sorted(COLUMNS))}.")
    if any(row["name"] is None or row["category"] is None for row in rows):
        raise WeightsError(f"{path}: has rows with fewer columns than the heading.")
    if len(rows) != count:
        raise WeightsError(f"{path}: has {len(rows)} tags, but the classifier has {count} outputs.")
    return rows


def with_tags(info: ModelInfo) -> ModelInfo:
    """Returns the description of a timm repository, completed by its `selected_tags.csv` if it has one."""
    path = info.repository.find(TAGS_FILE) if info.classes else None
    if path is None:
        return info
    rows = read_tags(path, info.classes)
    categories = tuple(CATEGORIES.get(row["category"], row["category"]) for row in rows)
    transform = info.transform._replace(resize_mode="pad", **TAGGER_TRANSFORM)
    note = f"{TAGS_FILE} names the labels; images are padded to a white square and get BGR channels."
    return dataclasses.replace(
        info,
        labels=tuple((row["tag_id"], row["name"]) for row in rows),
        problem_type=MULTI_LABEL,
        activation=PROBLEM_TYPES[MULTI_LABEL],
        categories=categories,
        thresholds=tuple(THRESHOLDS.get(category, DEFAULT_THRESHOLD) for category in categories),
        transform=transform,
        notes=(*info.notes, note),
    )
