"""Images with labels: from directories, tables, DataFrames, arrays and loaders."""

import collections
import dataclasses
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.data.images import PIL_MODES, ImageSource, open_image, scale_to_uint8, to_array
from convnext_keras.data.loader import list_images
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from convnext_keras.training.labels import encode_labels
from convnext_keras.training.tables import COLUMNS, Table, is_data_frame, is_table

SPLIT_COLUMNS = ("split", "subset", "partition")  # columns that assign rows to training and validation
WEIGHT_COLUMNS = ("weight", "sample_weight")
DICT_KEYS = {
    "image": ("image", "images", "pixels", "pixel_values", "img", "jpg", "png"),
    "class": ("label", "labels", "class", "fine_label", "cls", "target", "tags"),
}


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with labels.

    Attributes:
        images: Paths, or arrays `(H, W, C)` of pixels in 0..255; see `open_image`.
        labels: Class indices `(N,)`; or `(N, C)` float32: 0 and 1 per class (multi-label), probabilities that sum to 1
            (soft labels), or values (regression).
        class_names: Names of the classes, or of the values of a regression, in order.
        skipped: Images that cannot be read and were left out.
        problem_type: A key of `PROBLEM_TYPES`.
        sample_weights: Weight of each image in the loss, `(N,)`; None for 1.
        groups: Group of each image, such as a patient; None for none. A split keeps each group on one side.
        splits: Word of the split column of each image, such as `"train"`; None for none.

    Example:
        >>> examples = ImageDataset([np.zeros((8, 8, 3), "uint8")] * 3, np.array([0, 1, 1]), ("cat", "dog"))
        >>> examples.class_counts
        {'cat': 1, 'dog': 2}
    """

    images: Sequence[ImageSource]
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL
    sample_weights: np.ndarray | None = None
    groups: tuple[Any, ...] | None = None
    splits: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        """Returns the path of an image, or `image N` for an array."""
        image = self.images[index]
        return str(image) if isinstance(image, str | os.PathLike) else f"image {index}"

    def targets(self, indices: Sequence[int]) -> np.ndarray:
        """Returns the labels of some images as `(N, C)` float32; class indices become one-hot rows."""
        labels = self.labels[[*indices]]
        if labels.ndim == 2:
            return labels
        rows = np.zeros((len(labels), len(self.class_names)), "float32")
        rows[np.arange(len(labels)), labels] = 1
        return rows

    @property
    def class_indices(self) -> np.ndarray:
        """Returns the most probable class of each image, `(N,)`."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(axis=1)

    @property
    def class_counts(self) -> dict[str, int]:
        """Returns the number of images per class; empty for a regression."""
        if self.problem_type == REGRESSION:
            return {}
        if self.problem_type == MULTI_LABEL:
            counts = (self.labels >= 0.5).sum(axis=0)
        else:
            counts = np.bincount(self.class_indices, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def label_text(self, index: int) -> str:
        """Returns the label of an image as text: class names joined by `|`, or values."""
        row = self.labels[index]
        if self.problem_type == REGRESSION:
            return "|".join(f"{value:g}" for value in row)
        if self.problem_type == MULTI_LABEL:
            return "|".join(name for name, value in zip(self.class_names, row, strict=True) if value >= 0.5)
        return self.class_names[int(self.class_indices[index])]

    def select(self, indices: Iterable[int]) -> "ImageDataset":
        """Returns the images at these indices, in this order."""
        chosen = [*indices]

        def pick(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple(values[index] for index in chosen)

        return dataclasses.replace(
            self,
            images=[self.images[index] for index in chosen],
            labels=self.labels[chosen],
            sample_weights=None if self.sample_weights is None else self.sample_weights[chosen],
            groups=pick(self.groups),
            splits=pick(self.splits),
        )


def load_dataset(
    data: Any,
    class_names: Sequence[str] | None = None,
    on_error: str = "raise",
    *,
    problem_type: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    weight_column: str | None = None,
    group_column: str | None = None,
    separator: str | None = None,
    label_depth: int = 1,
    keys: tuple[str, str] | None = None,
    name: str = "",
) -> ImageDataset:
    """Loads images with their labels.

    Args:
        data: A directory with one subdirectory per class; a `.csv` or `.tsv` file with a column of paths, relative to
            the file's directory, and one of labels; a DataFrame of pandas or polars, whose paths are relative to the
            working directory; arrays `(pixels (N, H, W, C), labels)` or `(pixels, labels, sample_weights)`; an
            `ImageDataset`; or an iterable of pairs, batches or dictionaries, such as a `datasets.Dataset`, a
            `tf.data.Dataset`, a PyTorch `DataLoader` or a grain loader, which is read once into memory.
        class_names: Class names in order. None for those that the loader knows, or those that occur, sorted.
        on_error: `"raise"`, or `"skip"` to leave out images that cannot be read, with a warning.
        problem_type: A key of `PROBLEM_TYPES`; None detects it, see `encode_labels`. A regression must be named.
        image_column: Column of the paths or images. None for a usual name, such as `path`.
        label_column: Column of the labels, or several columns: 0 and 1 per class, or the values of a regression. None
            for a usual name, such as `label`.
        split_column: Column that assigns rows to `train` and `val`. None for a usual name, such as `split`.
        weight_column: Column of the sample weights. None for `weight`, if it exists.
        group_column: Column of groups that a split must not divide.
        separator: Separator of several labels in one column, such as `"|"`.
        label_depth: Number of levels of subdirectories that name a class: 2 for `animals/cat/1.jpg`, whose class is
            `animals/cat`. Defaults to 1.
        keys: Keys of the image and of the label in dictionaries, such as `("img", "fine_label")`.
        name: Name of validation data in errors, such as `"val"`, whose classes may be fewer; empty for training data.

    Raises:
        ValueError: If there are fewer than two classes, a class has no images, an image cannot be read, or the data
            or labels have none of these forms.

    Example:
        >>> load_dataset((np.zeros((4, 8, 8, 3), "uint8"), ["dog", "cat", "dog", "dog"])).class_counts
        {'cat': 1, 'dog': 3}
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received: on_error={on_error!r}")
    if isinstance(data, ImageDataset):
        return _validate(data, name)
    columns = {"image_column": image_column, "split_column": split_column, "weight_column": weight_column}
    columns["group_column"] = group_column
    if is_data_frame(data) or is_table(data):
        table = Table(data)
        images, others = _table_images(table, columns)
        if is_table(data):
            images = [Path(data).parent / str(image) for image in images]
        labels, names, problem_type = _table_labels(table, label_column, separator, problem_type)
    else:
        given = {**columns, "label_column": label_column, "separator": separator}
        if unused := [key for key, value in given.items() if value is not None]:
            raise ValueError(f"{unused[0]} is for tables and DataFrames. Received: {type(data).__name__}")
        others: dict[str, Any] = {}
        if isinstance(data, str | os.PathLike):
            images, labels = _from_directory(Path(data), label_depth)
            names = sorted({*labels, *(class_folders(Path(data)) if label_depth == 1 else ())})
        elif _is_arrays(data):
            images, labels, names, others = *_from_arrays(data), None, _weights_of(data[2:])
        else:
            images, labels = _from_loader(data, keys)
            names = _loader_class_names(data, keys)
    encoded = encode_labels(labels, class_names or names, problem_type)
    examples = ImageDataset(images, encoded.labels, encoded.class_names, problem_type=encoded.problem_type, **others)
    return _drop_unreadable(examples, on_error, name)


def class_folders(folder: Path) -> list[str]:
    """Returns the names of the subdirectories; none for a file."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _from_directory(path: Path, depth: int) -> tuple[list[ImageSource], list[str]]:
    if not path.is_dir():
        raise ValueError(f"{path} is neither a directory with one subdirectory per class nor a .csv or .tsv file.")
    if depth < 1:
        raise ValueError(f"label_depth must be 1 or more. Received: label_depth={depth}")
    classes = [""]
    for _ in range(depth):
        classes = [f"{name}/{inner}".lstrip("/") for name in classes for inner in class_folders(path / name)]
    if not classes:
        level = "subdirectories" if depth == 1 else f"subdirectories of {depth} levels"
        raise ValueError(f"{path} has no {level}. Put the images of each class into a directory of its name.")
    rows = [(image, name) for name in classes for image in list_images(path / name)]
    return [image for image, _ in rows], [name for _, name in rows]


def _table_images(table: Table, columns: dict[str, str | None]) -> tuple[list[ImageSource], dict[str, Any]]:
    """Returns the images of a table, and sample weights, groups and splits as arguments of `ImageDataset`."""
    images = table.column(columns["image_column"] or COLUMNS["path"])
    split = columns["split_column"] or table.find(SPLIT_COLUMNS)
    weight = columns["weight_column"] or table.find(WEIGHT_COLUMNS)
    others: dict[str, Any] = _weights_of([_to_numbers(table, weight)] if weight else ())
    if split:
        others["splits"] = tuple(str(cell).strip().lower() for cell in table.column(split))
    if columns["group_column"]:
        others["groups"] = tuple(table.column(columns["group_column"]))
    return images, others


def _table_labels(
    table: Table, label_column: str | Sequence[str] | None, separator: str | None, problem_type: str | None
) -> tuple[list[Any], list[str] | None, str | None]:
    """Returns the labels of a table, the names of several label columns, and the problem type if it is known."""
    names = [label_column] if isinstance(label_column, str) else [*(label_column or ())]
    if len(names) > 1:
        rows = [[*row] for row in zip(*(_to_numbers(table, name) for name in names), strict=True)]
        is_binary = np.isin(rows, (0, 1)).all()
        return rows, names, MULTI_LABEL if problem_type is None and is_binary else problem_type
    heading = names[0] if names else table.find(COLUMNS["class"])
    labels = table.column(heading or COLUMNS["class"])
    if problem_type == REGRESSION and heading:
        return _to_numbers(table, heading), None, problem_type
    if separator is not None:
        labels = [[part.strip() for part in str(label).split(separator) if part.strip()] for label in labels]
    return labels, None, problem_type


def _to_numbers(table: Table, name: str) -> list[float]:
    values = table.column(name)
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{table.name}: the column {name!r} must have numbers only: {error}.") from error


def _weights_of(given: Sequence[Any]) -> dict[str, Any]:
    """Returns sample weights as a keyword argument of `ImageDataset`; empty without them."""
    if not given or given[0] is None:
        return {}
    weights = np.asarray(given[0], "float32")
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        raise ValueError("Sample weights must be finite numbers of 0 or more, one per image, not all 0.")
    return {"sample_weights": weights}


def _is_arrays(data: Any) -> bool:
    """Returns whether data are images and labels, with sample weights or not."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return False
    return isinstance(data[1], list | tuple) or len(np.shape(data[1])) in (1, 2)


def _from_arrays(data: Any) -> tuple[list[ImageSource], list[Any]]:
    images, labels = data[0], data[1]
    if not isinstance(images, list):
        images = _to_pixels(images)
    labels = [*(labels if isinstance(labels, list | tuple) else to_array(labels))]
    if len(images) != len(labels):
        raise ValueError(f"There must be as many labels as images. Received: {len(images)} and {len(labels)}")
    return [*images], labels


def _from_loader(data: Any, keys: tuple[str, str] | None) -> tuple[list[ImageSource], list[Any]]:
    if not isinstance(data, Iterable):
        raise ValueError(
            "data must be a directory, a .csv file, a DataFrame, arrays (pixels, labels), or an iterable of images "
            f"with labels. Received: {type(data).__name__}"
        )
    images: list[ImageSource] = []
    labels: list[Any] = []
    for item in data:
        image, label = _unpack_item(item, keys)
        pixels = _to_pixels(image)
        is_batch = pixels.ndim == 4
        images += [*pixels] if is_batch else [pixels]
        labels += [*(label if isinstance(label, list | tuple) else to_array(label))] if is_batch else [label]
    return images, labels


def _loader_class_names(data: Any, keys: tuple[str, str] | None) -> Sequence[str] | None:
    """Returns the `class_names` of a `tf.data.Dataset`, or the names of a `datasets.ClassLabel`; None for others."""
    if names := getattr(data, "class_names", None):
        return names
    features = getattr(data, "features", None)
    if not isinstance(features, dict):
        return None
    key = keys[1] if keys else next((key for key in DICT_KEYS["class"] if key in features), None)
    feature = features.get(key)
    return getattr(getattr(feature, "feature", feature), "names", None)


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
        f"A loader must give pairs (pixels, labels), or dictionaries with image and label. Received: {shown}. Name the "
        "keys: load_dataset(..., keys=(IMAGE, LABEL))."
    )


def _to_pixels(images: Any) -> np.ndarray:
    """Returns arrays of pixels as uint8, channels last."""
    pixels = to_array(images)
    if pixels.ndim in (3, 4) and pixels.shape[-1] not in PIL_MODES and pixels.shape[-3] in PIL_MODES:
        raise ValueError(f"Images must have their channels last, (H, W, C). Received: shape {pixels.shape}")
    return scale_to_uint8(pixels, "the array of images") if pixels.size else pixels


def _validate(examples: ImageDataset, name: str = "") -> ImageDataset:
    """Raises ValueError for classes that cannot be trained, and warns of those without images."""
    names, counts = examples.class_names, examples.class_counts
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"Names of classes must differ. Received twice: {', '.join(repeated)}")
    weights = examples.sample_weights
    if weights is not None and len(weights) != len(examples):
        raise ValueError(f"There must be one sample weight per image. Received: {len(weights)} for {len(examples)}")
    if examples.problem_type == REGRESSION:
        if not len(examples):
            raise ValueError("There are no images.")
        return examples
    if len(names) < 2 and examples.problem_type == SINGLE_LABEL:
        raise ValueError(f"There must be two or more classes. Received: {', '.join(names) or 'none'}")
    empty = [name for name, count in counts.items() if not count]
    if examples.problem_type == SINGLE_LABEL and examples.labels.ndim == 2:
        return examples  # Soft labels: each image has a part of every class.
    if empty and not name and examples.problem_type == SINGLE_LABEL:
        raise ValueError(f"Classes without images that can be read: {', '.join(empty)}. Add some, or leave them out.")
    if empty:
        subject = name or "The data"
        warnings.warn(f"{subject} has no images of {', '.join(empty[:5])}: nothing is measured of these.", stacklevel=4)
    return examples


def _drop_unreadable(examples: ImageDataset, on_error: str, name: str = "") -> ImageDataset:
    """Returns the images whose files can be decoded, all of which is tried once, in threads."""

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
