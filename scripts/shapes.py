"""Draws images of shapes with captions, for `train_shapes_clip.py` and the tests.

There are two kinds of images. An arranged one has one to three equal shapes in a row or a column on a plain
background; six attributes make 4,320 combinations, of which some are held out whole: no image of such a combination
occurs in training. A free one has a single shape of any size anywhere, filled or outlined, on any background, plain or
noisy. Captions name any of the attributes, in any order.
"""

import colorsys
import itertools
import math
import re
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64  # pixels
OVERSAMPLING = 3
NOISE = 6.0  # deviation of a pixel of an arranged image, of 255


class Hue(NamedTuple):
    """Color of a name: its usual RGB, and ranges of hue in degrees, saturation and value."""

    rgb: tuple[int, int, int]
    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


COLORS = {
    "red": Hue((215, 30, 35), (-12, 8), (0.75, 1), (0.6, 1)),
    "green": Hue((35, 160, 50), (90, 150), (0.5, 1), (0.4, 1)),
    "blue": Hue((35, 60, 220), (205, 245), (0.65, 1), (0.5, 1)),
    "yellow": Hue((245, 225, 40), (50, 64), (0.65, 1), (0.8, 1)),
    "purple": Hue((140, 35, 170), (268, 304), (0.42, 1), (0.4, 0.9)),
    "orange": Hue((250, 140, 20), (20, 40), (0.75, 1), (0.88, 1)),
}
BACKGROUNDS = {"white": (245, 245, 245), "black": (12, 12, 12), "grey": (128, 128, 128), "brown": (100, 62, 30)}
RADII = {"small": 6.5, "large": 10.0}
FREE_RADII = (4.0, 24.0)
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
}  # `fine_tune_clip.py` adds others.
RING_WIDTH = (0.32, 0.48)  # of the radius; an outline is thinner, so that an outlined circle is no ring
OUTLINE_WIDTH = (0.08, 0.18)
SMALLEST_OUTLINED = 9.0  # radius, below which an outline has no room
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
OPENINGS = ("", "", "", "a picture of ", "a photo of ", "an image with ", "there is ", "this shows ", "a drawing of ")
# How a caption of few attributes may put them; `{thing}` is the plain wording with its article, `{noun}` without.
FORMS = {
    ("color", "shape"): ("{noun}", "{shape}, {color}", "a {shape} in {color}", "a {shape} that is {color}"),
    ("color",): ("{color}", "something {color}", "a {color} thing", "it is {color}", "the colour {color}"),
    ("shape",): ("{shape}", "the shape of a {shape}", "it is a {shape}", "{shape} shape"),
    ("background",): ("a {background} background", "the background is {background}", "{background} background"),
    ("color", "shape", "background"): ("{noun}, {background} background", "a {background} background with {thing}"),
}


class Scene(NamedTuple):
    """One combination of attributes, each a key of the table above of that name, or None where it has no name."""

    count: str
    size: str | None
    color: str
    shape: str
    place: str | None
    background: str | None

    @property
    def caption(self) -> str:
        """The plain wording with all attributes."""
        return wording(self._asdict(), {})


TABLES = (COUNTS, RADII, COLORS, SHAPES, PLACES, BACKGROUNDS)  # in the order of a scene's attributes
SCENES = [Scene(*row) for row in itertools.product(*TABLES)]


class Split(NamedTuple):
    """Combinations of arranged images: to train on, to choose the recipe by, and to measure with once, at the end."""

    training: list[Scene]
    validation: list[Scene]
    held_out: list[Scene]


def split(seed: int = 1) -> Split:
    """A fifth of the combinations is held out, and a tenth is for validation."""
    order = np.random.default_rng(seed).permutation(len(SCENES))
    fifth, tenth = len(order) // 5, len(order) // 10
    scenes = [SCENES[number] for number in order]
    return Split(scenes[fifth + tenth :], scenes[fifth : fifth + tenth], scenes[:fifth])


def free_scene(random: np.random.Generator) -> Scene:
    """Scene of a free image; its size and place go without a name, and two in five backgrounds too."""
    background = None if random.random() < 0.4 else str(random.choice([*BACKGROUNDS]))
    return Scene("one", None, str(random.choice([*COLORS])), str(random.choice([*SHAPES])), None, background)


def wording(attributes: dict[str, str], words: dict[str, str], ground: str = GROUNDS[0], opening: str = "") -> str:
    """A caption of some or all attributes, each in its own word or the one given."""
    word = {key: words.get(value, SYNONYMS.get(value, (value,))[0]) for key, value in attributes.items()}
    plural = attributes.get("count", "one") != "one"
    shape = word.get("shape", "shape")
    noun = (f"{shape}es" if shape.endswith("s") else f"{shape}s") if plural else shape
    parts = [word.get("count", "a"), word.get("size"), word.get("color"), noun, word.get("place")]
    parts.append(ground.format(word["background"]) if "background" in word else None)
    text = opening + " ".join(part for part in parts if part)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def random_attributes(scene: Scene, random: np.random.Generator, complete: float = 0.75) -> dict[str, str]:
    """All attributes of a scene that have a name, at the probability `complete`, otherwise about half of them."""
    attributes = {key: value for key, value in scene._asdict().items() if value is not None}
    if random.random() > complete:
        kept = random.random(len(attributes)) < 0.5
        kept[random.integers(len(kept))] = True
        attributes = {key: value for (key, value), keep in zip(attributes.items(), kept, strict=True) if keep}
    return attributes


def worded(attributes: dict[str, str], random: np.random.Generator) -> str:
    """A caption of the attributes in varied wording and order."""
    words = {value: str(random.choice(SYNONYMS[value])) for value in attributes.values() if value in SYNONYMS}
    ground = str(random.choice(GROUNDS))
    forms = FORMS.get(tuple(key for key in attributes if key != "count"), ())
    if forms and attributes.get("count", "one") == "one" and random.random() < 0.5:
        named = {key: value for key, value in attributes.items() if key != "background"}
        thing = wording(named, words, ground)
        form = str(random.choice(forms))
        text = form.format(thing=thing, noun=re.sub("^(an?|one|a single) ", "", thing), **attributes)
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    elif "background" in attributes and len(attributes) > 1 and random.random() < 0.15:
        rest = wording({key: value for key, value in attributes.items() if key != "background"}, words)
        text = f"{ground.format(attributes['background'])}, {rest}"
    else:
        text = wording(attributes, words, ground, str(random.choice(OPENINGS)))
    return f"{text}." if random.random() < 0.2 else text


def random_caption(scene: Scene, random: np.random.Generator, complete: float = 0.75) -> str:
    """A caption in varied wording; see `random_attributes`."""
    return worded(random_attributes(scene, random, complete), random)


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


def draw_shape(
    pencil: ImageDraw.ImageDraw, shape: str, center, radius: float, angle: float, ink, outline: float, ring: float
) -> None:
    """One shape on an image of `OVERSAMPLING` times the size; `outline` is its line's width in radii, 0 to fill it."""
    scale = OVERSAMPLING
    x, y = center
    box = [(value + sign * radius) * scale for sign in (-1, 1) for value in (x, y)]
    width = max(1, round((ring if shape == "ring" else outline) * radius * scale))
    if shape == "ring" or (shape == "circle" and outline):
        pencil.ellipse(box, outline=ink, width=width)
    elif shape == "circle":
        pencil.ellipse(box, fill=ink)
    else:
        points = [((x + dx * radius) * scale, (y + dy * radius) * scale) for dx, dy in corners(shape, angle)]
        if outline:
            pencil.line([*points, *points[:2]], fill=ink, width=width, joint="curve")
        else:
            pencil.polygon(points, fill=ink)


def draw(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """An arranged image of the combination, uint8 `(64, 64, 3)`."""

    def shade(color: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(np.clip(np.add(color, random.normal(0, 6, 3)), 0, 255).astype(int).tolist())

    image = Image.new("RGB", (SIZE * OVERSAMPLING,) * 2, shade(BACKGROUNDS[scene.background]))
    pencil, ink = ImageDraw.Draw(image), shade(COLORS[scene.color].rgb)
    number, radius = COUNTS[scene.count], RADII[scene.size] * random.uniform(0.92, 1.08)
    across = scene.place in ("top", "bottom", "middle")
    step = min(2 * radius + random.uniform(1.5, 4), 21)
    center = np.add(PLACES[scene.place], random.uniform(-2, 2, 2))
    for index in range(number):
        shift = (index - (number - 1) / 2) * step
        at = center + ((shift, 0) if across else (0, shift))
        draw_shape(pencil, scene.shape, at, radius, random.uniform(-0.2, 0.2), ink, 0, 0.42)
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), "float32")
    return np.clip(pixels + random.normal(0, NOISE, pixels.shape), 0, 255).astype("uint8")


def free_color(color: str, random: np.random.Generator) -> tuple[int, ...]:
    """Draws red, green and blue of a color from its ranges."""
    ranges = COLORS[color]
    hue, saturation, value = (random.uniform(*bounds) for bounds in ranges[1:])
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))


def free_background(scene: Scene, ink: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """A background `(64, 64, 3)` in 0..255 that the shape can be seen on."""
    if scene.background:
        ground = np.clip(np.add(BACKGROUNDS[scene.background], random.normal(0, 10, 3)), 0, 255)
    else:
        ground = random.uniform(0, 255, 3)
        while np.abs(ground - ink).max() < 90:
            ground = random.uniform(0, 255, 3)
    pixels = np.broadcast_to(ground, (SIZE, SIZE, 3)).astype("float32")
    if random.random() < 0.2:  # Clouds, or a gradient.
        cells = random.normal(0, random.uniform(5, 25), (int(random.integers(2, 9)),) * 2).astype("float32")
        pixels = pixels + np.asarray(Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.BICUBIC))[..., None]
    return np.clip(pixels, 0, 255)


def draw_free(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """A free image of a scene with one shape, uint8 `(64, 64, 3)`."""
    ink = free_color(scene.color, random)
    radius = float(np.exp(random.uniform(*np.log(FREE_RADII))))
    margin = min(radius + 1, SIZE / 2 - 1)
    center = random.uniform(margin, SIZE - margin, 2)
    outlined = radius >= SMALLEST_OUTLINED and random.random() < 0.3
    turn = math.pi if scene.shape in ("triangle", "star") else math.pi / 4 if random.random() < 0.3 else 0.25
    angle = random.uniform(-turn, turn) if random.random() < 0.6 else 0.0
    mask = Image.new("L", (SIZE * OVERSAMPLING,) * 2)
    outline = random.uniform(*OUTLINE_WIDTH) if outlined else 0
    draw_shape(ImageDraw.Draw(mask), scene.shape, center, radius, angle, 255, outline, random.uniform(*RING_WIDTH))
    if random.random() < 0.15:
        mask = mask.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2.5)))
    cover = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), "float32")[..., None] / 255
    pixels = (1 - cover) * free_background(scene, ink, random) + cover * np.asarray(ink, "float32")
    noise = 0.0 if random.random() < 0.4 else random.exponential(8)
    return np.clip(pixels + random.normal(0, min(noise, 35), pixels.shape), 0, 255).astype("uint8")
