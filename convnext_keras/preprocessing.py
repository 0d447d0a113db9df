"""From images to model input: the statistics that models embed, and the resize recipes of the weight sets.

Models of this library take pixels in 0..255 and normalise them in their first layer; what remains outside is to
decode, resize and crop, as the publisher of the weights did when the published accuracy was measured.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


STATISTICS = {
    "imagenet": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # OpenAI's CLIP and all models trained from its recipe.
    "clip": Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def statistics_of(statistics: str | Statistics) -> Statistics:
    """The statistics of that name in `STATISTICS`, or those given.

    Raises:
        ValueError: if the name is unknown.
    """
    if isinstance(statistics, Statistics):
        return statistics
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {sorted(STATISTICS)}. Received: statistics={statistics!r}")
    return STATISTICS[statistics]


# A picture as users have it: a path, a PIL image, or an array of pixels in 0..255.
Picture = str | os.PathLike | Image.Image | np.ndarray
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb

INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of a picture, by its channels


def normalize(pixels, statistics: str | Statistics = "imagenet"):
    """Does outside a model built with `include_preprocessing=False` what the embedded `Normalization` layer does.

    Args:
        pixels: array or tensor `(..., 3)` in 0..255, red, green and blue last.
        statistics: a name in `STATISTICS`, or others.

    Returns:
        The same shape in float32, about -2.2..2.7.

    Raises:
        ValueError: if `statistics` is unknown.

    Example:
        >>> normalize(np.full((1, 1, 3), 255.0), "half")
        array([[[1., 1., 1.]]], dtype=float32)
    """
    mean, std = (np.asarray(row, "float32") * 255 for row in statistics_of(statistics))
    if isinstance(pixels, np.ndarray):
        return (pixels.astype("float32") - mean) / std
    from keras import ops

    return ops.divide(ops.subtract(ops.cast(pixels, "float32"), mean), std)


def preprocess_input(x: Any, data_format: str | None = None):
    """Returns `x` as it is, like `keras.applications.convnext.preprocess_input`: the models normalise by themselves.

    Args:
        x: pixels in 0..255, `(N, H, W, 3)` or `(H, W, 3)`, array or tensor. A NumPy array that looks scaled already
            (nothing above 1, or something below 0) is met with a warning, shown once.
        data_format: accepted for Keras' sake.

    Returns:
        `x` itself.

    Example:
        >>> pixels = np.full((1, 224, 224, 3), 127, "uint8")
        >>> preprocess_input(pixels) is pixels
        True
    """
    if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating) and x.size:
        low, high = x.min(), x.max()
        if low < 0 or 0 < high <= 1:
            warnings.warn(
                f"These pixels lie between {low:.4g} and {high:.4g}, but ConvNeXt takes 0..255 and normalises them. "
                "Multiply by 255, or build the model with include_preprocessing=False.",
                stacklevel=2,
            )
    return x


def open_image(image: Picture, mode: str | None = "RGB") -> Image.Image:
    """A decoded picture from a path, a PIL image or an array of pixels in 0..255.

    Args:
        image: the picture; an array is `(H, W)`, `(H, W, 1)` or `(H, W, 3)`, or has the channels of the mode, and is
            rounded if it is of floats. Of an animation the first frame is taken. The orientation in a file's EXIF data
            is not applied, as timm and OpenCLIP do not apply it either.
        mode: of Pillow, that the picture is converted to; None to leave it in the one that it has.

    Raises:
        ValueError: if it cannot be read as a picture, or has more than `MAX_PIXELS`.
    """
    if isinstance(image, Image.Image | str | os.PathLike):
        try:
            with contextlib.nullcontext(image) if isinstance(image, Image.Image) else Image.open(Path(image)) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"{opened.width} x {opened.height} are more than {MAX_PIXELS} pixels")
                opened.load()
                return _converted(opened, mode)
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise ValueError(
                f"{image} cannot be read as an image: {error}. Give a PNG, JPEG, WebP or GIF file."
            ) from error
    pixels = _levels(image, {1, 3, *(channels for channels, name in MODES.items() if name == mode)})
    return _converted(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), mode)


def _levels(image: Any, valid_channels: set[int]) -> np.ndarray:
    """An array of pixels as uint8 `(H, W, C)`."""
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[-1] not in valid_channels or not pixels.size:
        shapes = ", ".join(f"(H, W, {channels})" for channels in sorted(valid_channels))
        raise ValueError(
            f"An image must be a path, a PIL image, or an array (H, W) or one of {shapes}. Received: "
            + (f"shape {pixels.shape}" if pixels.ndim else f"{image!r} of type {type(image).__name__}")
        )
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(preprocess_input(pixels)), 0, 255).astype("uint8")
    return pixels


def _converted(image: Image.Image, mode: str | None) -> Image.Image:
    if mode == "RGB":
        # Pillow warns of palettes with transparency unless it is asked for; the colours are the same.
        image = image.convert("RGBA") if "transparency" in image.info else image
    return image.copy() if mode is None else image.convert(mode)


# How the offset of a centre crop is rounded where an odd number of pixels is cut off: timm and OpenCLIP round half to
# even, as Python does; transformers rounds down. Where pixels are added, timm has the larger half of them behind.
ROUNDINGS: dict[str, Callable[[int], int]] = {
    "half_even": lambda surplus: round(surplus / 2) if surplus >= 0 else -(-surplus // 2),
    "down": lambda surplus: surplus // 2,
}


def center_crop(
    image: Image.Image, size: int | tuple[int, int], rounding: str = "half_even", fill: int | tuple[int, ...] = 0
) -> Image.Image:
    """The middle of a picture.

    Args:
        image: the picture.
        size: height and width of the result, in pixels.
        rounding: of `ROUNDINGS`.
        fill: the level, or one for each channel, of what is added where the picture is smaller.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    left, top = ROUNDINGS[rounding](image.width - width), ROUNDINGS[rounding](image.height - height)
    cropped = image.crop((left, top, left + width, top + height))
    if fill and (left < 0 or top < 0):
        bands = len(cropped.getbands())
        levels = (fill,) * bands if isinstance(fill, int) else fill[:bands]
        cropped.paste(levels[0] if bands == 1 else levels, (0, 0, width, height))
        cropped.paste(image.crop((max(left, 0), max(top, 0), *image.size)), (max(-left, 0), max(-top, 0)))
    return cropped


class Recipe(NamedTuple):
    """The evaluation transform of a weight set: a picture in, the pixels that its model takes out.

    Attributes:
        size: height and width of the result in pixels, one number for both or `(height, width)`.
        crop: the part of the resized picture's edge that the centre crop keeps, 0..1.
        resize: `"shortest"` keeps the proportions and covers the result, `"longest"` keeps them and fits into it,
            `"squash"` does not keep them; `"none"` only crops.
        interpolation: a name in `INTERPOLATIONS`; always antialiased.
        statistics: the name of the statistics that the model embeds, or others.
        rgb_first: whether other modes become RGB before resizing, as timm does, or after cropping, as OpenCLIP does.
        rounding: of the crop's offset, a name in `ROUNDINGS`.
        edge: height and width before the crop, None for `size / crop`, rounded down.
        channels: 1 for grey levels, 3 for RGB, 4 with opacity; of another number, pictures must be arrays.
        fill: see `center_crop`.
        levels: whether resized pixels are rounded to whole numbers, as all but DINOv3's processor do.

    Example:
        >>> Recipe(size=224, crop=0.875)(np.zeros((300, 451, 3), "uint8")).shape
        (224, 224, 3)
    """

    size: int | tuple[int, int]
    crop: float = 1.0
    resize: str = "shortest"
    interpolation: str = "bicubic"
    statistics: str | Statistics = "imagenet"
    rgb_first: bool = True
    rounding: str = "half_even"
    edge: int | tuple[int, int] | None = None
    channels: int = 3
    fill: int | tuple[int, ...] = 0
    levels: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the result: height, width and channels."""
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return height, width, self.channels

    def __call__(self, image: Picture) -> np.ndarray:
        """Pixels `(height, width, channels)` in 0..255 of a path, a PIL image or an array, uint8; see `open_image`.

        Without `levels` they are float32.
        """
        mode = MODES.get(self.channels)
        if mode is None:
            bands = np.moveaxis(_levels(image, {self.channels}), -1, 0)
            return np.stack([np.asarray(self._transformed(Image.fromarray(band))) for band in bands], axis=-1)
        picture = open_image(image, mode if self.rgb_first else None)
        if not self.levels:  # Pillow resizes floats of one band only, and does not cut them off at 0 and 255.
            bands = [self._transformed(band.convert("F")) for band in _converted(picture, mode).split()]
            return np.stack([np.asarray(band) for band in bands], axis=-1)
        pixels = np.asarray(_converted(self._transformed(picture), mode))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def _transformed(self, picture: Image.Image) -> Image.Image:
        target = self.resized(picture.size)
        if target != picture.size:
            picture = picture.resize(target, INTERPOLATIONS[self.interpolation])
        return center_crop(picture, self.size, self.rounding, self.fill)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height, before the crop, of a picture of this width and height."""
        width, height = size
        edges = self.edge or tuple(math.floor(side / self.crop) for side in self.shape[:2])
        rows, columns = edges if isinstance(edges, tuple) else (edges, edges)
        if self.resize == "none":
            return size
        if self.resize == "squash":
            return columns, rows
        if self.resize == "shortest" and rows == columns:
            # The shorter edge exactly, the longer one cut off, as torchvision rounds.
            return (rows, int(rows * height / width)) if width <= height else (int(rows * width / height), rows)
        ratios = height / rows, width / columns
        ratio = max(ratios) if self.resize == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
