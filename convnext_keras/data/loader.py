"""Batches of images, read and resized in threads ahead of the model."""

import collections
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from convnext_keras.data.images import ImageError, image_extensions, source_name
from convnext_keras.data.item_names import printable

OnError = Callable[[Any, ValueError], None]
# Files that lie beside images in a dataset, and are left out of a folder without a warning.
COMPANION_SUFFIXES = frozenset(
    {".txt", ".json", ".csv", ".parquet", ".tar", ".xml", ".md", ".npy", ".safetensors", ".lock"}
)


def is_image_file(name: str | os.PathLike) -> bool:
    """Returns whether a file's extension is of an image format that Pillow decodes."""
    return PurePath(name).suffix.lower() in image_extensions()


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Lists the images in a folder and in the folders in it, sorted by name.

    Files with another extension are left out, with one warning that counts them, except for file types that are common
    in image datasets.

    Raises:
        ValueError: If there is no such folder, or no image in it.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    images = [path for path in files if is_image_file(path)]
    warn_skipped_files(str(folder), [path.name for path in files if not is_image_file(path)])
    if not images:
        raise ValueError(f"{printable(str(folder))} has no images (files that end in .png, .jpg, .webp and others).")
    return images


def warn_skipped_files(place: str, names: Sequence[str]) -> None:
    """Warns of files that are not images, except hidden ones and file types that are common in image datasets."""
    left = [name for name in names if PurePath(name).suffix.lower() not in COMPANION_SUFFIXES and not is_hidden(name)]
    if left:
        shown = ", ".join(printable(name) for name in left[:3])
        warnings.warn(
            f"{printable(place)}: left out {len(left)} files whose names do not end like an image's: {shown}.",
            stacklevel=3,
        )


def is_hidden(name: str) -> bool:
    """Returns whether a file is hidden by its name."""
    return PurePath(name).name.startswith((".", "_"))


def as_image_list(images: Any) -> Iterable[Any]:
    """Returns the images in what a user gives: one image, a batch of pixels `(N, H, W, C)`, or an iterable of images.

    Tensors of any backend and nested lists of numbers count as arrays: with three axes or less they are one image.

    Raises:
        ImageError: If it is none of these.
    """
    given: Any = _to_array(images) if _is_nested(images) else images
    if hasattr(given, "shape") and not isinstance(given, Image.Image) and str(given.dtype) != "object":
        return [given] if len(given.shape) < 4 else given
    is_single = isinstance(given, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Mapping)
    if is_single or hasattr(given, "read"):
        return [given]
    if not isinstance(given, Iterable):
        raise ImageError(source_name(given), "images are paths, bytes, Pillow images, arrays, or an iterable of them")
    return given


def _is_nested(images: Any) -> bool:
    return isinstance(images, list | tuple) and bool(images) and isinstance(images[0], list | tuple | int | float)


def _to_array(images: Sequence) -> np.ndarray:
    try:
        return np.asarray(images)
    except ValueError as error:
        raise ImageError("a nested list", "its rows have different lengths") from error


def iter_batches(
    images: Any, transform: Callable[[Any], np.ndarray], batch_size: int, on_error: str | OnError = "raise"
) -> Iterator[tuple[list, np.ndarray]]:
    """Returns images as batches of pixels, decoded and resized in threads while the caller works on the batch before.

    Args:
        images: See `as_image_list`; an iterable is read no further than two batches ahead.
        transform: One item of `images` to pixels, all of one shape.
        batch_size: Maximum number of images of a batch.
        on_error: `"raise"`, or `"skip"` to warn of an image that cannot be read and go on, or what is to be called
            with its item and the error.

    Yields:
        The items as they were given, and their pixels `(N, size, size, 3)`, uint8; in the order given.

    Raises:
        ValueError: If an image cannot be read and is not to be skipped; the message names it.
    """
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received: on_error={on_error!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more. Received: batch_size={batch_size}")
    read: list[tuple[Any, np.ndarray]] = []
    for image, pixels in _prefetch(images, transform, ahead=2 * batch_size):
        read += _read_result(image, pixels, on_error)
        if len(read) == batch_size:
            yield _stack_batch(read)
            read = []
    if read:
        yield _stack_batch(read)


def _prefetch(
    images: Any, transform: Callable[[Any], np.ndarray], ahead: int
) -> Iterator[tuple[Any, Future[np.ndarray]]]:
    """Returns each image with its pixels to come; at most `ahead` of them are begun at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: collections.deque[tuple[Any, Future[np.ndarray]]] = collections.deque()
        try:
            for image in as_image_list(images):
                waiting.append((image, pool.submit(transform, image)))
                if len(waiting) == ahead:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(cancel_futures=True)


def _stack_batch(read: list[tuple[Any, np.ndarray]]) -> tuple[list, np.ndarray]:
    return [image for image, _ in read], np.stack([pixels for _, pixels in read])


def _read_result(image: Any, pixels: Future, on_error: str | OnError) -> list[tuple[Any, np.ndarray]]:
    try:
        return [(image, pixels.result())]
    except ValueError as error:
        if on_error == "raise":
            raise
        if callable(on_error):
            on_error(image, error)
        else:
            warnings.warn(f"Skipped: {error}", stacklevel=4)
        return []
