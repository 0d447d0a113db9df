"""The formulas, in NumPy, and the map that comes of them as an image."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

OVERLAY_ALPHA = 0.65  # of the color over the image, where the map is 1
# From nothing to much: dark blue, magenta, orange, yellow, as light as they are much.
COLOR_MAP = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], "float32")


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Heat map of one image.

    Attributes:
        values: `(h, w)` float32, 0..1 with 1 at the peak; all 0 if it sees it nowhere.
        pixels: `(H, W, 3)` uint8, the image as the model sees it, resized and cropped.
        name: Name of the class, or the text.
        score: Probability of the class, or cosine with the text.
    """

    values: np.ndarray
    pixels: np.ndarray
    name: str
    score: float

    def upsampled(self) -> np.ndarray:
        """Returns the values at the image's size, `(H, W)` float32, by bilinear interpolation."""
        height, width = self.pixels.shape[:2]
        values = Image.fromarray(self.values.astype("float32"))
        return np.asarray(values.resize((width, height), Image.Resampling.BILINEAR))

    def overlay(self) -> Image.Image:
        """Returns the map in colors over the image."""
        values = self.upsampled()[..., None]
        positions = np.linspace(0, 1, len(COLOR_MAP))
        color = np.stack([np.interp(values[..., 0], positions, COLOR_MAP[:, channel]) for channel in range(3)], axis=-1)
        mixed = (1 - OVERLAY_ALPHA * values) * self.pixels + OVERLAY_ALPHA * values * color
        return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype("uint8"))


def grad_cam(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Returns the formula: channels weighed by the mean of their gradients, summed, what is positive, the peak at 1.

    Args:
        features: Features of a stage, `(N, h, w, C)`.
        gradients: Gradients of what is asked for, by the features.

    Returns:
        `(N, h, w)`, 0..1.
    """
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return normalize_to_peak(np.maximum((weights * features).sum(axis=-1), 0))


def layer_cam(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Computes LayerCAM: each position of each channel weighted by its positive gradient; see `grad_cam`."""
    return normalize_to_peak(np.maximum((np.maximum(gradients, 0) * features).sum(axis=-1), 0))


def occlusion(score: Callable[[np.ndarray], np.ndarray], image: np.ndarray, grid_size: int) -> np.ndarray:
    """Returns the drop of the score when each part of an image is replaced by its mean color.

    Args:
        score: Score of images `(N, H, W, 3)` uint8, one number each.
        image: `(H, W, 3)` uint8.
        grid_size: Parts of the height and the width.

    Returns:
        `(cells, cells)`, 0..1; parts without which the score is higher are 0.
    """
    height, width = image.shape[:2]
    if not 2 <= grid_size <= min(height, width):
        raise ValueError(f"grid_size must be 2 to {min(height, width)}. Received: grid_size={grid_size}")
    rows, columns = (np.linspace(0, size, grid_size + 1).round().astype(int) for size in (height, width))
    covered = np.repeat(image[None], grid_size**2 + 1, axis=0)  # the last stays as it is
    for index in range(grid_size**2):
        row, column = divmod(index, grid_size)
        part = np.s_[index, rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
        covered[part] = np.median(image, axis=(0, 1))
    scores = score(covered)
    return normalize_to_peak(np.maximum(scores[-1] - scores[:-1], 0).reshape(1, grid_size, grid_size))[0]


def normalize_to_peak(values: np.ndarray) -> np.ndarray:
    """Maps `(N, h, w)` divided by their peaks."""
    peaks = values.max(axis=(1, 2), keepdims=True)
    return (values / np.where(peaks > 0, peaks, 1)).astype("float32")
