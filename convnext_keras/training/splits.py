"""Splits of a dataset into training and validation, folds, and images that occur on both sides."""

import hashlib
import numbers
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.data.images import ImageSource
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION
from convnext_keras.training.datasets import ImageDataset, class_folders, load_dataset
from convnext_keras.training.tables import is_data_frame, is_table
from convnext_keras.validation import format_choices

TRAINING_NAMES, VALIDATION_NAMES = ("train", "training"), ("val", "valid", "validation", "test")
# Of the bins of the first value of a regression, which a split represents equally.
NUM_BINS, MIN_BIN_SIZE = 10, 5
INSTALL_HINT = 'Folds and splits by group need scikit-learn: pip install "convnext-keras[training]"'


def split_folders(folder: Any) -> tuple[Path, Path] | None:
    """Returns the directories of training and validation inside a directory; None if it has not both."""
    if not isinstance(folder, str | os.PathLike):
        return None
    names = {name.lower(): Path(folder) / name for name in class_folders(Path(folder))}
    training = next((names[name] for name in TRAINING_NAMES if name in names), None)
    validation = next((names[name] for name in VALIDATION_NAMES if name in names), None)
    return (training, validation) if training and validation else None


def split_by_column(examples: ImageDataset) -> tuple[ImageDataset, ImageDataset] | None:
    """Returns the training and the validation part by the split column; None without one.

    Raises:
        ValueError: If the column has other words, or no rows of one part.
    """
    words = examples.splits
    if words is None:
        return None
    unknown = sorted({*words} - {*TRAINING_NAMES, *VALIDATION_NAMES})
    if unknown:
        valid = format_choices((*TRAINING_NAMES, *VALIDATION_NAMES))
        raise ValueError(f"The split column must have {valid}. Received: {unknown[0]!r}")
    chosen = next((name for name in VALIDATION_NAMES if name in words), None)
    training = [row for row, word in enumerate(words) if word in TRAINING_NAMES]
    validation = [row for row, word in enumerate(words) if word == chosen]
    if not training or not validation:
        raise ValueError(f"The split column must have rows of {TRAINING_NAMES[0]!r} and of {VALIDATION_NAMES[0]!r}.")
    return load_dataset(examples.select(training)), load_dataset(examples.select(validation), name="validation")


def train_val_split(
    data: Any,
    validation: Any = 0.2,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    on_error: str = "raise",
    **options: Any,
) -> tuple[ImageDataset, ImageDataset]:
    """Returns the training and the validation images of a training run.

    Args:
        data: See `load_dataset`. A directory with the directories `train` and `val`, and a table with a split column,
            are split accordingly.
        validation: Fraction 0..1 of each class for validation; or images, see `load_dataset`.
        class_names: See `load_dataset`.
        seed: Random seed of the split.
        on_error: See `load_dataset`.
        **options: Other arguments of `load_dataset`.

    Example:
        >>> arrays = (np.zeros((10, 8, 8, 3), "uint8"), [0, 1] * 5)
        >>> [len(part) for part in train_val_split(arrays)]
        [8, 2]
    """
    folders = split_folders(data)
    if folders:
        data, validation = folders
    examples = load_dataset(data, class_names, on_error, **options)
    if parts := split_by_column(examples):
        return parts
    if isinstance(validation, numbers.Real):
        return stratified_split(examples, float(validation), seed)
    name = str(validation) if isinstance(validation, str | os.PathLike) else "validation"
    options = {**options, "problem_type": examples.problem_type}
    return examples, load_dataset(validation, examples.class_names, on_error, name=name, **options)


def validation_part(data: Any, **options: Any) -> Any:
    """Returns the validation part of data that is divided into training and validation; other data as it is.

    Args:
        data: See `load_dataset`. A directory with `train` and `val`, or a table with a split column, is divided.
        **options: Other arguments of `load_dataset`.

    Example:
        >>> arrays = (np.zeros((4, 8, 8, 3), "uint8"), [0, 1, 0, 1])
        >>> validation_part(arrays) is arrays
        True
    """
    folders = split_folders(data)
    if folders:
        return folders[1]
    if not is_table(data) and not is_data_frame(data):
        return data
    examples = load_dataset(data, name="data", **options)
    parts = split_by_column(examples)
    return parts[1] if parts else examples


def strata(examples: ImageDataset) -> np.ndarray:
    """Returns the stratum of each image, `(N,)`, which splits represent equally.

    It is the class; the rarest label of a multi-label problem; or one of ten bins of the first value of a regression.
    """
    if examples.problem_type == REGRESSION:
        ranks = examples.labels[:, 0].argsort(kind="stable").argsort(kind="stable")
        return ranks * min(NUM_BINS, max(1, len(examples) // MIN_BIN_SIZE)) // max(1, len(examples))
    if examples.problem_type != MULTI_LABEL:
        return examples.class_indices
    positive = examples.labels >= 0.5
    counts = np.where(positive, positive.sum(axis=0), np.iinfo("int64").max)
    return np.where(positive.any(axis=1), counts.argmin(axis=1), positive.shape[1])


def stratified_split(
    examples: ImageDataset, validation: float = 0.2, seed: int = 0
) -> tuple[ImageDataset, ImageDataset]:
    """Splits a dataset into training and validation, with the same fraction of each class.

    Args:
        examples: The dataset.
        validation: Fraction 0..1 for validation. A class with two images or more has at least one on each side.
        seed: Random seed.

    Raises:
        ValueError: If nothing is left for one of them.
        ImportError: If the dataset has groups and scikit-learn is missing.

    Example:
        >>> examples = load_dataset((np.zeros((10, 8, 8, 3), "uint8"), [0, 1] * 5))
        >>> [part.class_counts for part in stratified_split(examples, 0.2)]
        [{'0': 4, '1': 4}, {'0': 1, '1': 1}]
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must be above 0 and below 1. Received: validation={validation!r}")
    if examples.groups is not None:
        return next(k_fold(examples, max(2, round(1 / validation)), seed))
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    members_of = strata(examples)
    ends = np.cumsum(np.bincount(members_of))[:-1]
    for own in np.split(np.argsort(members_of, kind="stable"), ends):
        members = rng.permutation(own)
        count = min(max(1, round(validation * len(members))), len(members) - 1)
        chosen += members[: max(0, count)].tolist()
    if not chosen:
        raise ValueError("No class has two images, so none is left to validate with. Add images.")
    rest = sorted({*range(len(examples))} - {*chosen})
    return examples.select(rest), examples.select(sorted(chosen))


def k_fold(examples: ImageDataset, folds: int = 5, seed: int = 0) -> Iterator[tuple[ImageDataset, ImageDataset]]:
    """Yields the training and the validation part of each fold, stratified by class, without dividing a group.

    The splits are those of scikit-learn's `StratifiedKFold` and `StratifiedGroupKFold`.

    Args:
        examples: The dataset. Its `groups`, if it has some, are never in both parts.
        folds: Number of folds, 2 or more. Defaults to 5.
        seed: Random seed.

    Raises:
        ValueError: If there are fewer images, or groups, than folds.
        ImportError: If scikit-learn is missing.

    Example:
        >>> examples = load_dataset((np.zeros((10, 8, 8, 3), "uint8"), [0, 1] * 5))
        >>> [len(held_out) for _, held_out in k_fold(examples, 5)]
        [2, 2, 2, 2, 2]
    """
    try:
        from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
    except ImportError as error:
        raise ImportError(INSTALL_HINT) from error
    count = len(examples) if examples.groups is None else len({*examples.groups})
    if not 2 <= folds <= count:
        unit = "images" if examples.groups is None else "groups"
        raise ValueError(f"folds must be 2 to {count}, the number of {unit}. Received: folds={folds}")
    classes, groups = strata(examples), None
    is_stratified = np.bincount(classes).max() >= folds
    options: dict[str, Any] = {"n_splits": folds, "shuffle": True, "random_state": seed}
    if examples.groups is not None:
        groups = np.unique(np.array([str(group) for group in examples.groups]), return_inverse=True)[1]
        splitter: Any = StratifiedGroupKFold(**options) if is_stratified else GroupKFold(**options)
    else:
        splitter = StratifiedKFold(**options) if is_stratified else KFold(**options)
    indices = np.arange(len(examples))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # Rare classes are not in each fold.
        parts = [*splitter.split(indices, classes, groups)]
    for training, held_out in parts:
        yield examples.select(training.tolist()), examples.select(held_out.tolist())


def find_duplicates(training: ImageDataset, held_out: ImageDataset) -> list[tuple[str, str]]:
    """Finds images of the validation part that occur in the training part too, byte by byte.

    Args:
        training: The training part.
        held_out: The validation part.

    Returns:
        One pair of names (validation, training) per duplicate, in the order of the validation part.

    Example:
        >>> examples = ImageDataset([np.zeros((8, 8, 3), "uint8")] * 2, np.array([0, 1]), ("cat", "dog"))
        >>> find_duplicates(examples.select([0]), examples.select([1]))
        [('image 0', 'image 0')]
    """
    known: dict[str, int] = {}
    for index, image in enumerate(training.images):
        known.setdefault(_content_hash(image), index)
    hashes = enumerate(map(_content_hash, held_out.images))
    pairs = [(index, known[digest]) for index, digest in hashes if digest in known]
    return [(held_out.image_name(mine), training.image_name(theirs)) for mine, theirs in pairs]


def drop_duplicates(training: ImageDataset, held_out: ImageDataset) -> ImageDataset:
    """Returns the training part without the images that occur in the validation part.

    Args:
        training: The training part.
        held_out: The validation part.

    Example:
        >>> images = [np.full((8, 8, 3), level, "uint8") for level in (0, 1, 2, 0)]
        >>> examples = ImageDataset(images, np.array([0, 1, 0, 0]), ("a", "b"))
        >>> len(drop_duplicates(examples.select([0, 1, 2]), examples.select([3])))
        2
    """
    held = {_content_hash(image) for image in held_out.images}
    kept = [index for index, image in enumerate(training.images) if _content_hash(image) not in held]
    return load_dataset(training.select(kept))


def _content_hash(image: ImageSource) -> str:
    """Returns the SHA-256 of a file's bytes, or of an array's shape and values."""
    if isinstance(image, str | os.PathLike):
        with Path(image).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    array = np.ascontiguousarray(image)
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()
