"""The bundled ConvNeXt-CLIP on pictures that its own scripts did not draw, named as a visitor would name them."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from convnext_keras import clip

# Pillow's own colours of these names, and others that people call so.
COLOURS = {
    "red": ["red", "crimson", "#e02020"],
    "green": ["green", "limegreen", "#20a040"],
    "blue": ["blue", "royalblue", "#2040e0"],
    "yellow": ["yellow", "gold", "#f0e030"],
    "purple": ["purple", "darkviolet", "#9030b0"],
    "orange": ["orange", "darkorange", "#f08020"],
}
SHAPES = ("circle", "ring", "square", "triangle", "star", "cross")
GROUNDS = ("white", "black", "grey", "#f4efe6", "#203040", "lightgrey")
EACH = 10  # pictures of each colour and shape


def star(x, y, radius):
    """Five points up, the inner ones at the golden ratio's distance."""
    turns = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.38 * radius, radius)
    return [(float(x + r * np.sin(turn)), float(y - r * np.cos(turn))) for r, turn in zip(radii, turns, strict=True)]


def drawn(shape, colour, ground, size, centre, outlined, noise, random):
    """A shape of `size` pixels on a picture of 64 x 64, by Pillow's primitives at eight times the size."""
    picture = Image.new("RGB", (512, 512), ground)
    pencil, (x, y), radius = ImageDraw.Draw(picture), (8 * value for value in centre), 4 * size
    box, line = (x - radius, y - radius, x + radius, y + radius), max(8, round(0.12 * radius))
    look = {"outline": colour, "width": line} if outlined else {"fill": colour}
    if shape == "circle":
        pencil.ellipse(box, **look)
    elif shape == "ring":
        pencil.ellipse(box, outline=colour, width=round(0.4 * radius))
    elif shape == "square":
        pencil.rectangle([x - 0.8 * radius, y - 0.8 * radius, x + 0.8 * radius, y + 0.8 * radius], **look)
    elif shape == "triangle":
        pencil.regular_polygon((x, y, radius), 3, fill=None if outlined else colour, outline=colour, width=line)
    elif shape == "star":
        pencil.polygon(star(x, y, radius), **look)
    else:
        for ends in ((x - radius, y, x + radius, y), (x, y - radius, x, y + radius)):
            pencil.line(ends, fill=colour, width=round(0.6 * radius))
    pixels = np.asarray(picture.resize((64, 64), Image.Resampling.LANCZOS), "float32")
    return np.clip(pixels + random.normal(0, noise, pixels.shape), 0, 255).astype("uint8")


@pytest.fixture(scope="module")
def visitors():
    """360 pictures: sizes of 8 to 48 pixels anywhere, filled or outlined, on plain and noisy backgrounds."""
    random, pictures, names = np.random.default_rng(2026), [], []
    for colour, shape, number in itertools.product(COLOURS, SHAPES, range(EACH)):
        size = float(random.uniform(8, 48))
        centre = random.uniform(size / 2 + 1, 63 - size / 2, 2)
        outlined = bool(size >= 20 and shape != "cross" and random.random() < 0.25)
        ink, ground = (str(random.choice(row)) for row in (COLOURS[colour], GROUNDS))
        noise = 0 if number % 2 else float(random.uniform(2, 15))
        pictures.append(drawn(shape, ink, ground, size, centre, outlined, noise, random))
        names.append((colour, shape))
    return pictures, names


def right(model, pictures, labels, wanted, templates="{}"):
    """Percent of pictures whose best label is the wanted one."""
    best = clip.ZeroShotClassifier(model, labels, templates).cosine_similarity(pictures).argmax(axis=1)
    return 100 * np.mean([labels[place] == label for place, label in zip(best, wanted, strict=True)])


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("template", ["a {}", "a photo of a {}.", "{}"])
def test_colours_and_shapes_of_pictures_by_another_hand(template, model, visitors):
    pictures, names = visitors
    pairs = [f"{colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    wanted = [f"{colour} {shape}" for colour, shape in names]
    assert right(model, pictures, pairs, wanted, template) >= 95
    assert right(model, pictures, [*SHAPES], [shape for _, shape in names], template) >= 90
    assert right(model, pictures, [*COLOURS], [colour for colour, _ in names], template) >= 95


@pytest.mark.any_backend
def test_twelve_labels_such_as_a_visitor_writes(model, visitors):
    """Each picture among its own label and eleven others."""
    pictures, names = visitors
    every = [f"a {colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    random, images, texts = np.random.default_rng(0), model.encode_image(pictures), model.encode_text(every)
    cosines = images @ texts.T
    hits = []
    for row, (colour, shape) in zip(cosines, names, strict=True):
        own = every.index(f"a {colour} {shape}")
        others = random.choice([number for number in range(len(every)) if number != own], 11, replace=False)
        hits.append(row[own] > row[others].max())
    assert 100 * np.mean(hits) >= 95
