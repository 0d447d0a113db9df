"""Decodes untrusted images in threads, with limits on structure and total pixels.

A thread cannot be ended, so a file's structure is read first: a small file may ask for minutes of work, by drawing its
pixels again and again or by being cut into millions of parts.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from convnext_keras.data.images import ImageError, exif_bytes, identify, open_image
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.server.errors import ApiError, bad_request
from convnext_keras.server.limits import ServerLimits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
START_OF_SCAN, END_OF_IMAGE, APP1, STANDALONE = 0xDA, 0xD9, 0xE1, 0x01
# What follows 0xFF in a marker: neither a stuffed byte, nor a restart, nor another 0xFF that fills up.
IS_MARKER = np.array([kind not in (0x00, 0xFF, *range(0xD0, 0xD8)) for kind in range(256)])
BLOCK = 1 << 20  # bytes that are searched for markers at a time
GAP = 4096
EXIF_TIMES = 4  # Entries of EXIF data may point to the same bytes; Pillow copies them this many times at most.
GIF_EXTENSION, GIF_IMAGE = 0x21, 0x2C


class Part(NamedTuple):
    """Part of an image file: its kind, and its EXIF data or nothing."""

    kind: str
    exif: bytes = b""


def find_markers(block: np.ndarray) -> np.ndarray:
    """Yields the positions of JPEG markers in a block of bytes, in linear time."""
    return np.flatnonzero((block[:-1] == 0xFF) & IS_MARKER[block[1:]])


def jpeg_parts(content: bytes) -> Iterator[Part]:
    """Returns the parts of a JPEG (ITU-T T.81, annex B).

    A `"scan"` for each scan, a `"segment"` for each other segment, and before the first scan a `"gap"` for each
    `GAP` bytes between segments, which Pillow reads one by one.
    """
    array, position, has_scan = np.frombuffer(content, "uint8"), 2, False
    for start in range(2, len(content), BLOCK):
        indices = start + find_markers(array[start : start + BLOCK + 1])
        while position < start + BLOCK and (at := int(np.searchsorted(indices, position))) < len(indices):
            if not has_scan:
                yield from [Part("gap")] * ((int(indices[at]) - position) // GAP)
            position = int(indices[at]) + 2
            kind = content[position - 1]
            if kind == END_OF_IMAGE:
                return
            size = max(2, int.from_bytes(content[position : position + 2], "big")) if kind != STANDALONE else 0
            is_exif = kind == APP1 and content[position + 2 : position + 8] == b"Exif\0\0"
            exif = content[position + 8 : position + size] if is_exif else b""
            has_scan |= kind == START_OF_SCAN
            yield Part("scan" if kind == START_OF_SCAN else "segment", exif)
            position += size
    if not has_scan:
        yield from [Part("gap")] * ((len(content) - position) // GAP)


def png_parts(content: bytes) -> Iterator[Part]:
    """Returns a `"chunk"` for each chunk of a PNG (https://www.w3.org/TR/png-3/, section 5.3)."""
    position = 8
    while position < len(content):
        size = int.from_bytes(content[position : position + 4], "big")
        is_exif = content[position + 4 : position + 8] == b"eXIf"
        yield Part("chunk", content[position + 8 : position + 8 + size] if is_exif else b"")
        position += 12 + size


def webp_parts(content: bytes) -> Iterator[Part]:
    """Returns a `"chunk"` for each chunk of a WebP (RFC 9649, section 2.3)."""
    position = 12
    while position < len(content):
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        is_exif = content[position : position + 4] == b"EXIF"
        exif = content[position + 8 : position + 8 + size] if is_exif else b""
        yield Part("chunk", exif.removeprefix(b"Exif\0\0"))
        position += 8 + size + size % 2


def gif_parts(content: bytes) -> Iterator[Part]:
    """Returns a `"block"` for each block of a GIF before its first image (GIF89a, sections 15 to 26)."""
    flags = content[10] if len(content) > 10 else 0
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    while position + 1 < len(content) and content[position] != GIF_IMAGE:
        yield Part("block")
        if content[position] != GIF_EXTENSION:
            position += 1
            continue
        position += 2
        while position < len(content) and (size := content[position]):
            yield Part("block")
            position += 1 + size
        position += 1


STRUCTURE_PARSERS = {b"\xff\xd8": jpeg_parts, b"\x89PNG": png_parts, b"RIFF": webp_parts, b"GIF8": gif_parts}
# Blocks that Pillow joins one by one, each time with a copy of all before it.
MAX_BLOCKS = {"block": 1000, "gap": 16}


def check_structure(content: bytes, param: str, limits: ServerLimits) -> int:
    """Returns the number of scans of an image, 1 for formats without them, from its bytes alone.

    Raises:
        ApiError: If it has more scans or other parts than `limits` allow, or EXIF data that would be copied often.
    """
    parts = next((parts for magic, parts in STRUCTURE_PARSERS.items() if content.startswith(magic)), None)
    counts: dict[str, int] = {}
    exif = []
    for kind, data in parts(content) if parts else ():
        counts[kind] = counts.get(kind, 0) + 1
        limit = limits.max_image_scans if kind == "scan" else MAX_BLOCKS.get(kind, limits.max_image_parts)
        if counts[kind] > limit:
            raise bad_request("image_too_complex", f"{param}: has more than {limit} {kind}s. Save it anew.", param)
        exif += [data] if data else []
    joined = b"".join(exif)  # as Pillow joins them
    if exif_bytes(joined) > EXIF_TIMES * len(joined):
        raise bad_request("image_too_complex", f"{param}: its EXIF data overlap. Save it without them.", param)
    return max(1, counts.get("scan", 1))


class PixelBudget:
    """Limits the total number of pixels of the images that are decoded at the same time.

    Args:
        capacity: Maximum number of pixels; a single image is always accepted.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self.freed = asyncio.Condition()

    async def acquire(self, pixels: int) -> None:
        """Waits until this number of pixels fits into the budget, and reserves it."""
        async with self.freed:
            await self.freed.wait_for(lambda: self.used == 0 or self.used + pixels <= self.capacity)
            self.used += pixels

    async def release(self, pixels: int) -> None:
        """Releases pixels that are decoded."""
        async with self.freed:
            self.used -= pixels
            self.freed.notify_all()


class Decoder:
    """Decodes bytes to the pixels of the model.

    Args:
        transform: An image to pixels; the same as in the library, so that vectors agree.
        limits: Limits of sizes.
        threads: Number of images are decoded at a time.
    """

    def __init__(self, transform: ImageTransform, limits: ServerLimits, threads: int) -> None:
        self.transform, self.limits = transform._replace(exif_transpose=True), limits
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.budget = PixelBudget(limits.max_pixels_in_flight)

    async def __call__(self, content: bytes, param: str) -> np.ndarray:
        """Decodes an image to uint8 pixels `(size, size, 3)`.

        Raises:
            ApiError: If it is no image, of another format, too large or too complex.
        """
        return await self._decoded(await self._opened(content, param), self.transform, param)

    async def image(self, content: bytes, param: str) -> np.ndarray:
        """Decodes an image to uint8 pixels of its own size, `(H, W)` or `(H, W, 3)`; errors are those of a call."""
        mode = "L" if self.transform.channels == 1 else "RGB"
        opened = await self._opened(content, param)
        return await self._decoded(opened, lambda image: np.asarray(self.transform.open(image, mode)), param)

    async def file(self, path: Path) -> tuple[bytes, str]:
        """Returns an image file as it is, and its media type, once it has been decoded.

        Raises:
            OSError: If it cannot be read.
            ApiError: If it is no image that a client might send too.
        """
        if path.stat().st_size > self.limits.max_image_bytes:
            raise bad_request("image_too_large", f"{path.name}: has too many bytes.")
        content = await asyncio.get_running_loop().run_in_executor(self.pool, path.read_bytes)
        image = await self._opened(content, "number")
        await self._decoded(image, open_image, "number")
        return content, Image.MIME[image.format or "PNG"]

    async def _opened(self, content: bytes, param: str) -> Image.Image:
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.open_header, content, param)

    async def _decoded(self, image: Image.Image, decode: Callable, param: str) -> np.ndarray:
        pixels = image.width * image.height
        await self.budget.acquire(pixels)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, decode, image)
        except ImageError as error:
            raise unreadable_error(param) from error
        finally:
            await self.budget.release(pixels)

    def open_header(self, content: bytes, param: str) -> Image.Image:
        """Returns an image whose structure and header were found harmless; its pixels are not decoded yet."""
        limit = self.limits.max_image_pixels
        scans = check_structure(content, param, self.limits)
        try:
            image = identify(content, FORMATS)
        except ImageError as error:
            cause = error.__cause__
            if isinstance(cause, UnidentifiedImageError):
                message = f"{param}: is not an image of the formats {', '.join(FORMATS)}."
                raise bad_request("unsupported_image_format", message, param) from error
            if isinstance(cause, Image.DecompressionBombError):
                raise too_many_pixels_error(param, limit) from error
            raise unreadable_error(param) from error
        # A small image may be long and thin, and huge once its shorter edge is resized.
        width, height = self.transform.resize_size_for(image.size)
        if max(image.width * image.height * max(1, scans // TYPICAL_SCANS), width * height) > limit:
            raise too_many_pixels_error(param, limit)
        return image

    def close(self) -> None:
        """Ends the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)


TYPICAL_SCANS = 10  # that usual progressive JPEGs have


def too_many_pixels_error(param: str, limit: int) -> ApiError:
    """Returns the error of an image that would take too long or too much memory to decode or to resize."""
    return bad_request("image_too_large", f"{param}: has too many pixels; the limit is {limit}.", param)


def unreadable_error(param: str) -> ApiError:
    """Returns the error of a broken image."""
    return bad_request("invalid_image", f"{param}: is not a readable image.", param)
