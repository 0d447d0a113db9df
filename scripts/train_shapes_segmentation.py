"""Trains the bundled `fpn_convnext_mini.shapes`: circles, squares and triangles on textured backgrounds.

    KERAS_BACKEND=jax python scripts/train_shapes_segmentation.py [--images 4000] [--output FILE]

Draws its images, trains from `convnext_mini.digits` in two phases, first on textured shapes and then mostly on plain
ones, prints the mean IoU on images that were not trained on, writes the
weights in float16, and prints the sha256 for `weights/segmentation.csv`. About an hour on two cores.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from convnext_keras import training
from convnext_keras.checkpoints import BUNDLED_WEIGHTS_DIR
from convnext_keras.checkpoints.download import file_sha256
from convnext_keras.checkpoints.loading import variable_slots
from convnext_keras.checkpoints.saving import LazyTensor, to_lazy_tensor, write_safetensors
from convnext_keras.data.class_names import SHAPES

SIZE, OVERSAMPLING = 96, 4
CONFIG = training.TrainingConfig(
    epochs=24,
    batch_size=16,
    learning_rate=2e-3,
    layer_decay=0.9,
    layer_decay_mode="stage",
    ema_decay=0.995,
    scale_range=(0.6, 1.6),
    hflip_prob=0.5,
    color_jitter=0.3,
    auxiliary_weight=0.4,
    dice_weight=0.5,
)

# Part of the shapes that are textured, and what the training config of the phase is otherwise.
PHASES: tuple[tuple[float, dict[str, Any]], ...] = (
    (1.0, {}),
    (0.25, {"epochs": 12, "learning_rate": 1.5e-3, "dice_weight": 1.0, "scale_range": (0.75, 1.35)}),
)


def texture(random: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Draws a texture `(size, size, 3)` in 0..255: flat, a gradient, noise of any scale, stripes, tiles or spots."""
    first, second = random.uniform(0, 255, (2, 3))
    second = first + (second - first) * random.uniform(0.05, 1)
    rows, columns = np.mgrid[:size, :size] / size
    angle, period = random.uniform(0, math.pi), random.uniform(0.04, 0.5)
    along = rows * math.sin(angle) + columns * math.cos(angle)
    across = columns * math.sin(angle) - rows * math.cos(angle)
    kind, part = random.integers(7), np.zeros((size, size), "float64")
    if kind == 0:
        part = np.zeros((size, size))
    elif kind == 1:
        part = (along - along.min()) / np.ptp(along)
    elif kind == 2:
        cells = int(random.integers(3, 40))
        noise = Image.fromarray(random.uniform(0, 1, (cells, cells)).astype("float32"))
        part = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
    elif kind == 3:
        part = (np.sin(2 * math.pi * along / period + random.uniform(0, 6)) + 1) / 2
    elif kind == 4:
        part = (np.floor(along / period) + np.floor(across / period)) % 2
    elif kind == 5:
        part = random.uniform(0, 1, (size, size))
    else:
        for octave in range(5):
            waves = 2 * math.pi * 2**octave * (rows * random.normal() + columns * random.normal())
            part = part + np.sin(waves + random.uniform(0, 6)) / 2**octave
        part = (part - part.min()) / np.ptp(part)
    if random.random() < 0.2:
        part = part > 0.5
    values = first + (second - first) * np.asarray(part, "float64")[..., None]
    return np.clip(values + random.normal(0, random.choice([0, 0, 4, 12]), values.shape), 0, 255)


def outline(random: np.random.Generator, kind: int, center: np.ndarray, radius: float) -> list[tuple[float, float]]:
    """Returns the corners of a shape: its class, its center and radius in pixels, turned at random."""
    turn = random.uniform(0, 2 * math.pi)
    if kind == 1:
        angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
        points = np.stack([np.cos(angles), np.sin(angles) * random.uniform(0.85, 1)], axis=1)
    elif kind == 2:
        ratio = random.uniform(0.75, 1)
        points = np.array([[1, ratio], [-1, ratio], [-1, -ratio], [1, -ratio]]) / math.hypot(1, ratio)
    else:
        base = np.array([0, 2 * math.pi / 3, 4 * math.pi / 3]) + random.uniform(-0.35, 0.35, 3)
        points = np.stack([np.cos(base), np.sin(base)], axis=1)
    if (kind == 2 and random.random() < 0.4) or (kind == 3 and random.random() < 0.3):
        turn = random.choice([0, math.pi / 2, math.pi, 3 * math.pi / 2]) + random.normal(0, 0.03)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return [tuple(point) for point in (center + radius * points @ rotation.T).tolist()]


def draw(random: np.random.Generator, textured: float, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image `(size, size, 3)` uint8 and its mask `(size, size)` uint8.

    Args:
        random: Random generator.
        textured: Part 0..1 of the shapes that have a texture; the others are of one color that differs from the ground.
        size: Height and width in pixels.
    """
    pixels, mask = texture(random, size), np.zeros((size, size), "uint8")
    for _ in range(random.integers(0, 3)):  # lines, which belong to the background
        layer = Image.new("L", (size, size))
        ends = [tuple(row) for row in random.uniform(-0.2, 1.2, (2, 2)) * size]
        ImageDraw.Draw(layer).line(ends, fill=255, width=int(random.integers(1, 3)))
        pixels = np.where(np.asarray(layer)[..., None] > 0, random.uniform(0, 255, 3), pixels)
    for _ in range(random.choice([1, 1, 2, 2, 3, 4, 5])):
        kind, radius = int(random.integers(1, 4)), size * random.uniform(0.07, 0.32)
        center = random.uniform(0.5 * radius, size - 0.5 * radius, 2)
        corners = outline(random, kind, center, radius)
        layer = Image.new("L", (size * OVERSAMPLING, size * OVERSAMPLING))
        scaled = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in corners]
        ImageDraw.Draw(layer).polygon(scaled, fill=255)
        part = np.asarray(layer.resize((size, size), Image.Resampling.BOX), "float64")[..., None] / 255
        below, above = pixels[part[..., 0] > 0.5].mean(axis=0) if (part > 0.5).any() else 0, texture(random, size)
        plain = random.random() >= textured
        for _ in range(8):  # A shape of the color of what is below would be invisible.
            if np.abs(above.mean(axis=(0, 1)) - below).max() > (70 if plain else 40):
                break
            above = texture(random, size)
        if plain:
            above = above.mean(axis=(0, 1)) + random.normal(0, random.choice([0, 3, 8]), above.shape)
        pixels = pixels * (1 - part) + above * part
        if random.random() < 0.25:
            rim = Image.new("L", layer.size)
            width = int(OVERSAMPLING * random.uniform(1, 3))
            ImageDraw.Draw(rim).line([*scaled, scaled[0]], fill=255, width=width, joint="curve")
            edge = np.asarray(rim.resize((size, size), Image.Resampling.BOX), "float64")[..., None] / 255 * (part > 0.5)
            pixels = pixels * (1 - edge) + random.uniform(0, 255, 3) * edge
        mask[part[..., 0] > 0.5] = kind
    image = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.9)))
    return np.asarray(image), mask


def dataset(count: int, seed: int, textured: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` images and masks; see `draw`."""
    rows = [draw(np.random.default_rng((seed, number)), textured) for number in range(count)]
    return np.stack([image for image, _ in rows]), np.stack([mask for _, mask in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=BUNDLED_WEIGHTS_DIR / "fpn_convnext_mini.shapes.safetensors")
    parser.add_argument("--state", type=Path, help="folder from which an interrupted training goes on")
    options = parser.parse_args()
    model: Any = "convnext_mini.digits"
    for number, phase in enumerate(PHASES):
        model = train(model, number, phase, options.images, options.state and options.state / str(number))
    write(model, options.output)


def train(model: Any, number: int, phase: tuple[float, dict[str, Any]], images: int, state: Path | None) -> Any:
    """Returns the model after one phase, on images of its own."""
    textured, changes = phase
    held_out = training.load_segmentation_dataset(dataset(300, 2 * number + 1, textured), SHAPES, name="validation")
    trained = training.fine_tune_segmentation(
        model,
        training.load_segmentation_dataset(dataset(images, 2 * number, textured), SHAPES),
        dataclasses.replace(CONFIG, **changes),
        validation=held_out,
        decoder="fpn",
        hidden_size=48,
        size=SIZE,
        state=state,
        verbose=2,
    )
    print(trained.evaluation, trained.evaluation.class_iou)
    return trained.model


def write(model: Any, path: Path) -> None:
    """Writes the weights in float16, and prints what the registry needs."""
    tensors: dict[str, LazyTensor] = {}
    for key, slot in variable_slots(model).items():
        tensor = to_lazy_tensor(slot.variable)

        def half(tensor: Any = tensor) -> np.ndarray:
            return tensor.values().astype("float16")

        tensors[str(key)] = LazyTensor(tensor.shape, "float16", half)
    write_safetensors(path, tensors, {})
    print(path, path.stat().st_size, file_sha256(path))


if __name__ == "__main__":
    main()
