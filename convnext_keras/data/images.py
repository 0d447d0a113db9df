"""Image reading: paths, bytes, file objects, Pillow images, arrays and tensors become Pillow images.

Every entry point of the library reads through `open_image`, so that limits, scaling and errors are the same everywhere.
"""

import contextlib
import functools
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from convnext_keras.data.item_names import is_address

# An image as users have it: a path, the bytes of a file, a file object, a Pillow image, or an array or tensor.
ImageSource = str | os.PathLike | bytes | io.IOBase | Image.Image | np.ndarray | Mapping[str, Any]
MAX_PIXELS = 89_478_485  # of a source; above it, Pillow warns of a decompression bomb
MAX_BYTES = 256 << 20  # of a file
PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by the number of channels
SIXTEEN_BITS = 65_535 // 255  # what a 16-bit level is divided by
OVERSHOOT = 51  # of floats in 0..255, which resampling carries a little beyond; clipped
ORIENTATION = 0x0112  # the EXIF tag
EXIF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value, by type
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats that Pillow does not decode by itself, but by programs of their own.
DECODER_ERRORS = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "PDF", "WMF"})


class ImageError(ValueError):
    """Error of an image that cannot be read.

    Attributes:
        source: What was to be read: a path, an address, the name of a member of an archive, or a few words.
        reason: Why it cannot be read, in one clause.

    Example:
        >>> str(ImageError("photo.png", "the file is empty"))
        'photo.png cannot be read as an image: the file is empty.'
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{self.source} cannot be read as an image: {self.reason.rstrip('.')}."


@functools.cache
def image_extensions() -> frozenset[str]:
    """Returns the extensions of the files that Pillow decodes here, in lower case with the dot."""
    Image.init()
    extensions = Image.registered_extensions().items()
    return frozenset(extension for extension, kind in extensions if kind in Image.OPEN and kind not in DECODER_ERRORS)


def open_image(
    source: ImageSource,
    mode: str | None = "RGB",
    *,
    name: str | None = None,
    exif_transpose: bool = False,
    background: tuple[int, int, int] | None = None,
    scale_levels: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """Decodes an image.

    Levels of 16 bits are divided by 257, so that white stays white. Floats in 0..1 are multiplied by 255; floats in
    0..255 are rounded. Booleans become 0 and 255. Other integers count as 8-bit levels if none is above 255, and as
    16-bit levels otherwise. The peers' transforms call Pillow's `convert("RGB")` instead, which cuts off all levels
    above 255: `scale_levels=False` does the same. Of an animation, the first frame is read.

    Args:
        source: A path; the bytes of a file; a file object; a Pillow image; an array or a tensor of any backend, with
            the shape `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or with the channels of the mode; or a mapping with `bytes` or
            `path`, as Hugging Face's `datasets` store images.
        mode: Mode of Pillow that the result has; None keeps the mode of the source.
        name: What errors call the source; by default its path, or a few words.
        exif_transpose: Whether to rotate the image as its EXIF orientation says. timm and OpenCLIP do not.
        background: Color that transparent pixels are laid on; None drops the opacity, as the peers do.
        scale_levels: See above.
        max_pixels: Largest accepted width times height.
        max_bytes: Largest accepted file.
        formats: Names of Pillow's formats that are accepted, such as `("PNG", "JPEG")`; None accepts all.

    Raises:
        ImageError: If the source cannot be read as an image, or is larger than the limits.

    Example:
        >>> open_image(np.full((2, 3), 65535, "uint16")).getpixel((0, 0))
        (255, 255, 255)
    """
    name = name or source_name(source)
    try:
        with _open_with_pillow(source, mode, max_bytes, formats) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(name, f"it has {image.width} x {image.height} pixels; at most {max_pixels} are read")
            image.load()
            upright = apply_orientation(image) if exif_transpose else image
            result = convert_mode(_compose_on_background(upright, background), mode, scale_levels)
            return image.copy() if result is image else result
    except ImageError as error:
        raise ImageError(name, error.reason) from error
    except Exception as error:  # Decoders of hostile bytes raise errors of any type.
        raise ImageError(name, _reason(error)) from error


def identify(content: bytes, formats: tuple[str, ...] | None = None, name: str = "") -> Image.Image:
    """Opens an image without decoding it: its format and size are known, and `open_image` takes it.

    Args:
        content: Bytes of the file.
        formats: See `open_image`.
        name: See `open_image`.

    Raises:
        ImageError: If it is no image of these formats.
    """
    name = name or source_name(content)
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # Decoders of hostile bytes raise errors of any type.
        raise ImageError(name, _reason(error)) from error


def apply_orientation(image: Image.Image) -> Image.Image:
    """Returns an image rotated and mirrored as its EXIF or XMP orientation says; the image itself if it is upright."""
    method = TRANSPOSITIONS.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    """Returns the orientation 1..8 of an image.

    Read from the first directory of the EXIF data alone: Pillow copies the data of each of its up to 65535 entries.
    """
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return exif_orientation(exif.removeprefix(b"Exif\0\0"))
    if getattr(image, "tag_v2", None) is not None:  # of a TIFF, which Pillow has read already
        return image.getexif().get(ORIENTATION, 1)
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp.encode() if isinstance(xmp, str) else xmp)
    return int(found[1]) if found else 1


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation 1..8 in EXIF data, 1 if there is none (CIPA DC-008, section 4.6)."""
    return next((entry.value for entry in _exif_entries(exif) if entry.tag == ORIENTATION), 1)


def exif_bytes(exif: bytes) -> int:
    """Returns how many bytes the entries of the first directory of EXIF data refer to; entries may overlap."""
    return sum(entry.size for entry in _exif_entries(exif))


class _ExifEntry(NamedTuple):
    tag: int
    size: int
    value: int


def _exif_entries(exif: bytes) -> Iterator[_ExifEntry]:
    """Returns the entries of the first directory: the tag, the bytes of its data, and its first 16 bits."""
    orders: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(exif[:4])
    if order is None:
        return

    def number(start: int, size: int) -> int:
        return int.from_bytes(exif[start : start + size], order)

    first = number(4, 4) + 2
    for entry in range(first, min(first + 12 * number(first - 2, 2), len(exif) - 11), 12):
        size = EXIF_SIZES.get(number(entry + 2, 2), 1) * number(entry + 4, 4)
        yield _ExifEntry(number(entry, 2), size, number(entry + 8, 2))


def source_name(source: Any) -> str:
    """Returns what errors call a source."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        text = os.fsdecode(text) if isinstance(text, bytes) else text
        return text if len(text) <= 200 else f"{text[:100]}... ({len(text)} characters)"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"an image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"an image of {source.width} x {source.height} pixels"
    if isinstance(source, Mapping):
        return str(source.get("path") or "an image in a mapping")
    if hasattr(source, "shape"):
        return f"an array of shape {tuple(source.shape)}"
    return f"an object of type {type(source).__name__}"


def to_array(value: Any) -> np.ndarray:
    """Returns an array, or a tensor of any backend, as a NumPy array; bfloat16 becomes float32."""
    if hasattr(value, "detach"):  # PyTorch
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    array = np.asarray(value)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def to_uint8(pixels: Any, channels: Iterable[int] = (1, 3)) -> np.ndarray:
    """Returns an array of pixels as uint8 `(H, W, C)`; see `open_image` for how other types are scaled.

    Args:
        pixels: Array or tensor `(H, W)` or `(H, W, C)`.
        channels: Accepted values of `C`.

    Raises:
        ImageError: If the shape or the values are not those of an image.
    """
    array = to_array(pixels)
    name = source_name(pixels) if hasattr(pixels, "shape") else f"an array of shape {array.shape}"
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in channels or not array.size:
        shapes = ", ".join(f"(H, W, {count})" for count in sorted(channels))
        hint = "; move the channels to the last axis" if array.ndim == 3 and array.shape[0] in channels else ""
        raise ImageError(name, f"an array must have the shape (H, W) or one of {shapes}{hint}")
    return scale_to_uint8(array, name)


def scale_to_uint8(array: np.ndarray, name: str = "an array") -> np.ndarray:
    """Returns numbers of any type as uint8 levels; see `open_image`. The shape is kept."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype("uint8") * np.uint8(255)
    if not np.issubdtype(array.dtype, np.integer) and not np.issubdtype(array.dtype, np.floating):
        raise ImageError(name, f"its numbers are of the type {array.dtype}; use uint8, uint16, float32 or bool")
    low, high = (float(value) for value in (array.min(), array.max()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError(name, "it has values that are not finite (NaN or infinity)")
    if np.issubdtype(array.dtype, np.integer):
        if low < 0 or high > 65_535:
            raise ImageError(name, f"its integers are {low:.0f} to {high:.0f}; use 0..255, or 0..65535 for 16 bits")
        is_wide = (array.dtype.itemsize == 2 and array.dtype.kind == "u") or high > 255
        return np.rint(array / SIXTEEN_BITS).astype("uint8") if is_wide else array.astype("uint8")
    if low >= 0 and high <= 1:
        return np.rint(np.asarray(array, "float32") * 255).astype("uint8")
    if low < -OVERSHOOT or high > 255 + OVERSHOOT or (low < 0 and high < 10):
        hint = " They look normalized already: leave that out." if low < 0 else ""
        raise ImageError(name, f"its values are {low:.4g} to {high:.4g}; use 0..1 or 0..255.{hint}")
    return np.clip(np.rint(array), 0, 255).astype("uint8")


def convert_mode(image: Image.Image, mode: str | None, scale_levels: bool = True) -> Image.Image:
    """Returns an image in a mode of Pillow, its levels scaled as `open_image` says; the image itself if it has it."""
    if image.mode == mode:
        return image
    if scale_levels and image.mode.startswith(("I", "F")):
        image = Image.fromarray(scale_to_uint8(_as_numeric_array(image)))
    if mode is None:
        return image
    if mode == "RGB" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of palettes with transparency otherwise; the colors are the same.
    return image.convert(mode)


def _as_numeric_array(image: Image.Image) -> np.ndarray:
    """Converts an image with more than 8 bits to 8 bits; PNG has 16 bits in any mode that Pillow opens it in."""
    array = np.asarray(image)
    is_png = image.mode == "I" and getattr(image, "format", None) == "PNG"
    return array.astype("uint16") if is_png else array


@contextlib.contextmanager
def _open_with_pillow(source: Any, mode: str | None, max_bytes: int, formats: Any) -> Any:
    """Returns an image that is not decoded yet."""
    if isinstance(source, Image.Image):
        yield source
        return
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        source = _path(source, max_bytes)
    elif hasattr(source, "read"):
        _check_size(source, max_bytes)
    elif hasattr(source, "shape") or hasattr(source, "__array__") or isinstance(source, list | tuple):
        channels = {1, 3, *(count for count, name in PIL_MODES.items() if name == mode)}
        pixels = to_uint8(source, channels)
        yield Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return
    else:
        kinds = "a path, bytes, a file object, a Pillow image, an array or a tensor"
        raise ImageError("", f"an image is {kinds}")
    with Image.open(source, formats=formats) as image:
        yield image


def _path(path: str | os.PathLike, max_bytes: int) -> Path:
    text = os.fsdecode(os.fspath(path))
    if is_address(text):
        raise ImageError("", "it is an address. Download it first, or name it in a list for convnext_keras.distributed")
    if text.startswith("data:"):
        raise ImageError("", "it is a data URI. Decode it, and give the bytes")
    file = Path(text)
    if file.is_dir():
        raise ImageError("", "it is a folder")
    if not file.exists():
        raise ImageError("", "there is no such file")
    if file.stat().st_size > max_bytes:
        raise ImageError("", f"it has {file.stat().st_size} bytes; at most {max_bytes} are read")
    return file


def _check_size(file: Any, max_bytes: int) -> None:
    if hasattr(file, "seekable") and file.seekable():
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        if size > max_bytes:
            raise ImageError("", f"it has {size} bytes; at most {max_bytes} are read")


def _compose_on_background(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    """Returns an image without opacity, laid on a color."""
    if background is None or not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is of no image format that is accepted here, or is damaged"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the file", str(error).splitlines()[0] if str(error) else "")
    return text or type(error).__name__
