"""Pictures in batches, read and resized in threads ahead of the model."""

import collections
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext_keras.preprocessing import Picture

OnError = Callable[[Any, ValueError], None]
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def picture_files(folder: str | os.PathLike) -> list[Path]:
    """The pictures in a folder and the folders in it, sorted.

    Raises:
        ValueError: if there is no such folder, or no picture in it.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder.")
    pictures = sorted(
        path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURE_FILES and path.is_file()
    )
    if not pictures:
        raise ValueError(f"{folder} has no pictures ({', '.join(PICTURE_FILES)}).")
    return pictures


def pictures_of(images: Any) -> Iterable[Picture]:
    """The pictures in what a user gives: one of them, a batch of pixels `(N, H, W, C)`, or any iterable of them."""
    single = isinstance(images, str | os.PathLike | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim < 4 and images.dtype != object
    )
    pictures: Any = [images] if single else images
    return pictures


def in_batches(
    images: Any, recipe: Callable[[Any], np.ndarray], batch_size: int, on_error: str | OnError = "raise"
) -> Iterator[tuple[list, np.ndarray]]:
    """Pictures as batches of pixels, decoded and resized in threads while the caller works on the batch before.

    Args:
        images: see `pictures_of`; an iterable is read no further than two batches ahead.
        recipe: one item of `images` to pixels, all of one shape.
        batch_size: most pictures of a batch.
        on_error: `"raise"`, or `"skip"` to warn of a picture that cannot be read and go on, or what is to be called
            with its item and the error.

    Yields:
        The items as they were given, and their pixels `(N, size, size, 3)`, uint8; in the order given.

    Raises:
        ValueError: if a picture cannot be read and is not to be skipped; the message names it.
    """
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received: on_error={on_error!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more. Received: batch_size={batch_size}")
    read: list[tuple[Any, np.ndarray]] = []
    for image, pixels in _decoding(images, recipe, ahead=2 * batch_size):
        read += _read(image, pixels, on_error)
        if len(read) == batch_size:
            yield _batch(read)
            read = []
    if read:
        yield _batch(read)


def _decoding(images: Any, recipe: Callable[[Any], np.ndarray], ahead: int) -> Iterator[tuple[Any, Future[np.ndarray]]]:
    """Each picture with its pixels to come; at most `ahead` of them are begun at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: collections.deque[tuple[Any, Future[np.ndarray]]] = collections.deque()
        try:
            for image in pictures_of(images):
                waiting.append((image, pool.submit(recipe, image)))
                if len(waiting) == ahead:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(read: list[tuple[Any, np.ndarray]]) -> tuple[list, np.ndarray]:
    return [image for image, _ in read], np.stack([pixels for _, pixels in read])


def _read(image: Any, pixels: Future, on_error: str | OnError) -> list[tuple[Any, np.ndarray]]:
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
