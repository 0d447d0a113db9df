"""Heat maps of images, and sheets of what channels answer to."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from convnext_keras import backend
from convnext_keras.clip import CLIP
from convnext_keras.contact_sheet import contact_sheet
from convnext_keras.data.images import ImageSource
from convnext_keras.data.loader import as_image_list
from convnext_keras.explain.cam import HeatMap, grad_cam, layer_cam, occlusion
from convnext_keras.explain.targets import ClassTarget, TextTarget, get_transform
from convnext_keras.feature_extraction import feature_extractor, split_at_stage
from convnext_keras.inference import BatchRunner

METHODS = ("grad_cam", "layer_cam", "occlusion")
MIN_MAP_SIZE = 7  # of height and width, that the chosen stage has at least: those of the last one at 224 pixels


def explain_images(
    model: keras.Model,
    images: Any,
    target: int | str | None = None,
    *,
    method: str = "grad_cam",
    stage: int | None = None,
    grid_size: int = 8,
) -> list[HeatMap]:
    """Computes which regions of images influence a class or a text.

    Args:
        model: A classifier, also one built on a backbone; or a `clip.CLIP`.
        images: What `clip.CLIP.encode_image` takes.
        target: A class by its number, name or identifier; None for each image's best. Of a ConvNeXt-CLIP, a text.
        method: `"grad_cam"`, or `"occlusion"`, which needs no gradients but `cells` x `cells` runs of the model.
        stage: Stage of the methods with gradients, whose output is weighed, 0 to 3: the last is the most telling and
            the coarsest. None for the last whose map has 7 cells in height and width, as at 224 pixels the very last
            has.
        grid_size: Grid size of occlusion, parts of the image's height and width.

    Returns:
        A map for each image.

    Raises:
        ValueError: If there is no such class, the method is not valid, or the backend has no gradients.

    Example:
        >>> from convnext_keras import clip, explain
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> image = np.zeros((64, 64, 3), "uint8")
        >>> explain.explain_images(model, image, "a red circle", method="occlusion", grid_size=4)[0].values.shape
        (4, 4)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}. Received: method={method!r}")
    explained = TextTarget(model, target) if isinstance(model, CLIP) else ClassTarget(model, target)
    pixels = np.stack([explained.transform._replace(exif_transpose=True)(image) for image in as_image_list(images)])
    before, after = split_at_stage(explained.model, _default_stage(explained.model) if stage is None else stage)
    after = explained.adapt_head(after)
    run, features = BatchRunner(keras.Model(before.input, after(before.output))), _run(before, pixels)
    outputs = _run(after, features)
    targets = explained.resolve_targets(outputs)
    if method == "occlusion":
        maps = []
        for image, target in zip(pixels, targets, strict=True):

            def score(batch: np.ndarray, target: Any = target) -> np.ndarray:
                return explained.scores(run(_prepare_inputs(batch), len(batch)), np.full(len(batch), target))

            maps.append(occlusion(score, image, grid_size))
        values = np.stack(maps)
    else:
        weigh = {"grad_cam": grad_cam, "layer_cam": layer_cam}[method]
        values = weigh(features, gradients(after, features, lambda rows: explained.score_tensor(rows, targets)))
    results = explained.format_results(outputs, targets)
    shown = [explained.transform.order_channels(image) for image in pixels]
    return [HeatMap(*row, *words) for row, words in zip(zip(values, shown, strict=True), results, strict=True)]


def gradients(model: keras.Model, features: np.ndarray, score: Callable[[Any], Any]) -> np.ndarray:
    """Returns gradients of each row's score by its features.

    Raises:
        ValueError: If the backend has no gradients.
    """
    if backend.gradient is None:
        raise ValueError(
            f"{keras.backend.backend()} has no gradients. Use method='occlusion', or another KERAS_BACKEND."
        )
    return backend.gradient(lambda rows: ops.sum(score(model(rows))), features)


def plot_feature_maps(model: keras.Model, image: ImageSource, stage: int = 0, channels: int = 24) -> Image.Image:
    """Returns a sheet of the channels of a stage that an image excites most, as gray images, with the image first.

    Args:
        model: A classifier, a backbone or an image tower.
        image: A path, a PIL image or an array.
        stage: 0 to 3.
        channels: Number of them.

    Example:
        >>> from convnext_keras import create_model, explain
        >>> model = create_model("convnext_mini.digits")
        >>> explain.plot_feature_maps(model, np.zeros((32, 32, 3), "uint8"), channels=11).size
        (744, 284)
    """
    encoder = model.image_encoder if isinstance(model, CLIP) else model
    pixels = get_transform(model)(image)
    (features,) = _run(split_at_stage(encoder, stage)[0], pixels[None])
    order = np.argsort(-features.std(axis=(0, 1)))[:channels]
    cells: list[tuple] = [(pixels, "image", "black")]
    for channel in order:
        values = features[..., channel]
        levels = 255 * (values - values.min()) / max(np.ptp(values), 1e-12)
        cells.append((levels.astype("uint8"), f"channel {channel}", "black"))
    return contact_sheet([cells[start : start + 6] for start in range(0, len(cells), 6)], cell_size=120)


def _run(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Returns outputs in float32 on every backend, of images or of features."""
    return BatchRunner(model)(_prepare_inputs(inputs) if inputs.dtype == np.uint8 else inputs, len(inputs))


def _prepare_inputs(pixels: np.ndarray) -> np.ndarray:
    """Returns images `(N, H, W, 3)` as models take them."""
    is_first = keras.config.image_data_format() == "channels_first"
    return (pixels.transpose(0, 3, 1, 2) if is_first else pixels).astype("float32")


def _default_stage(model: keras.Model) -> int:
    """Returns the last stage with `MIN_MAP_SIZE` in height and width; the first if none has."""
    shapes = feature_extractor(model).output_shape
    return max(
        [stage for stage, (_, *size, _) in enumerate(shapes) if None not in size and min(size) >= MIN_MAP_SIZE],
        default=0,
    )
