"""Evaluation transforms: images to model input, and the normalization statistics of the weight sets.

Models of this library take pixels in 0..255 and normalize them in their first layer; what remains outside is to
decode, resize and crop, as the publisher of the weights did when the published accuracy was measured.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from convnext_keras.data.images import (
    MAX_PIXELS,
    PIL_MODES,
    ImageError,
    ImageSource,
    convert_mode,
    open_image,
    source_name,
    to_uint8,
)


class NormalizationStats(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALIZATION_STATS = {
    "imagenet": NormalizationStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # OpenAI's CLIP and all models that use its statistics.
    "clip": NormalizationStats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": NormalizationStats((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def get_statistics(statistics: str | NormalizationStats) -> NormalizationStats:
    """Returns the statistics of that name in `NORMALIZATION_STATS`, or those given.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(statistics, NormalizationStats):
        return statistics
    if statistics not in NORMALIZATION_STATS:
        raise ValueError(
            f"statistics must be one of {sorted(NORMALIZATION_STATS)}. Received: statistics={statistics!r}"
        )
    return NORMALIZATION_STATS[statistics]


INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
}
RESIZE_MODES = ("shortest", "longest", "squash", "pad", "none")
MAX_UPSCALED_AREA = 64  # times the area of the result, above which an enlarged image is not made as a whole


def normalize(pixels, statistics: str | NormalizationStats = "imagenet"):
    """Does outside a model built with `include_preprocessing=False` what the embedded `Normalization` layer does.

    Args:
        pixels: Array or tensor `(..., 3)` in 0..255, red, green and blue last.
        statistics: A name in `NORMALIZATION_STATS`, or others.

    Returns:
        The same shape in float32, about -2.2..2.7.

    Raises:
        ValueError: If `statistics` is unknown.

    Example:
        >>> normalize(np.full((1, 1, 3), 255.0), "half")
        array([[[1., 1., 1.]]], dtype=float32)
    """
    mean, std = (np.asarray(row, "float32") * 255 for row in get_statistics(statistics))
    if isinstance(pixels, np.ndarray):
        return (pixels.astype("float32") - mean) / std
    from keras import ops

    return ops.divide(ops.subtract(ops.cast(pixels, "float32"), mean), std)


def preprocess_input(x: Any, data_format: str | None = None):
    """Returns `x` as it is, like `keras.applications.convnext.preprocess_input`: the models normalize by themselves.

    Args:
        x: Pixels in 0..255, `(N, H, W, 3)` or `(H, W, 3)`, array or tensor. A NumPy array that looks scaled already
            (nothing above 1, or something below 0) raises a warning once.
        data_format: Accepted for Keras' sake.

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
                f"These pixels lie between {low:.4g} and {high:.4g}, but ConvNeXt takes 0..255 and normalizes them. "
                "Multiply by 255, or build the model with include_preprocessing=False.",
                stacklevel=2,
            )
    return x


def adapt_statistics(statistics: NormalizationStats, channels: int) -> NormalizationStats:
    """Returns statistics for another number of channels: the mean of all for one channel, else repeated in turn.

    Example:
        >>> adapt_statistics(NormalizationStats((0.25, 0.5, 0.75), (0.2, 0.2, 0.2)), 1).mean
        (0.5,)
    """
    if len(statistics.mean) == channels:
        return statistics
    rows = (statistics.mean, statistics.std)
    if channels == 1:
        return NormalizationStats(*((float(np.mean(row)),) for row in rows))
    return NormalizationStats(*(tuple(row[index % len(row)] for index in range(channels)) for row in rows))


# How the offset of a center crop is rounded where an odd number of pixels is cut off: timm and OpenCLIP round half to
# even, as Python does; transformers rounds down. Where pixels are added, timm has the larger half of them behind.
CROP_ROUNDING: dict[str, Callable[[int], int]] = {
    "half_even": lambda surplus: round(surplus / 2) if surplus >= 0 else -(-surplus // 2),
    "down": lambda surplus: surplus // 2,
}


def center_crop(
    image: Image.Image,
    size: int | tuple[int, int],
    crop_rounding: str = "half_even",
    fill_color: int | tuple[int, ...] = 0,
) -> Image.Image:
    """Crops the center of an image, and pads it if it is smaller.

    Args:
        image: The image.
        size: Height and width of the result, in pixels.
        crop_rounding: Rounding of the offset, a key of `CROP_ROUNDING`.
        fill_color: Value of added pixels, one for all channels or one per channel.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    left, top = CROP_ROUNDING[crop_rounding](image.width - width), CROP_ROUNDING[crop_rounding](image.height - height)
    cropped = image.crop((left, top, left + width, top + height))
    if fill_color and (left < 0 or top < 0):
        bands = len(cropped.getbands())
        levels = (fill_color,) * bands if isinstance(fill_color, int) else fill_color[:bands]
        cropped.paste(levels[0] if bands == 1 else levels, (0, 0, width, height))
        cropped.paste(image.crop((max(left, 0), max(top, 0), *image.size)), (max(-left, 0), max(-top, 0)))
    return cropped


def pad_to_square(image: Image.Image, fill_color: int | tuple[int, ...] = 0) -> Image.Image:
    """Pads the shorter sides of an image equally; the right and the bottom one get an odd pixel.

    Raises:
        ValueError: If the square has more pixels than an image may have.

    Example:
        >>> pad_to_square(Image.new("RGB", (4, 1))).size
        (4, 4)
    """
    edge = max(image.size)
    if edge * edge > MAX_PIXELS:
        raise ValueError(f"Padded to a square it has {edge * edge} pixels, more than {MAX_PIXELS}.")
    left, top = (edge - image.width) // 2, (edge - image.height) // 2
    bands = len(image.getbands())
    levels = (fill_color,) * bands if isinstance(fill_color, int) else fill_color[:bands]
    square = Image.new(image.mode, (edge, edge), levels[0] if bands == 1 else levels)
    square.paste(image, (left, top))
    return square


class ImageTransform(NamedTuple):
    """Evaluation transform of a weight set: converts an image to the pixels of its model.

    Attributes:
        size: Height and width of the result in pixels, one number for both or `(height, width)`.
        crop_pct: The part of the resized image's edge that the center crop keeps, 0..1.
        resize_mode: `"shortest"` keeps the proportions and covers the result, `"longest"` keeps them and fits into it,
            `"squash"` does not keep them, `"pad"` first pads the image to a square with `fill_color`; `"none"` only
            crops.
        interpolation: A name in `INTERPOLATIONS`; always antialiased.
        statistics: The name of the statistics that the model embeds, or others.
        convert_rgb_first: Whether other modes become RGB before resizing, as timm does, or after cropping, as OpenCLIP
            does.
        crop_rounding: Crop rounding of the crop's offset, a name in `CROP_ROUNDING`.
        resize_size: Height and width before the crop, None for `size / crop`, rounded down.
        channels: 1 for gray levels, 3 for RGB, 4 with opacity; of another number, images must be arrays.
        fill_color: See `center_crop`.
        quantize: Whether resized pixels are rounded to whole numbers, as all but DINOv3's processor do.
        exif_transpose: See `open_image`; off, as in the publishers' transforms. The command line, jobs, training and
            the server set it.
        background: See `open_image`.
        scale_levels: See `open_image`; off gives what the publishers' transforms give for 16-bit images.
        bgr: Whether the channels of the result are in the order blue, green, red.

    Example:
        >>> ImageTransform(size=224, crop_pct=0.875)(np.zeros((300, 451, 3), "uint8")).shape
        (224, 224, 3)
    """

    size: int | tuple[int, int]
    crop_pct: float = 1.0
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    statistics: str | NormalizationStats = "imagenet"
    convert_rgb_first: bool = True
    crop_rounding: str = "half_even"
    resize_size: int | tuple[int, int] | None = None
    channels: int = 3
    fill_color: int | tuple[int, ...] = 0
    quantize: bool = True
    exif_transpose: bool = False
    background: tuple[int, int, int] | None = None
    scale_levels: bool = True
    bgr: bool = False

    def with_channels(self, channels: int) -> "ImageTransform":
        """Returns the transform for images with another number of channels; see `adapt_statistics`."""
        if channels == self.channels:
            return self
        statistics = adapt_statistics(get_statistics(self.statistics), channels)
        fill = self.fill_color if isinstance(self.fill_color, int) else self.fill_color[0]
        return self._replace(channels=channels, statistics=statistics, fill_color=fill)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Returns height, width and channels of the result."""
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return height, width, self.channels

    def __call__(self, image: ImageSource, name: str | None = None) -> np.ndarray:
        """Transforms an image.

        Args:
            image: See `open_image`.
            name: What errors call it; see `open_image`.

        Returns:
            Pixels `(height, width, channels)` in 0..255, uint8; float32 without `quantize`.

        Raises:
            ImageError: If the image cannot be read.
        """
        mode, name = PIL_MODES.get(self.channels), name or source_name(image)
        if mode is None:
            bands = [Image.fromarray(band) for band in np.moveaxis(to_uint8(image, {self.channels}), -1, 0)]
            return self._stacked(bands)
        opened = self.open(image, mode if self.convert_rgb_first else None, name)
        try:
            if not self.quantize:  # Pillow resizes floats of one band only, and does not cut them off at 0 and 255.
                return self._stacked([band.convert("F") for band in convert_mode(opened, mode).split()])
            pixels = np.asarray(convert_mode(self._transformed(opened, self.fill_color), mode))
        except MemoryError as error:
            raise ImageError(name, "it needs more memory than there is") from error
        except ValueError as error:
            raise ImageError(name, str(error)) from error
        return self.order_channels(pixels if pixels.ndim == 3 else pixels[..., None])

    def order_channels(self, pixels: np.ndarray) -> np.ndarray:
        """Returns pixels `(H, W, C)` of RGB in the order of `bgr`; the same function reverses it."""
        return np.ascontiguousarray(pixels[..., ::-1]) if self.bgr else pixels

    def open(self, image: ImageSource, mode: str | None, name: str | None = None) -> Image.Image:
        """Decodes an image with the options of this transform; see `open_image`."""
        options = {"exif_transpose": self.exif_transpose, "background": self.background}
        return open_image(image, mode, name=name, scale_levels=self.scale_levels, **options)

    def _stacked(self, bands: list[Image.Image]) -> np.ndarray:
        """Bands transformed one by one, each with its own fill, as `(height, width, channels)`."""
        fills = [self.fill_color] * len(bands) if isinstance(self.fill_color, int) else self.fill_color
        return np.stack([np.asarray(self._transformed(*row)) for row in zip(bands, fills, strict=True)], axis=-1)

    def _transformed(self, image: Image.Image, fill: int | tuple[int, ...]) -> Image.Image:
        if self.resize_mode == "pad":
            image = pad_to_square(image, fill)
        target = self.resize_size_for(image.size)
        resample = INTERPOLATIONS[self.interpolation]
        height, width = self.shape[:2]
        left, top = (
            CROP_ROUNDING[self.crop_rounding](edge - side) for edge, side in zip(target, (width, height), strict=True)
        )
        if target[0] * target[1] > MAX_UPSCALED_AREA * height * width and left >= 0 and top >= 0:
            # A long and thin image would become huge: only the part that the crop keeps is made.
            across, down = image.width / target[0], image.height / target[1]
            box = (left * across, top * down, (left + width) * across, (top + height) * down)
            return image.resize((width, height), resample, box)
        if target != image.size:
            image = image.resize(target, resample)
        return center_crop(image, self.size, self.crop_rounding, fill)

    @property
    def resize_edges(self) -> tuple[int, int]:
        """Returns the height and width of the resize, which `resize_mode` fits to an image."""
        height, width = (math.floor(side / self.crop_pct) for side in self.shape[:2])
        edges = self.resize_size or (height, width)
        return edges if isinstance(edges, tuple) else (edges, edges)

    def resize_size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns width and height after the resize and before the crop, for an image of this width and height."""
        width, height = size
        rows, columns = self.resize_edges
        if self.resize_mode == "none":
            return size
        if self.resize_mode in ("squash", "pad"):
            return columns, rows
        if self.resize_mode == "shortest" and rows == columns:
            # The shorter edge exactly, the longer one cut off, as torchvision rounds.
            return (rows, int(rows * height / width)) if width <= height else (int(rows * width / height), rows)
        ratios = height / rows, width / columns
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
