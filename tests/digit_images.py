"""Digits of 8 x 8 pixels, which scikit-learn carries, as images with classes."""

import numpy as np
from sklearn.datasets import load_digits


def digits(count: int, prefix: str | None = None) -> tuple[np.ndarray, list]:
    """Pixels `(N, 8, 8, 3)` uint8, and the digits as numbers, or as names with something in front."""
    data = load_digits()
    pixels = np.rint(data.images[:count] * 255 / 16).astype("uint8")
    labels = data.target[:count].tolist()
    return np.repeat(pixels[..., None], 3, axis=3), labels if prefix is None else [f"{prefix}{n}" for n in labels]
