"""Bytes from strangers to pixels: checked before they are decoded, in threads, and never more at a time than fit."""

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError

from convnext_keras.server.errors import ApiError, invalid
from convnext_keras.server.limits import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


class PixelBudget:
    """Lets pictures in as long as their pixels together stay within a bound.

    Args:
        most: pixels at a time; one picture alone is always let in.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self.freed = asyncio.Condition()

    async def take(self, pixels: int) -> None:
        """Waits until there is room."""
        async with self.freed:
            await self.freed.wait_for(lambda: self.used == 0 or self.used + pixels <= self.most)
            self.used += pixels

    async def give(self, pixels: int) -> None:
        """Makes room."""
        async with self.freed:
            self.used -= pixels
            self.freed.notify_all()


class Decoder:
    """Bytes to the model's pixels.

    Args:
        recipe: a picture to pixels; the same as in the library, so that vectors agree.
        limits: of sizes.
        threads: how many pictures are decoded at a time.
    """

    def __init__(self, recipe: Callable[[Image.Image], np.ndarray], limits: Limits, threads: int) -> None:
        self.recipe, self.limits = recipe, limits
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.budget = PixelBudget(limits.max_pixels_in_flight)

    async def __call__(self, content: bytes, param: str) -> np.ndarray:
        """Uint8 pixels `(size, size, 3)`.

        Raises:
            ApiError: if it is no picture, of another format, or too large.
        """
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self.pool, opened, content, param, self.limits)
        pixels = picture.width * picture.height
        await self.budget.take(pixels)
        try:
            return await loop.run_in_executor(self.pool, self._decoded, picture, param)
        finally:
            await self.budget.give(pixels)

    def _decoded(self, picture: Image.Image, param: str) -> np.ndarray:
        try:
            return self.recipe(picture)
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise unreadable(param) from error

    def close(self) -> None:
        """Ends the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def opened(content: bytes, param: str, limits: Limits) -> Image.Image:
    """A picture whose header is read and found harmless; its pixels are not decoded yet."""
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        message = f"{param}: is not a picture of the formats {', '.join(FORMATS)}."
        raise invalid("unsupported_image_format", message, param) from error
    except Image.DecompressionBombError as error:
        message = f"{param}: has too many pixels; the limit is {limits.max_image_pixels}."
        raise invalid("image_too_large", message, param) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning) as error:
        raise unreadable(param) from error
    pixels = picture.width * picture.height
    if pixels > limits.max_image_pixels:
        message = f"{param}: has {pixels} pixels; the limit is {limits.max_image_pixels}."
        raise invalid("image_too_large", message, param)
    return picture


def unreadable(param: str) -> ApiError:
    """The error of a broken picture."""
    return invalid("invalid_image", f"{param}: is not a readable picture.", param)
