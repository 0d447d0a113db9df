"""Pictures of shapes with captions: what `train_shapes_clip.py` learns from and what the tests measure with.

A picture has one to three equal shapes in a row or a column, with noise, on a plain background. Six attributes make
4,320 combinations; a fifth of them is held out whole: no picture of such a combination occurs in training.
"""

import itertools
import math
import re
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64  # pixels
OVERSAMPLING = 3
NOISE = 6.0  # deviation of a pixel, of 255
COLOURS = {
    "red": (215, 30, 35),
    "green": (35, 160, 50),
    "blue": (35, 60, 220),
    "yellow": (245, 225, 40),
    "purple": (140, 35, 170),
    "orange": (250, 140, 20),
}
BACKGROUNDS = {"white": (245, 245, 245), "black": (12, 12, 12), "grey": (128, 128, 128), "brown": (100, 62, 30)}
RADII = {"small": 6.5, "large": 10.0}
PLACES = {"left": (14, 32), "right": (50, 32), "top": (32, 14), "bottom": (32, 50), "middle": (32, 32)}
COUNTS = {"one": 1, "two": 2, "three": 3}
# Corners on a circle of radius 1; a shape without them is drawn by itself.
SHAPES = {
    "circle": None,
    "ring": None,
    "square": 4,
    "triangle": 3,
    "star": 5,
    "cross": 12,
}  # `fine_tune_clip.py` adds a heart.
SYNONYMS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "one": ("one", "a", "a single"),
    "two": ("two", "a pair of"),
    "three": ("three", "a group of three"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "middle": ("in the middle", "in the centre", "in the center"),
}
GROUNDS = ("on a {} background", "in front of a {} background", "with a {} background", "on {}")
OPENINGS = ("", "", "a picture of ", "an image with ", "there is ", "this shows ")


class Scene(NamedTuple):
    """One combination of attributes, each a key of the table above of that name."""

    count: str
    size: str
    colour: str
    shape: str
    place: str
    background: str

    @property
    def caption(self) -> str:
        """The plain wording with all attributes."""
        return wording(self._asdict(), {})


TABLES = (COUNTS, RADII, COLOURS, SHAPES, PLACES, BACKGROUNDS)  # in the order of a scene's attributes
SCENES = [Scene(*row) for row in itertools.product(*TABLES)]


def split(seed: int = 0) -> tuple[list[Scene], list[Scene]]:
    """Combinations for training, and the fifth that is held out."""
    order = np.random.default_rng(seed).permutation(len(SCENES))
    held_out = set(order[: len(order) // 5].tolist())
    groups: tuple[list[Scene], list[Scene]] = ([], [])
    for number, scene in enumerate(SCENES):
        groups[number in held_out].append(scene)
    return groups


def wording(attributes: dict[str, str], words: dict[str, str], ground: str = GROUNDS[0], opening: str = "") -> str:
    """A caption of some or all attributes, each in its own word or the one given."""
    word = {key: words.get(value, SYNONYMS.get(value, (value,))[0]) for key, value in attributes.items()}
    plural = attributes.get("count", "one") != "one"
    shape = word.get("shape", "shape")
    noun = (f"{shape}es" if shape.endswith("s") else f"{shape}s") if plural else shape
    parts = [word.get("count", "a"), word.get("size"), word.get("colour"), noun, word.get("place")]
    parts.append(ground.format(word["background"]) if "background" in word else None)
    text = opening + " ".join(part for part in parts if part)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def random_caption(scene: Scene, random: np.random.Generator, complete: float = 0.75) -> str:
    """A caption in varied wording, with all attributes at the probability `complete`, otherwise with about half."""
    attributes = scene._asdict()
    if random.random() > complete:
        kept = random.random(len(attributes)) < 0.5
        kept[random.integers(len(kept))] = True
        attributes = {key: value for (key, value), keep in zip(attributes.items(), kept, strict=True) if keep}
    words = {value: str(random.choice(SYNONYMS[value])) for value in attributes.values() if value in SYNONYMS}
    return wording(attributes, words, str(random.choice(GROUNDS)), str(random.choice(OPENINGS)))


def corners(shape: str, angle: float) -> list[tuple[float, float]]:
    """The polygon of a shape of radius 1 about the origin, turned by an angle in radians."""
    number = SHAPES[shape]
    if shape == "star":
        radii, number = (1.1, 0.45), 10
    elif shape == "heart":
        angles = [2 * math.pi * step / number for step in range(number)]
        wave = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in angles]
        return [(math.sin(a) ** 3, -height / 16) for a, height in zip(angles, wave, strict=True)]
    elif shape == "cross":
        arm = 0.36
        points = [(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)]
        points += [(-x, -y) for x, y in points]
        return [
            (x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)) for x, y in points
        ]
    else:
        radii = (1.15,)
    start = angle - math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    steps = [start + 2 * math.pi * step / number for step in range(number)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(steps)]


def draw(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """A picture of the combination, uint8 `(64, 64, 3)`."""
    scale = OVERSAMPLING

    def shade(colour: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(np.clip(np.add(colour, random.normal(0, 6, 3)), 0, 255).astype(int).tolist())

    picture = Image.new("RGB", (SIZE * scale, SIZE * scale), shade(BACKGROUNDS[scene.background]))
    pencil, ink = ImageDraw.Draw(picture), shade(COLOURS[scene.colour])
    number, radius = COUNTS[scene.count], RADII[scene.size] * random.uniform(0.92, 1.08)
    across = scene.place in ("top", "bottom", "middle")
    step = min(2 * radius + random.uniform(1.5, 4), 21)
    centre = np.add(PLACES[scene.place], random.uniform(-2, 2, 2))
    for index in range(number):
        shift = (index - (number - 1) / 2) * step
        x, y = centre + ((shift, 0) if across else (0, shift))
        box = [(value + sign * radius) * scale for sign in (-1, 1) for value in (x, y)]
        if scene.shape == "circle":
            pencil.ellipse(box, fill=ink)
        elif scene.shape == "ring":
            pencil.ellipse(box, outline=ink, width=round(0.42 * radius * scale))
        else:
            points = corners(scene.shape, random.uniform(-0.2, 0.2))
            pencil.polygon([((x + dx * radius) * scale, (y + dy * radius) * scale) for dx, dy in points], fill=ink)
    pixels = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX), "float32")
    return np.clip(pixels + random.normal(0, NOISE, pixels.shape), 0, 255).astype("uint8")
