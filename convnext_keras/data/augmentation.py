"""Random augmentation of uint8 images with Pillow, in threads."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from convnext_keras.data.images import PIL_MODES, ImageSource
from convnext_keras.data.transforms import INTERPOLATIONS, ImageTransform

CROP_RATIOS = (3 / 4, 4 / 3)  # of a crop's width to its height
ERASING_AREA = (0.02, 1 / 3)  # part of the area
ERASING_RATIOS = (0.3, 1 / 0.3)
# The strongest of what `affine=1` does: degrees, part of the size, part of the edge.
MAX_ANGLE, MAX_ZOOM, MAX_SHIFT = 15.0, 0.15, 0.1
IGNORE_INDEX = 255  # of pixels in masks that are not counted
MAX_MAGNITUDE = 10.0  # the magnitude of RandAugment at which an operation has its full strength

Box = tuple[int, int, int, int]


def random_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratios: tuple[float, float],
    rng: np.random.Generator,
) -> Box | None:
    """Returns a random box inside an image.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        scale: Smallest and largest part of its area.
        ratios: Smallest and largest of the box's width to its height.
        rng: Random generator.

    Returns:
        Top, left, height and width in pixels; None if ten tries do not fit.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(ratios[0]), math.log(ratios[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers(0, (height - box_height + 1, width - box_width + 1))
            return int(top), int(left), box_height, box_width
    return None


def random_resized_crop(
    image: Image.Image,
    size: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    interpolation: str = "bicubic",
) -> Image.Image:
    """Crops a random part of an image and resizes it (https://arxiv.org/abs/1409.4842v1, section 6)."""
    box = random_box(image.height, image.width, scale, CROP_RATIOS, rng)
    top, left, height, width = box or (0, 0, image.height, image.width)
    area = (left, top, left + width, top + height)
    return image.resize((size[1], size[0]), INTERPOLATIONS[interpolation], box=area)


def random_erasing(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a copy of pixels `(H, W, C)` with a random box of noise (https://arxiv.org/abs/1708.04896v2)."""
    box = random_box(pixels.shape[0], pixels.shape[1], ERASING_AREA, ERASING_RATIOS, rng)
    if box is None:
        return pixels
    top, left, height, width = box
    changed = pixels.copy()
    noise = rng.integers(0, 256, (height, width, pixels.shape[2]), "uint8")
    changed[top : top + height, left : left + width] = noise
    return changed


def _affine(image: Image.Image, matrix: np.ndarray, shift: tuple[float, float] = (0, 0)) -> Image.Image:
    """Applies an affine map about the center of an image; pixels from outside are gray."""
    middle = np.array(image.size) / 2
    offset = middle - matrix @ (middle + shift)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    fill = 128 if image.mode == "L" else (128, 128, 128)
    kind, filtered = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, kind, coefficients, filtered, fillcolor=fill)


def _rotation(degrees: float) -> np.ndarray:
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def random_affine(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Rotates, scales and shifts an image: at strength 1 up to `MAX_ANGLE` degrees, `MAX_ZOOM` and `MAX_SHIFT`.

    The levels at the edge go on outside the image, so that a plain background stays plain.
    """
    angle, wide, high, right, down = strength * rng.uniform(-1, 1, 5)
    matrix = _rotation(MAX_ANGLE * angle) / [1 + MAX_ZOOM * wide, 1 + MAX_ZOOM * high]
    pixels = np.asarray(image)
    border = max(image.size) // 2
    padding = [(border, border), (border, border), *[(0, 0)] * (pixels.ndim - 2)]
    wider = Image.fromarray(np.pad(pixels, padding, "edge"))
    shift = (MAX_SHIFT * right * image.width, MAX_SHIFT * down * image.height)
    return _affine(wider, matrix, shift).crop((border, border, border + image.width, border + image.height))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


def _shear(image: Image.Image, x: float = 0, y: float = 0) -> Image.Image:
    return _affine(image, np.array([[1, 0.3 * x], [0.3 * y, 1]]))


# RandAugment's operations (https://arxiv.org/abs/1909.13719v2, section 3 and its code), each of an image and a
# strength -1..1. Solarizing and posterizing have no sign.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, strength: image,
    "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "rotate": lambda image, strength: _affine(image, _rotation(30 * strength)),
    "solarize": lambda image, strength: ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, strength: _shear(image, x=strength),
    "shear_y": lambda image, strength: _shear(image, y=strength),
    "translate_x": lambda image, strength: _affine(image, np.eye(2), (0.45 * strength * image.width, 0)),
    "translate_y": lambda image, strength: _affine(image, np.eye(2), (0, 0.45 * strength * image.height)),
}


def rand_augment(image: Image.Image, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """Applies two random `OPERATIONS` with strength `magnitude / 10`, varied by 0.05."""
    for name in rng.choice([*OPERATIONS], 2):
        strength = min(1.0, max(0.0, rng.normal(magnitude, 0.5) / MAX_MAGNITUDE))
        image = OPERATIONS[str(name)](image, strength * rng.choice((-1, 1)))
    return image


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Training augmentation: an image and a random generator to the pixels of the model.

    Attributes:
        transform: Evaluation transform of the model; its size, filter and channels are kept.
        crop_scale: Smallest and largest part of the image's area that is cropped; `(1, 1)` for the transform's own
            crop.
        hflip_prob: Probability 0..1 to mirror left and right.
        affine: Strength 0..1 of turning, scaling and shifting, see `random_affine`.
        rand_augment: Magnitude 0..10 of `rand_augment`; 0 for none.
        random_erasing_prob: Probability 0..1 that a box is replaced by noise.

    Raises:
        ValueError: If the images are neither gray nor RGB.

    Example:
        >>> augment = Augmentation(ImageTransform(32), crop_scale=(0.5, 1.0), hflip_prob=0.5)
        >>> augment(np.zeros((50, 40, 3), "uint8"), np.random.default_rng(0)).shape
        (32, 32, 3)
    """

    transform: ImageTransform
    crop_scale: tuple[float, float] = (1.0, 1.0)
    hflip_prob: float = 0.0
    affine: float = 0.0
    rand_augment: float = 0.0
    random_erasing_prob: float = 0.0

    def __post_init__(self) -> None:
        changes = (
            self.crop_scale != (1, 1) or self.hflip_prob or self.affine or self.rand_augment or self.random_erasing_prob
        )
        if changes and PIL_MODES.get(self.transform.channels) not in ("L", "RGB"):
            raise ValueError(
                f"Images of {self.transform.channels} channels cannot be augmented, only those of 1 or 3. Leave out "
                "crop_scale, hflip_prob, affine, rand_augment and random_erasing_prob."
            )

    def __call__(self, image: ImageSource, rng: np.random.Generator) -> np.ndarray:
        """Returns pixels `(height, width, channels)` in 0..255; see `ImageTransform`."""
        return self.transform.order_channels(self._augment(image, self.transform._replace(bgr=False), rng))

    def _augment(self, image: ImageSource, transform: ImageTransform, rng: np.random.Generator) -> np.ndarray:
        height, width, channels = transform.shape
        if self.crop_scale == (1, 1):
            pixels = transform(image)
            if not (self.hflip_prob or self.affine or self.rand_augment):
                return random_erasing(pixels, rng) if rng.random() < self.random_erasing_prob else pixels
            levels = np.clip(np.rint(pixels), 0, 255).astype("uint8")
            source_image = Image.fromarray(levels[..., 0] if channels == 1 else levels)
        else:
            source_image = transform.open(image, PIL_MODES[channels])
            source_image = random_resized_crop(
                source_image, (height, width), self.crop_scale, rng, transform.interpolation
            )
        if rng.random() < self.hflip_prob:
            source_image = ImageOps.mirror(source_image)
        if self.affine:
            source_image = random_affine(source_image, self.affine, rng)
        if self.rand_augment:
            source_image = rand_augment(source_image, self.rand_augment, rng)
        pixels = np.asarray(source_image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return random_erasing(pixels, rng) if rng.random() < self.random_erasing_prob else pixels


@dataclasses.dataclass(frozen=True)
class JointAugmentation:
    """Training augmentation of an image and its mask together: scale, crop, flip, and colors of the image.

    Attributes:
        transform: Evaluation transform of the model; its size, interpolation and channels are kept.
        scale_range: Smallest and largest factor by which the image is resized, after it was fitted to the size.
        hflip_prob: Probability 0..1 to mirror left and right.
        color_jitter: Strength 0..1 of changes of brightness, contrast and saturation.
        ignore_index: Value of the mask where the crop is larger than the image.

    Example:
        >>> augment = JointAugmentation(ImageTransform(32), scale_range=(0.5, 2.0))
        >>> image, mask = np.zeros((40, 50, 3), "uint8"), np.zeros((40, 50), "uint16")
        >>> [part.shape for part in augment(image, mask, np.random.default_rng(0))]
        [(32, 32, 3), (32, 32)]
    """

    transform: ImageTransform
    scale_range: tuple[float, float] = (1.0, 1.0)
    hflip_prob: float = 0.0
    color_jitter: float = 0.0
    ignore_index: int = IGNORE_INDEX

    def __call__(self, image: ImageSource, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels `(height, width, channels)` uint8 and the mask `(height, width)` uint16."""
        height, width, channels = self.transform.shape
        mode = PIL_MODES.get(channels)
        if mode not in ("L", "RGB"):
            raise ValueError(f"Segmentation is trained on images of 1 or 3 channels. Received: {channels}")
        opened = self.transform._replace(exif_transpose=True).open(image, mode)
        labels = Image.fromarray(mask)
        # The scale 1 is that of the evaluation: squashed, or the larger factor that fills the size.
        factors = width / opened.width, height / opened.height
        if self.transform.resize_mode != "squash":
            factors = (max(factors),) * 2
        scale = math.exp(rng.uniform(*np.log(self.scale_range)))
        size = max(1, round(opened.width * factors[0] * scale)), max(1, round(opened.height * factors[1] * scale))
        left, top = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in (size[0] - width, size[1] - height))
        opened = opened.resize(size, INTERPOLATIONS[self.transform.interpolation])
        labels = labels.resize(size, Image.Resampling.NEAREST)
        if self.color_jitter and mode == "RGB":
            opened = color_jitter(opened, self.color_jitter, rng)
        box = (left, top, left + width, top + height)
        pixels, targets = np.asarray(opened.crop(box)), np.asarray(labels.crop(box)).copy()
        inside = np.zeros((height, width), bool)
        inside[max(0, -top) : max(0, size[1] - top), max(0, -left) : max(0, size[0] - left)] = True
        targets[~inside] = self.ignore_index
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if rng.random() < self.hflip_prob:
            pixels, targets = pixels[:, ::-1], targets[:, ::-1]
        return np.ascontiguousarray(pixels), np.ascontiguousarray(targets)


def color_jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Changes brightness, contrast and saturation by factors up to `1 + strength` or down to `1 / (1 + strength)`."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance((1 + strength) ** rng.uniform(-1, 1))
    return image


def mixup_cutmix(
    pixels: np.ndarray, targets: np.ndarray, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch mixed with itself in reverse order, by mixup or by cutmix, one at random if both are asked for.

    "mixup" (https://arxiv.org/abs/1710.09412v2) adds images, "CutMix" (https://arxiv.org/abs/1905.04899v2) pastes a
    box of one into the other; targets are added by the same parts.

    Args:
        pixels: `(N, H, W, C)` in 0..255.
        targets: `(N, classes)`, each row summing to 1.
        mixup: The parameter of the beta distribution of the parts, above 0; 0 for no mixup.
        cutmix: The same for cutmix.
        rng: Random generator.

    Returns:
        Both of the same shapes, float32.
    """
    pixels, targets = pixels.astype("float32"), targets.astype("float32")
    kinds = [kind for kind, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha]
    if not kinds:
        return pixels, targets
    kind = rng.choice(kinds)
    part = rng.beta(mixup, mixup) if kind == "mixup" else rng.beta(cutmix, cutmix)
    if kind == "mixup":
        pixels = part * pixels + (1 - part) * pixels[::-1]
    else:
        height, width = pixels.shape[1:3]
        half = np.array([height, width]) * math.sqrt(1 - part) / 2
        middle = rng.uniform(0, (height, width))
        top, left = np.clip(np.rint(middle - half), 0, (height, width)).astype(int)
        bottom, right = np.clip(np.rint(middle + half), 0, (height, width)).astype(int)
        pasted = pixels.copy()
        pasted[:, top:bottom, left:right] = pixels[::-1, top:bottom, left:right]
        pixels, part = pasted, 1 - (bottom - top) * (right - left) / (height * width)
    return pixels.astype("float32"), (part * targets + (1 - part) * targets[::-1]).astype("float32")
