"""The bundled ConvNeXt-CLIP on images that its own scripts did not draw, named as a visitor would name them."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from convnext_keras import clip

# Pillow's own colors of these names, and others that people call so.
COLORS = {
    "red": ["red", "crimson", "#e02020"],
    "green": ["green", "limegreen", "#20a040"],
    "blue": ["blue", "royalblue", "#2040e0"],
    "yellow": ["yellow", "gold", "#f0e030"],
    "purple": ["purple", "darkviolet", "#9030b0"],
    "orange": ["orange", "darkorange", "#f08020"],
}
SHAPES = ("circle", "ring", "square", "triangle", "star", "cross")
GROUNDS = ("white", "black", "gray", "#f4efe6", "#203040", "lightgray")
EACH = 10  # images of each color and shape


def star(x, y, radius):
    """Five points up, the inner ones at the golden ratio's distance."""
    turns = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.38 * radius, radius)
    return [(float(x + r * np.sin(turn)), float(y - r * np.cos(turn))) for r, turn in zip(radii, turns, strict=True)]


def drawn(shape, color, ground, size, center, outlined, noise, random):
    """A shape of `size` pixels on an image of 64 x 64, by Pillow's primitives at eight times the size."""
    image = Image.new("RGB", (512, 512), ground)
    pencil, (x, y), radius = ImageDraw.Draw(image), (8 * value for value in center), 4 * size
    box, line = (x - radius, y - radius, x + radius, y + radius), max(8, round(0.12 * radius))
    look = {"outline": color, "width": line} if outlined else {"fill": color}
    if shape == "circle":
        pencil.ellipse(box, **look)
    elif shape == "ring":
        pencil.ellipse(box, outline=color, width=round(0.4 * radius))
    elif shape == "square":
        pencil.rectangle([x - 0.8 * radius, y - 0.8 * radius, x + 0.8 * radius, y + 0.8 * radius], **look)
    elif shape == "triangle":
        pencil.regular_polygon((x, y, radius), 3, fill=None if outlined else color, outline=color, width=line)
    elif shape == "star":
        pencil.polygon(star(x, y, radius), **look)
    else:
        for ends in ((x - radius, y, x + radius, y), (x, y - radius, x, y + radius)):
            pencil.line(ends, fill=color, width=round(0.6 * radius))
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS), "float32")
    return np.clip(pixels + random.normal(0, noise, pixels.shape), 0, 255).astype("uint8")


@pytest.fixture(scope="module")
def visitors():
    """360 images: sizes of 8 to 48 pixels anywhere, filled or outlined, on plain and noisy backgrounds."""
    random, images, names = np.random.default_rng(2026), [], []
    for color, shape, number in itertools.product(COLORS, SHAPES, range(EACH)):
        size = float(random.uniform(8, 48))
        center = random.uniform(size / 2 + 1, 63 - size / 2, 2)
        outlined = bool(size >= 20 and shape != "cross" and random.random() < 0.25)
        ink, ground = (str(random.choice(row)) for row in (COLORS[color], GROUNDS))
        noise = 0 if number % 2 else float(random.uniform(2, 15))
        images.append(drawn(shape, ink, ground, size, center, outlined, noise, random))
        names.append((color, shape))
    return images, names


def right(model, images, labels, wanted, templates="{}"):
    """Percent of images whose best label is the wanted one."""
    best = clip.ZeroShotClassifier(model, labels, templates).cosine_similarity(images).argmax(axis=1)
    return 100 * np.mean([labels[place] == label for place, label in zip(best, wanted, strict=True)])


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("template", ["a {}", "a photo of a {}.", "{}"])
def test_accuracy_on_images_of_another_generator(template, model, visitors):
    images, names = visitors
    pairs = [f"{color} {shape}" for color, shape in itertools.product(COLORS, SHAPES)]
    wanted = [f"{color} {shape}" for color, shape in names]
    assert right(model, images, pairs, wanted, template) >= 95
    assert right(model, images, [*SHAPES], [shape for _, shape in names], template) >= 90
    assert right(model, images, [*COLORS], [color for color, _ in names], template) >= 95


@pytest.mark.any_backend
def test_accuracy_with_twelve_free_labels(model, visitors):
    """Each image among its own label and eleven others."""
    source_images, names = visitors
    every = [f"a {color} {shape}" for color, shape in itertools.product(COLORS, SHAPES)]
    random, images, texts = np.random.default_rng(0), model.encode_image(source_images), model.encode_text(every)
    cosines = images @ texts.T
    hits = []
    for row, (color, shape) in zip(cosines, names, strict=True):
        own = every.index(f"a {color} {shape}")
        others = random.choice([number for number in range(len(every)) if number != own], 11, replace=False)
        hits.append(row[own] > row[others].max())
    assert 100 * np.mean(hits) >= 95
