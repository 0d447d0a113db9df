"""Images with masks: reading from folders, tables, arrays and loaders, with checks of every mask."""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext_keras.data.augmentation import IGNORE_INDEX
from convnext_keras.data.images import ImageSource, open_image, source_name, to_array
from convnext_keras.data.loader import list_images
from convnext_keras.training.tables import is_table, read_csv, read_csv_columns
from convnext_keras.validation import format_choices

# Folders of images and of masks in one folder, columns of a table, and keys of dictionaries.
IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image", "imgs"), ("masks", "mask", "annotations", "labels", "segmentation")
COLUMNS = {
    "image": ("image", "path", "file", "filename", "file_name"),
    "mask": ("mask", "segmentation", "annotation", "label"),
}
DICT_KEYS = {
    "image": ("image", "pixel_values", "img"),
    "mask": ("mask", "annotation", "segmentation_mask", "label", "labels", "semantic_mask"),
}
Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class SegmentationDataset:
    """Images with a mask each, whose values are the classes of the pixels.

    Attributes:
        images: What `open_image` takes: paths, or arrays `(H, W, C)` of pixels in 0..255.
        masks: Paths of PNG files, or arrays `(H, W)` of class numbers, or of colors `(H, W, 3)` with `colors`.
        class_names: Names of the classes, in the order of their numbers.
        colors: Color of each class in masks of colors; None for masks of numbers. Black pixels that are no class are
            ignored.
        reduce_labels: Whether 0 in the masks is ignored, and the classes are counted from 1.
        pixel_counts: Number of pixels of each class.

    Example:
        >>> images = [np.zeros((8, 8, 3), "uint8")] * 2
        >>> dataset = load_segmentation_dataset((images, [np.eye(8, dtype="uint8")] * 2), ("sky", "kite"))
        >>> dataset.pixel_counts
        (112, 16)
    """

    images: Sequence[ImageSource]
    masks: Sequence[Any]
    class_names: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    reduce_labels: bool = False
    pixel_counts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        """Returns the path of an image, or `image N` for an array."""
        image = self.images[index]
        return str(image) if isinstance(image, str | os.PathLike) else f"image {index}"

    def mask(self, index: int) -> np.ndarray:
        """Returns the classes of an image's pixels, `(H, W)` uint16, 255 where they are ignored."""
        return read_mask(self.masks[index], self.colors, self.reduce_labels)

    def select(self, indices: Iterable[int]) -> "SegmentationDataset":
        """Returns the images at these positions, in this order; pixels are not counted again."""
        chosen = [*indices]
        images, masks = [self.images[index] for index in chosen], [self.masks[index] for index in chosen]
        return dataclasses.replace(self, images=images, masks=masks)


def read_mask(source: Any, colors: Sequence[Color] | None = None, reduce_labels: bool = False) -> np.ndarray:
    """Reads the classes of an image's pixels.

    Args:
        source: Path or Pillow image: gray levels or a palette, whose numbers are the classes, or RGB with `colors`; or
            an array `(H, W)` or `(H, W, 1)` of numbers, or `(H, W, 3)` of colors.
        colors: Color of each class in masks of colors.
        reduce_labels: See `SegmentationDataset`.

    Returns:
        `(H, W)` uint16, 255 where the pixel is ignored.

    Raises:
        ImageError: If the mask cannot be read.
        ValueError: If it has colors but no table of them, a color that is not in it, or numbers that are no classes.

    Example:
        >>> read_mask(np.array([[[255, 0, 0], [0, 0, 0]]], "uint8"), colors=[(255, 0, 0)]).tolist()
        [[0, 255]]
    """
    name = source_name(source)
    if isinstance(source, str | os.PathLike | Image.Image):
        opened = open_image(source, None, scale_levels=False, name=name)
        if colors is not None:
            opened = opened.convert("RGB")
        elif opened.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
            raise ValueError(f"{name}: a mask of mode {opened.mode} needs the color of each class: give colors.")
        values = np.asarray(opened)
    else:
        values = to_array(source)
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if colors is not None:
        return _classes_of_colors(values, colors, name)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name}: a mask must be (H, W) numbers, or (H, W, 3) with colors. Received: {values.shape}")
    if values.dtype.kind not in "buif" or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
        raise ValueError(f"{name}: a mask must have whole numbers.")
    if values.min() < 0 or values.max() > np.iinfo("uint16").max:
        raise ValueError(f"{name}: a mask must have classes 0 to 65535. Received: {values.min()} to {values.max()}")
    values = values.astype("uint16")
    if reduce_labels:  # 0 and 255 are ignored, 1 is the first class
        values = np.where((values == 0) | (values == IGNORE_INDEX), IGNORE_INDEX, values - 1).astype("uint16")
    return values


def _classes_of_colors(values: np.ndarray, colors: Sequence[Color], name: str) -> np.ndarray:
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=-1)
    if values.ndim != 3 or values.shape[-1] != 3:
        raise ValueError(f"{name}: a mask of colors must be (H, W, 3). Received: {values.shape}")

    def coded(rows: np.ndarray) -> np.ndarray:
        return rows.astype("uint32") @ np.array([65536, 256, 1], "uint32")

    codes, table = coded(values), coded(np.array(colors, "uint32"))
    if len({*table.tolist()}) < len(table):
        raise ValueError("colors must differ from class to class.")
    order = np.argsort(table)
    places = np.minimum(np.searchsorted(table[order], codes), len(table) - 1)
    known = table[order][places] == codes
    unknown = codes[~known & (codes != 0)]
    if unknown.size:
        red, green, blue = int(unknown[0]) >> 16, int(unknown[0]) >> 8 & 255, int(unknown[0]) & 255
        raise ValueError(f"{name}: its color ({red}, {green}, {blue}) in {unknown.size} pixels is of no class.")
    return np.where(known, order[places], IGNORE_INDEX).astype("uint16")


def load_segmentation_dataset(
    data: Any,
    class_names: Sequence[str] | None = None,
    *,
    colors: Sequence[Color] | None = None,
    reduce_labels: bool = False,
    keys: tuple[str, str] | None = None,
    name: str = "",
) -> SegmentationDataset:
    """Returns images with their masks, in any of the usual forms.

    Args:
        data: A folder with the folders `images` and `masks` (or `annotations`); a pair of folders; a `.csv` or `.tsv`
            table with columns `image` and `mask`, relative to the file's folder; a pair of arrays or lists, images and
            masks; a `SegmentationDataset`; or an iterable of pairs or of dictionaries with `image` and `mask`, such as
            a dataset of Hugging Face, which is read once into memory. A mask in a folder has the name of its image.
        class_names: Names of the classes in the order of their numbers; by default the numbers that occur.
        colors: Red, green and blue 0..255 of each class, for masks of colors.
        reduce_labels: Whether 0 in the masks is ignored, and the classes are counted from 1, as in ADE20K.
        keys: Keys of image and mask in dictionaries.
        name: Name of validation data in errors; empty for training data.

    Raises:
        ValueError: If an image has no mask, or the form is none of these; of masks: if one has another size than its
            image, a class that has no name, or nothing but ignored pixels.

    Example:
        >>> images = np.zeros((2, 8, 8, 3), "uint8")
        >>> load_segmentation_dataset((images, np.stack([np.eye(8, dtype="uint8")] * 2))).class_names
        ('0', '1')
    """
    if isinstance(data, SegmentationDataset):
        return data
    images, masks = _read_pairs(data, keys)
    if not images or len(images) != len(masks):
        raise ValueError(f"There must be as many masks as images. Received: {len(masks)} and {len(images)}")
    if colors is not None and class_names is not None and len(colors) != len(class_names):
        raise ValueError(f"colors must be {len(class_names)}, one for each class. Received: {len(colors)}")
    table = None if colors is None else tuple((int(r), int(g), int(b)) for r, g, b in colors)
    dataset = SegmentationDataset(images, masks, tuple(map(str, class_names or ())), table, reduce_labels)
    return _checked(dataset, len(class_names) if class_names else len(table) if table else None, name)


def has_masks(path: str | os.PathLike) -> bool:
    """Returns whether a path is of a table with a column of masks, or of a folder with the folders images and masks."""
    if is_table(path):
        headings, _ = read_csv(Path(path))
        return any(heading in ("mask", "segmentation", "annotation") for heading in headings)
    return None not in _inner_folders(Path(path))


def _inner_folders(folder: Path) -> list[Path | None]:
    """Returns the folders of images and of masks in a folder."""
    names = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    return [next((names[word] for word in words if word in names), None) for words in (IMAGE_FOLDERS, MASK_FOLDERS)]


def _read_pairs(data: Any, keys: tuple[str, str] | None) -> tuple[list[Any], list[Any]]:
    if is_table(data):
        images, masks = read_csv_columns(Path(data), COLUMNS)
        return [Path(data).parent / row for row in images], [Path(data).parent / row for row in masks]
    if isinstance(data, str | os.PathLike):
        found = _inner_folders(Path(data))
        if None in found:
            raise ValueError(f"{data} must be a folder with the folders images and masks, or a table with both.")
        data = tuple(found)
    if isinstance(data, tuple | list) and len(data) == 2:
        if all(isinstance(part, str | os.PathLike) for part in data):
            return _pair_folders(Path(data[0]), Path(data[1]))
        if all(hasattr(part, "__len__") and not isinstance(part, Mapping) for part in data):
            return [*data[0]], [*data[1]]
    if not isinstance(data, Iterable):
        raise ValueError(f"data must be folders, a table, arrays or an iterable. Received: {type(data).__name__}")
    pairs = [_unpack(item, keys) for item in data]
    return [image for image, _ in pairs], [mask for _, mask in pairs]


def _pair_folders(images: Path, masks: Path) -> tuple[list[Path], list[Path]]:
    """Returns the images of a folder and their masks, which have the same path without the suffix."""
    by_stem = {path.relative_to(masks).with_suffix(""): path for path in list_images(masks)}
    found = list_images(images)
    missing = [path for path in found if path.relative_to(images).with_suffix("") not in by_stem]
    if missing:
        stem = missing[0].relative_to(images).with_suffix("")
        raise ValueError(
            f"{len(missing)} of {len(found)} images have no mask, such as {missing[0]}: there is no {masks / stem}.*"
        )
    return found, [by_stem[path.relative_to(images).with_suffix("")] for path in found]


def _unpack(item: Any, keys: tuple[str, str] | None) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image, mask = keys or [next((key for key in names if key in item), None) for names in DICT_KEYS.values()]
        if image in item and mask in item:
            return item[image], item[mask]
        raise ValueError(
            f"Dictionaries must have {format_choices(DICT_KEYS['image'])} and {format_choices(DICT_KEYS['mask'])}, or "
            f"keys=(IMAGE, MASK) must name theirs. Received: {', '.join(map(str, item))}"
        )
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise ValueError(f"An iterable must give pairs or dictionaries of image and mask. Received: {type(item).__name__}")


def _checked(dataset: SegmentationDataset, count: int | None, name: str) -> SegmentationDataset:
    """Returns the dataset with its pixels counted, after a look at each mask, in threads."""

    def counts(index: int) -> np.ndarray:
        mask, source = dataset.mask(index), source_name(dataset.masks[index])
        image: Any = dataset.images[index]
        opened: Any = image if hasattr(image, "shape") else open_image(image, None, exif_transpose=True)
        size = opened.shape[:2] if hasattr(opened, "shape") else (opened.height, opened.width)
        if mask.shape != tuple(size):
            raise ValueError(
                f"{source} is {mask.shape[0]} x {mask.shape[1]} pixels (height x width), its image "
                f"{dataset.image_name(index)} {size[0]} x {size[1]}. Make both of one size."
            )
        found = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)
        found[IGNORE_INDEX] = 0
        numbers = np.flatnonzero(found)
        if not numbers.size:
            raise ValueError(f"{source} has only pixels that are ignored ({IGNORE_INDEX}).")
        if count is not None and numbers[-1] >= count:
            raise ValueError(
                f"{source} has the class {numbers[-1]}, but there are {count} classes, 0 to {count - 1}. Name more "
                f"classes, or make the pixels {IGNORE_INDEX} to ignore them."
            )
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = [*pool.map(counts, range(len(dataset)))]
    total = np.zeros(max(map(len, rows)), "int64")
    for row in rows:
        total[: len(row)] += row
    occurring = int(np.flatnonzero(total)[-1]) + 1
    if count is None and occurring == 1 and not name:
        raise ValueError(
            f"The masks have only the class 0 and {IGNORE_INDEX}, which is ignored. If {IGNORE_INDEX} is a class, give "
            f"colors=[(0, 0, 0), (255, 255, 255)]."
        )
    size = count or occurring
    missing = [index for index in range(size) if not total[index]]
    names = dataset.class_names or tuple(map(str, range(size)))
    if missing and not name:
        shown = ", ".join(repr(names[index]) for index in missing[:3])
        warnings.warn(f"No pixel is of the classes {shown}: nothing is learned of them.", stacklevel=3)
    return dataclasses.replace(dataset, class_names=names, pixel_counts=tuple(total[:size].tolist()))
