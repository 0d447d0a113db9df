"""Looking inside: where in a picture a model sees a class or a text, and what its channels answer to.

Grad-CAM (https://arxiv.org/abs/1610.02391v4) weighs the channels of a stage by the gradient of what is asked for;
occlusion (https://arxiv.org/abs/1311.2901v3) covers one part of the picture after another and looks at what is lost,
without gradients. Neither says why a model decides as it does; both show where to look.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from convnext_keras import kernels
from convnext_keras.batches import pictures_of
from convnext_keras.clip import CLIP
from convnext_keras.clip.embedder import softmax, unit
from convnext_keras.features import functional, rebuilt, split_at_stage
from convnext_keras.labels import class_names
from convnext_keras.preprocessing import Picture, Recipe
from convnext_keras.provenance import provenance_of
from convnext_keras.sheets import sheet_of

__all__ = ["METHODS", "HeatMap", "feature_sheet", "grad_cam", "heat_maps", "occlusion"]

METHODS = ("grad_cam", "occlusion")
LAST_STAGE = 3
STRENGTH = 0.65  # of the colour over the picture, where the map is 1
# From nothing to much: dark blue, magenta, orange, yellow, as light as they are much.
COLOURS = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], "float32")
COVER = 128  # the level of grey that occlusion covers with


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Where a model sees something.

    Attributes:
        values: `(h, w)` float32, 0..1 with 1 at the peak; all 0 if it sees it nowhere.
        pixels: `(H, W, 3)` uint8, the picture as the model sees it, resized and cropped.
        name: of the class, or the text.
        score: probability of the class, or cosine with the text.
    """

    values: np.ndarray
    pixels: np.ndarray
    name: str
    score: float

    def resized(self) -> np.ndarray:
        """The values at the picture's size, `(H, W)` float32, by bilinear interpolation."""
        height, width = self.pixels.shape[:2]
        values = Image.fromarray(self.values.astype("float32"))
        return np.asarray(values.resize((width, height), Image.Resampling.BILINEAR))

    def over(self) -> Image.Image:
        """The map in colours over the picture."""
        values = self.resized()[..., None]
        places = np.linspace(0, 1, len(COLOURS))
        colour = np.stack([np.interp(values[..., 0], places, COLOURS[:, channel]) for channel in range(3)], axis=-1)
        mixed = (1 - STRENGTH * values) * self.pixels + STRENGTH * values * colour
        return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype("uint8"))


def heat_maps(
    model: keras.Model,
    pictures: Any,
    target: int | str | None = None,
    *,
    method: str = "grad_cam",
    stage: int = LAST_STAGE,
    cells: int = 8,
) -> list[HeatMap]:
    """Where in pictures a model sees a class or a text.

    Args:
        model: a classifier, also one built on a backbone; or a `clip.CLIP`.
        pictures: what `clip.CLIP.encode_image` takes.
        target: a class by its number, name or identifier; None for each picture's best. Of a ConvNeXt-CLIP, a text.
        method: `"grad_cam"`, or `"occlusion"`, which needs no gradients but `cells` x `cells` runs of the model.
        stage: of Grad-CAM, whose output is weighed, 0 to 3: the last is the most telling and the coarsest.
        cells: of occlusion, parts of the picture's height and width.

    Returns:
        A map for each picture.

    Raises:
        ValueError: if there is no such class, the method is not valid, or the backend has no gradients.

    Example:
        >>> from convnext_keras import clip, explain
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> picture = np.zeros((64, 64, 3), "uint8")
        >>> explain.heat_maps(model, picture, "a red circle", method="occlusion", cells=4)[0].values.shape
        (4, 4)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}. Received: method={method!r}")
    asked = _Text(model, target) if isinstance(model, CLIP) else _Class(model, target)
    pixels = np.stack([asked.recipe(picture) for picture in pictures_of(pictures)])
    outputs = run(asked.model, pixels)
    targets = asked.targets(outputs)
    if method == "occlusion":
        values = occlusion(lambda covered: asked.scores(run(asked.model, covered), targets), pixels, cells)
    else:
        before, after = split_at_stage(asked.model, stage)
        features = run(before, pixels)
        values = grad_cam(features, gradients(after, features, lambda rows: asked.scores(rows, targets)))
    told = asked.told(outputs, targets)
    return [HeatMap(*row, *words) for row, words in zip(zip(values, pixels, strict=True), told, strict=True)]


def grad_cam(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The formula: channels weighed by the mean of their gradients, summed, what is positive, the peak at 1.

    Args:
        features: of a stage, `(N, h, w, C)`.
        gradients: of what is asked for, by the features.

    Returns:
        `(N, h, w)`, 0..1.
    """
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return _to_one(np.maximum((weights * features).sum(axis=-1), 0))


def occlusion(score: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, cells: int) -> np.ndarray:
    """How much each part of a picture matters: the score as it is, less the score with the part covered.

    Args:
        score: of pictures `(N, H, W, 3)` uint8, one number each.
        pixels: the pictures.
        cells: parts of the height and the width.

    Returns:
        `(N, cells, cells)`, 0..1; parts without which the score is higher are 0.
    """
    height, width = pixels.shape[1:3]
    if not 2 <= cells <= min(height, width):
        raise ValueError(f"cells must be 2 to {min(height, width)}. Received: cells={cells}")
    whole, lost = score(pixels), np.zeros((len(pixels), cells, cells), "float32")
    rows, columns = (np.linspace(0, size, cells + 1).round().astype(int) for size in (height, width))
    for row in range(cells):
        for column in range(cells):
            covered = pixels.copy()
            covered[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = COVER
            lost[:, row, column] = whole - score(covered)
    return _to_one(np.maximum(lost, 0))


def gradients(model: keras.Model, features: np.ndarray, score: Callable[[Any], Any]) -> np.ndarray:
    """Gradients of each row's score by its features.

    Raises:
        ValueError: if the backend has no gradients.
    """
    if kernels.gradient is None:
        raise ValueError(
            f"{keras.backend.backend()} has no gradients. Use method='occlusion', or another KERAS_BACKEND."
        )
    return kernels.gradient(lambda rows: ops.sum(score(model(rows))), features)


def feature_sheet(model: keras.Model, picture: Picture, stage: int = 0, channels: int = 24) -> Image.Image:
    """A sheet of the channels of a stage that a picture excites most, as grey pictures, with the picture first.

    Args:
        model: a classifier, a backbone or an image tower.
        picture: a path, a PIL image or an array.
        stage: 0 to 3.
        channels: how many.

    Example:
        >>> from convnext_keras import create_model, explain
        >>> model = create_model("convnext_mini.digits")
        >>> explain.feature_sheet(model, np.zeros((32, 32, 3), "uint8"), channels=11).size
        (744, 284)
    """
    encoder = model.image_encoder if isinstance(model, CLIP) else model
    pixels = _recipe_of(model)(picture)
    (features,) = run(split_at_stage(encoder, stage)[0], pixels[None])
    order = np.argsort(-features.std(axis=(0, 1)))[:channels]
    cells: list[tuple] = [(pixels, "picture", "black")]
    for channel in order:
        values = features[..., channel]
        levels = 255 * (values - values.min()) / max(np.ptp(values), 1e-12)
        cells.append((levels.astype("uint8"), f"channel {channel}", "black"))
    return sheet_of([cells[start : start + 6] for start in range(0, len(cells), 6)], cell=120)


def run(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """A direct call, in float32 on every backend, of pictures `(N, H, W, 3)`."""
    if keras.config.image_data_format() == "channels_first":
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.asarray(ops.convert_to_numpy(model(pixels.astype("float32"))))


def _recipe_of(model: keras.Model) -> Recipe:
    """The transform of a model; of one without, to its size."""
    if isinstance(model, CLIP):
        return model.recipe
    known, shape = provenance_of(model), model.input_shape
    if known and known.recipe:
        return known.recipe
    return Recipe(shape[1] if shape[1] == shape[2] and shape[1] else 224)


def _to_one(values: np.ndarray) -> np.ndarray:
    """Maps `(N, h, w)` divided by their peaks."""
    peaks = values.max(axis=(1, 2), keepdims=True)
    return (values / np.where(peaks > 0, peaks, 1)).astype("float32")


class _Text:
    """What is asked of a ConvNeXt-CLIP: the cosine with a text."""

    def __init__(self, model: CLIP, text: Any) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"target of a ConvNeXt-CLIP must be a text. Received: target={text!r}")
        self.model, self.recipe, self.text = model.image_encoder, model.recipe, text
        (self.vector,) = model.encode_text(text)

    def targets(self, outputs: np.ndarray) -> np.ndarray:
        return np.zeros(len(outputs), int)

    def scores(self, outputs: Any, targets: np.ndarray) -> Any:
        if isinstance(outputs, np.ndarray):
            return unit(outputs) @ self.vector
        return ops.sum(ops.normalize(outputs, axis=-1) * self.vector, axis=-1)

    def told(self, outputs: np.ndarray, targets: np.ndarray) -> list[tuple[str, float]]:
        return [(self.text, float(cosine)) for cosine in self.scores(outputs, targets)]


class _Class:
    """What is asked of a classifier: the logit of a class."""

    def __init__(self, model: keras.Model, target: Any) -> None:
        self.model, self.recipe = with_logits(model), _recipe_of(model)
        if len(self.model.output_shape) != 2:
            raise ValueError(f"{model.name!r} has no classes. Give a classifier or a ConvNeXt-CLIP.")
        known = provenance_of(model)
        labels = known.labels if known else None
        named: Sequence[tuple[str, str]] = (class_names(labels) if isinstance(labels, str) else labels) or ()
        count = self.model.output_shape[-1]
        self.names = [name for _, name in named] if len(named) == count else [str(number) for number in range(count)]
        self.target = None if target is None else self._numbered(target, named, count)

    def _numbered(self, target: Any, named: Sequence[tuple[str, str]], count: int) -> int:
        for column in (self.names, [identifier for identifier, _ in named]):
            if target in column:
                return column.index(target)
        if isinstance(target, int) and 0 <= target < count:
            return target
        raise ValueError(f"target must be a class: a name, or 0 to {count - 1}. Received: target={target!r}")

    def targets(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.argmax(axis=1) if self.target is None else np.full(len(outputs), self.target)

    def scores(self, outputs: Any, targets: np.ndarray) -> Any:
        one_hot = np.eye(outputs.shape[-1], dtype="float32")[targets]
        return (outputs * one_hot).sum(axis=1) if isinstance(outputs, np.ndarray) else ops.sum(outputs * one_hot, 1)

    def told(self, outputs: np.ndarray, targets: np.ndarray) -> list[tuple[str, float]]:
        rows = zip(softmax(outputs), targets, strict=True)
        return [(self.names[target], float(row[target])) for row, target in rows]


def with_logits(model: keras.Model) -> keras.Model:
    """The model with its last dense layer's outputs before the activation; it shares the other layers."""
    model = functional(model)
    last: Any = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is keras.activations.linear:
        return model
    linear = type(last).from_config({**last.get_config(), "activation": "linear"})
    whole = rebuilt(
        model, lambda layer: linear if layer is last else layer, lambda layer, *args, **kwargs: layer(*args, **kwargs)
    )
    linear.set_weights(last.get_weights())
    return whole
