"""Images with classes, from a folder, a table, arrays or any loader, and their split."""

import collections
import csv
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.data.images import PIL_MODES, ImageSource, open_image, scale_to_uint8, to_array
from convnext_keras.data.loader import list_images
from convnext_keras.validation import format_choices

TABLE_SUFFIXES = (".csv", ".tsv")
TRAINING_NAMES, VALIDATION_NAMES = ("train", "training"), ("val", "valid", "validation", "test")
COLUMNS = {
    "path": ("path", "file", "filepath", "file_path", "filename", "file_name", "image"),
    "class": ("class", "label", "category"),
}
SPLIT_COLUMNS = ("split", "subset", "partition")  # columns that say what a row is for
DICT_KEYS = {
    "image": ("image", "images", "pixels", "pixel_values", "img", "jpg", "png"),
    "class": ("label", "labels", "class", "fine_label", "cls", "target"),
}


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with class labels.

    Attributes:
        images: What `open_image` takes: paths, or arrays `(H, W, C)` of pixels in 0..255.
        labels: `(N,)`, the number of each image's class.
        class_names: Class names of the classes, in the order of their numbers.
        skipped: What could not be read and was left out.

    Example:
        >>> examples = ImageDataset([np.zeros((8, 8, 3), "uint8")] * 3, np.array([0, 1, 1]), ("cat", "dog"))
        >>> examples.class_counts
        {'cat': 1, 'dog': 2}
    """

    images: Sequence[ImageSource]
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        """Returns the path of an image, or `image N` for an array."""
        image = self.images[index]
        return str(image) if isinstance(image, str | os.PathLike) else f"image {index}"

    @property
    def class_counts(self) -> dict[str, int]:
        """Returns the number of images per class."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def select(self, indices: Iterable[int]) -> "ImageDataset":
        """Returns the images at these positions, in this order."""
        chosen = [*indices]
        images = [self.images[index] for index in chosen]
        return dataclasses.replace(self, images=images, labels=self.labels[chosen])


def load_dataset(
    data: Any,
    class_names: Sequence[str] | None = None,
    on_error: str = "raise",
    *,
    keys: tuple[str, str] | None = None,
    name: str = "",
) -> ImageDataset:
    """Returns images with their classes, in any of the usual forms.

    Args:
        data: A folder with a folder of images for each class; a `.csv` or `.tsv` file with columns `path`, relative
            to the file's folder, and `class`; arrays `(pixels (N, H, W, C), labels)`, where labels are numbers, names,
            or rows of one 1 and zeros; `ImageDataset`; or an iterable of pairs, or of batches, or of dictionaries with
            `image` and `label`, such as a `tf.data.Dataset`, PyTorch `DataLoader` or grain loader, which is read once
            into memory.
        class_names: The classes in order; by default those that the loader knows as `class_names`, or those that there
            are, sorted.
        keys: Keys of the image and of the label in dictionaries, such as `("img", "fine_label")`.
        name: Name of validation data in errors, such as `"val"`, whose classes may be fewer; empty for training data.
        on_error: `"raise"`, or `"skip"` to leave out images that cannot be read, with a warning.

    Raises:
        ValueError: If there are fewer than two classes, a class has no images, an image cannot be read, or the form
            is none of these.

    Example:
        >>> load_dataset((np.zeros((4, 8, 8, 3), "uint8"), ["dog", "cat", "dog", "dog"])).class_counts
        {'cat': 1, 'dog': 3}
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received: on_error={on_error!r}")
    if isinstance(data, ImageDataset):
        return _validate(data, name)
    if isinstance(data, str | os.PathLike):
        images, labels = _from_path(Path(data))
        known = class_names or sorted({*labels, *_class_folders(Path(data))})
    else:
        images, labels = _from_arrays(data) if _is_pair(data) else _from_loader(data, keys)
        known = class_names or getattr(data, "class_names", None) or _infer_class_names(labels)
    numbers = _to_indices(labels, tuple(known))
    return _drop_unreadable(ImageDataset(images, numbers, tuple(map(str, known))), on_error, name)


def _class_folders(folder: Path) -> list[str]:
    """Returns names of the folders in a folder; none for a file."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def split_folders(folder: Any) -> tuple[Path, Path] | None:
    """Returns the folders of training and validation, where a folder is divided so; None for others."""
    if not isinstance(folder, str | os.PathLike):
        return None
    names = {name.lower(): Path(folder) / name for name in _class_folders(Path(folder))}
    training = next((names[name] for name in TRAINING_NAMES if name in names), None)
    validation = next((names[name] for name in VALIDATION_NAMES if name in names), None)
    return (training, validation) if training and validation else None


def is_table(path: Any) -> bool:
    """Returns whether a path names an existing `.csv` or `.tsv` file."""
    is_path = isinstance(path, str | os.PathLike)
    return is_path and Path(path).suffix.lower() in TABLE_SUFFIXES and Path(path).is_file()


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Reads a table whose columns are separated by commas, semicolons or tabs.

    Returns:
        The headings in lower case, and the other rows.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        first = stream.readline()
        stream.seek(0)
        rows = [*csv.reader(stream, delimiter=max(",;\t", key=first.count))]
    return [heading.strip().lower() for heading in (rows or [[]])[0]], [row for row in rows[1:] if row]


def _from_path(path: Path) -> tuple[list[Path], list[str]]:
    if is_table(path):
        return _from_table(path)
    if not path.is_dir():
        raise ValueError(f"{path} is neither a folder with a folder for each class nor a .csv or .tsv file.")
    classes = _class_folders(path)
    if not classes:
        raise ValueError(f"{path} has no folders. Put the images of each class into a folder that is called like it.")
    rows = [(image, name) for name in classes for image in list_images(path / name)]
    return [image for image, _ in rows], [name for _, name in rows]


def read_csv_columns(path: Path, columns: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Returns columns of a `.csv` or `.tsv` file, each found by one of some headings, whatever their case.

    Args:
        path: Path of the file.
        columns: The headings that each wanted column may have.

    Raises:
        ValueError: If a column is not there, or no row.
    """
    headings, rows = read_csv(path)
    found = [next((headings.index(name) for name in names if name in headings), None) for names in columns.values()]
    for column, names in zip(found, columns.values(), strict=True):
        if column is None:
            raise ValueError(f"{path} must have a column {format_choices(names)}. Received: {', '.join(headings)}")
    if not rows:
        raise ValueError(f"{path} has no rows below its heading.")
    if short := [number for number, row in enumerate(rows, start=2) if len(row) < len(headings)]:
        raise ValueError(f"{path}: row {short[0]} has fewer columns than the heading.")
    return [[row[column] for row in rows] for column in found if column is not None]


def _from_table(path: Path) -> tuple[list[Path], list[str]]:
    names, classes = read_csv_columns(path, COLUMNS)
    return [path.parent / name for name in names], classes


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and len(np.shape(data[1])) in (1, 2)


def _from_arrays(data: Any) -> tuple[list[ImageSource], list[Any]]:
    images, labels = data
    if not isinstance(images, list):
        images = _to_pixels(images)
    labels = _parse_labels(labels)
    if len(images) != len(labels):
        raise ValueError(f"There must be as many labels as images. Received: {len(images)} and {len(labels)}")
    return [*images], labels


def _from_loader(data: Any, keys: tuple[str, str] | None) -> tuple[list[ImageSource], list[Any]]:
    if not isinstance(data, Iterable):
        raise ValueError(
            "data must be a folder, a .csv file, arrays (pixels, labels), or an iterable of images with labels. "
            f"Received: {type(data).__name__}"
        )
    images: list[ImageSource] = []
    labels: list[Any] = []
    for item in data:
        image, label = _unpack_item(item, keys)
        pixels = _to_pixels(image)
        is_batch = pixels.ndim == 4
        images += [*pixels] if is_batch else [pixels]
        labels += _parse_labels(label if is_batch else [label])
    return images, labels


def _unpack_item(item: Any, keys: tuple[str, str] | None) -> tuple[Any, Any]:
    """Returns image and label of one item of a loader."""
    if isinstance(item, dict):
        image, label = keys or [next((key for key in names if key in item), None) for names in DICT_KEYS.values()]
        if image in item and label in item:
            return item[image], item[label]
    elif isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    shown = f"keys {', '.join(map(str, item))}" if isinstance(item, dict) else type(item).__name__
    raise ValueError(
        f"A loader must give pairs (pixels, labels), or dictionaries with image and label. Got: {shown}. Name the "
        "keys: read_examples(..., keys=(IMAGE, LABEL))."
    )


def _to_pixels(images: Any) -> np.ndarray:
    """Returns arrays of pixels as uint8, channels last."""
    pixels = to_array(images)
    if pixels.ndim in (3, 4) and pixels.shape[-1] not in PIL_MODES and pixels.shape[-3] in PIL_MODES:
        raise ValueError(f"Images must have their channels last, (H, W, C). Received: shape {pixels.shape}")
    return scale_to_uint8(pixels, "the array of images") if pixels.size else pixels


def _parse_labels(labels: Any) -> list[Any]:
    """Returns numbers or names, from them or from rows of one 1 and zeros."""
    rows = np.asarray(labels)
    if rows.ndim == 2:
        if not (np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1)):
            raise ValueError("Labels in rows must have one 1 and zeros: each image is of one class.")
        rows = rows.argmax(axis=1)
    if np.issubdtype(rows.dtype, np.floating):
        if not np.all(rows == np.rint(rows)):
            raise ValueError(
                f"Labels must be whole numbers or names. Received: {rows[rows != np.rint(rows)][0]}. Other numbers are "
                "for regression, which is not trained here."
            )
        rows = rows.astype("int64")
    return rows.tolist()


def _infer_class_names(labels: list[Any]) -> list[Any]:
    """Returns the classes that there are: all numbers from 0 on, or the names, sorted."""
    if labels and all(isinstance(label, int) for label in labels):
        return [*range(max(labels) + 1)]
    return sorted({*map(str, labels)})


def _to_indices(labels: list[Any], names: tuple[Any, ...]) -> np.ndarray:
    if labels and all(isinstance(label, int) for label in labels):
        if min(labels) < 0 or max(labels) >= len(names):
            raise ValueError(f"Labels must be 0 to {len(names) - 1}. Received: {min(labels)} to {max(labels)}")
        return np.array(labels, "int64")
    indices = {str(name): index for index, name in enumerate(names)}
    unknown = sorted({str(label) for label in labels} - indices.keys())
    if unknown:
        raise ValueError(f"class_names must name all classes. Missing: {', '.join(unknown[:5])}")
    return np.array([indices[str(label)] for label in labels], "int64")


def _validate(examples: ImageDataset, name: str = "") -> ImageDataset:
    repeated = [name for name, count in collections.Counter(examples.class_names).items() if count > 1]
    if repeated:
        raise ValueError(f"Names of classes must differ. Received twice: {', '.join(repeated)}")
    if len(examples.class_names) < 2:
        raise ValueError(f"There must be two or more classes. Received: {', '.join(examples.class_names) or 'none'}")
    empty = [name for name, count in examples.class_counts.items() if not count]
    if empty and not name:
        raise ValueError(f"Classes without images that can be read: {', '.join(empty)}. Add some, or leave them out.")
    if empty:
        warnings.warn(f"{name} has no images of {', '.join(empty[:5])}: nothing is measured of these.", stacklevel=4)
    return examples


def _drop_unreadable(examples: ImageDataset, on_error: str, name: str = "") -> ImageDataset:
    """Returns the examples whose files can be decoded, all of which is tried once, in threads."""

    def decode_error(image: ImageSource) -> str | None:
        if not isinstance(image, str | os.PathLike):
            return None
        try:
            open_image(image, None)
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [*pool.map(decode_error, examples.images)]
    bad = [text for text in faults if text]
    if bad and on_error == "raise":
        others = f" {len(bad)} of {len(faults)} images cannot be read; on_error='skip' leaves them out."
        raise ValueError(bad[0] + others)
    if bad:
        warnings.warn(f"Left out {len(bad)} of {len(faults)} images that cannot be read: {bad[0]}", stacklevel=3)
        kept = [index for index, text in enumerate(faults) if not text]
        names = tuple(str(image) for image, text in zip(examples.images, faults, strict=True) if text)
        examples = dataclasses.replace(examples.select(kept), skipped=names)
    return _validate(examples, name)


def split_rows(path: Any) -> tuple[list[int], list[int]] | None:
    """Returns the rows of a table to train on and those to validate with, by its column `split`; None for others.

    Raises:
        ValueError: If the column has other words than these, or leaves nothing for one of them.
    """
    if not is_table(path):
        return None
    headings, _ = read_csv(Path(path))
    column = next((name for name in SPLIT_COLUMNS if name in headings), None)
    if column is None:
        return None
    (cells,) = read_csv_columns(Path(path), {"split": (column,)})
    words = [cell.strip().lower() for cell in cells]
    unknown = sorted({*words} - {*TRAINING_NAMES, *VALIDATION_NAMES})
    if unknown:
        valid = format_choices((*TRAINING_NAMES, *VALIDATION_NAMES))
        raise ValueError(f"{path}: the column {column} must be {valid}. Received: {unknown[0]!r}")
    chosen = next((name for name in VALIDATION_NAMES if name in words), None)
    training = [row for row, word in enumerate(words) if word in TRAINING_NAMES]
    validation = [row for row, word in enumerate(words) if word == chosen]
    if not training or not validation:
        raise ValueError(
            f"{path}: the column {column} must have rows of {TRAINING_NAMES[0]!r} and of {VALIDATION_NAMES[0]!r}."
        )
    return training, validation


def validation_part(data: Any) -> Any:
    """Returns the validation part of data that is divided into training and validation; other data as it is.

    Args:
        data: See `load_dataset`. A folder with `train` and `val` in it, or a table with a column `split`, is divided.

    Example:
        >>> arrays = (np.zeros((4, 8, 8, 3), "uint8"), [0, 1, 0, 1])
        >>> validation_part(arrays) is arrays
        True
    """
    folders, rows = split_folders(data), split_rows(data)
    if folders:
        return folders[1]
    return load_dataset(data).select(rows[1]) if rows else data


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


def _content_hash(image: ImageSource) -> str:
    """Returns the SHA-256 of a file's bytes, or of an array's shape and values."""
    if isinstance(image, str | os.PathLike):
        with Path(image).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    array = np.ascontiguousarray(image)
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()


def stratified_split(
    examples: ImageDataset, validation: float = 0.2, seed: int = 0
) -> tuple[ImageDataset, ImageDataset]:
    """Splits a dataset into training and validation, with the same fraction of each class.

    Args:
        examples: All of them.
        validation: The part 0..1 for validation; of a class with two images or more, one at least in each.
        seed: Seed of the choice; the same one chooses the same.

    Raises:
        ValueError: If nothing is left for one of them.

    Example:
        >>> examples = load_dataset((np.zeros((10, 8, 8, 3), "uint8"), [0, 1] * 5))
        >>> [part.class_counts for part in stratified_split(examples, 0.2)]
        [{'0': 4, '1': 4}, {'0': 1, '1': 1}]
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must be above 0 and below 1. Received: validation={validation!r}")
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in range(len(examples.class_names)):
        members = rng.permutation(np.flatnonzero(examples.labels == label))
        count = min(max(1, round(validation * len(members))), len(members) - 1)
        chosen += members[:count].tolist()
    if not chosen:
        raise ValueError("No class has two images, so none is left to validate with. Add images.")
    rest = sorted({*range(len(examples))} - {*chosen})
    return examples.select(rest), examples.select(sorted(chosen))
