"""The bundled model on images that another routine draws than the one that it was trained with."""

import math

import numpy as np
import pytest

from convnext_keras import create_model, segmentation, training
from convnext_keras.checkpoints import SEGMENTATION_REGISTRY, load_registry

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]
CLASSES = ("background", "circle", "square", "triangle")


def background(random, size):
    """Waves, a gradient, squares or noise, in two colors that are near to each other."""
    rows, columns = np.mgrid[:size, :size].astype("float64")
    first = random.uniform(20, 235, 3)
    second = np.clip(first + random.uniform(-60, 60, 3), 0, 255)
    tilt, length = random.uniform(0, math.pi), random.uniform(4, 40)
    along = rows * math.cos(tilt) + columns * math.sin(tilt)
    kinds = [
        lambda: 0.5 + 0.5 * np.cos(along * 2 * math.pi / length),
        lambda: (along - along.min()) / (along.max() - along.min()),
        lambda: ((rows // length + columns // length) % 2).astype("float64"),
        lambda: np.kron(random.random((8, 8)), np.ones((size // 8 + 1,) * 2))[:size, :size],
        lambda: random.random((size, size)),
    ]
    part = kinds[random.integers(len(kinds))]()
    return first + (second - first) * part[..., None], first


def inside(kind, x, y):
    """Positions that are in a shape of radius 1 around the origin."""
    if kind == 1:
        return x**2 + y**2 <= 1
    if kind == 2:
        return np.maximum(abs(x), abs(y)) <= math.sqrt(0.5)
    angles = [math.pi / 2 + 2 * math.pi * corner / 3 for corner in range(3)]  # an equilateral triangle
    return np.all([x * -math.cos(angle) + y * -math.sin(angle) <= 0.5 for angle in angles], axis=0)


def scene(random, size):
    """One to three shapes that do not touch, in colors that differ from what is behind them."""
    pixels, color = background(random, size)
    mask = np.zeros((size, size), "uint8")
    rows, columns = np.mgrid[:size, :size] + 0.5
    for _ in range(random.integers(1, 4)):
        kind, radius, tilt = random.integers(1, 4), size * random.uniform(0.12, 0.25), random.uniform(0, 2 * math.pi)
        top, left = random.uniform(radius, size - radius, 2)
        x, y = (columns - left) / radius, (rows - top) / radius
        x, y = x * math.cos(tilt) + y * math.sin(tilt), y * math.cos(tilt) - x * math.sin(tilt)
        covered = inside(kind, x, y)
        if (mask[(x**2 + y**2) < 1.3] > 0).any():
            continue
        paint = color
        while np.abs(paint - color).max() < 90:
            paint = random.uniform(0, 255, 3)
        pixels[covered], mask[covered] = paint + random.normal(0, 4, (covered.sum(), 3)), kind
    return np.clip(pixels, 0, 255).astype("uint8"), mask


def test_mean_iou_on_images_of_another_routine():
    random = np.random.default_rng(11)
    pairs = [scene(random, int(random.integers(80, 200))) for _ in range(300)]
    dataset = training.load_segmentation_dataset(pairs, CLASSES)
    model = create_model("fpn_convnext_mini.shapes")
    result = training.evaluate_segmentation(segmentation.Segmenter(model), dataset)
    assert result.mean_iou >= 0.85, result.class_iou
    row = load_registry(SEGMENTATION_REGISTRY)["fpn_convnext_mini.shapes"]
    assert 100 * result.mean_iou == pytest.approx(float(row.mean_iou), abs=0.5)
