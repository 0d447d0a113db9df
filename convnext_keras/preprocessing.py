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
    """Mean and standard deviation of each of the channels red, green and blue, for pixels in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


STATISTICS = {
    "imagenet": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # OpenAI's CLIP and all models trained from its recipe.
    "clip": Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# A picture as users have it: a path, a PIL image, or an array of pixels in 0..255.
Picture = str | os.PathLike | Image.Image | np.ndarray
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def normalize(pixels, statistics: str = "imagenet"):
    """Does outside a model built with `include_preprocessing=False` what the embedded `Normalization` layer does.

    Args:
        pixels: array or tensor `(..., 3)` in 0..255, red, green and blue last.
        statistics: a name in `STATISTICS`.

    Returns:
        The same shape in float32, about -2.2..2.7.

    Raises:
        ValueError: if `statistics` is unknown.

    Example:
        >>> normalize(np.full((1, 1, 3), 255.0), "half")
        array([[[1., 1., 1.]]], dtype=float32)
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {sorted(STATISTICS)}. Received: statistics={statistics!r}")
    mean, std = (np.asarray(row, "float32") * 255 for row in STATISTICS[statistics])
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


def open_image(image: Picture, as_rgb: bool = True) -> Image.Image:
    """A decoded picture from a path, a PIL image or an array of pixels in 0..255.

    Args:
        image: the picture; an array is `(H, W)`, `(H, W, 1)` or `(H, W, 3)`, and rounded if it is of floats. Of an
            animation the first frame is taken. The orientation in a file's EXIF data is not applied, as timm and
            OpenCLIP do not apply it either.
        as_rgb: whether to convert it, or to leave it in the mode that it has.

    Raises:
        ValueError: if it cannot be read as a picture, or has more than `MAX_PIXELS`.
    """
    if isinstance(image, Image.Image | str | os.PathLike):
        try:
            with contextlib.nullcontext(image) if isinstance(image, Image.Image) else Image.open(Path(image)) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"{opened.width} x {opened.height} are more than {MAX_PIXELS} pixels")
                opened.load()
                return _as_rgb(opened) if as_rgb else opened.copy()
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
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3) or not pixels.size:
        raise ValueError(
            "An image must be a path, a PIL image, or an array (H, W), (H, W, 1) or (H, W, 3). Received: "
            + (f"shape {pixels.shape}" if pixels.ndim else f"{image!r} of type {type(image).__name__}")
        )
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(preprocess_input(pixels)), 0, 255).astype("uint8")
    return _as_rgb(Image.fromarray(pixels)) if as_rgb else Image.fromarray(pixels)


def _as_rgb(image: Image.Image) -> Image.Image:
    # Pillow warns of palettes with transparency unless it is asked for; the colours are the same.
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


# How the offset of a centre crop is rounded where an odd number of pixels is cut off: timm and OpenCLIP round half to
# even, as Python does; transformers rounds down.
ROUNDINGS: dict[str, Callable[[float], int]] = {"half_even": round, "down": math.floor}


def center_crop(image: Image.Image, size: int, rounding: str = "half_even") -> Image.Image:
    """The middle `size` x `size` pixels; black is added where the picture is smaller; `rounding` is of `ROUNDINGS`."""
    left, top = (ROUNDINGS[rounding]((length - size) / 2) for length in image.size)
    return image.crop((left, top, left + size, top + size))


class Recipe(NamedTuple):
    """The evaluation transform of a weight set: a picture in, the pixels that its model takes out.

    Attributes:
        size: height and width of the result, in pixels.
        crop: the part of the resized picture's edge that the centre crop keeps, 0..1.
        resize: `"shortest"` keeps the proportions, `"squash"` does not.
        interpolation: a name in `INTERPOLATIONS`; always antialiased.
        statistics: the name of the statistics that the model embeds.
        rgb_first: whether other modes become RGB before resizing, as timm does, or after cropping, as OpenCLIP does.
        rounding: of the crop's offset, a name in `ROUNDINGS`.

    Example:
        >>> Recipe(size=224, crop=0.875)(np.zeros((300, 451, 3), "uint8")).shape
        (224, 224, 3)
    """

    size: int
    crop: float = 1.0
    resize: str = "shortest"
    interpolation: str = "bicubic"
    statistics: str = "imagenet"
    rgb_first: bool = True
    rounding: str = "half_even"

    def __call__(self, image: Picture) -> np.ndarray:
        """Returns uint8 pixels `(size, size, 3)` in 0..255 of a path, a PIL image or an array; see `open_image`."""
        picture = open_image(image, self.rgb_first)
        target = self.resized(picture.size)
        if target != picture.size:
            picture = picture.resize(target, INTERPOLATIONS[self.interpolation])
        return np.asarray(_as_rgb(center_crop(picture, self.size, self.rounding)))

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height, before the crop, of a picture of this width and height."""
        edge, (width, height) = math.floor(self.size / self.crop), size
        if self.resize != "shortest":
            return edge, edge
        # The shorter edge exactly, the longer one cut off, as torchvision rounds.
        return (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
