"""Label maps of images at their own size, by one pass or by a sliding window."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image

from convnext_keras.data.images import PIL_MODES
from convnext_keras.data.loader import as_image_list
from convnext_keras.data.transforms import INTERPOLATIONS, ImageTransform
from convnext_keras.inference import BatchRunner
from convnext_keras.layer_names import parse_layer_name
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.segmentation.sliding_window import MAX_BLOCK, bilinear_taps, interpolate, mean_logits

DEFAULT_TRANSFORM = ImageTransform(512, resize_mode="squash", interpolation="bilinear")
MAX_BYTE_CLASSES = 255  # whose numbers fit into uint8 beside 255, which is ignored in masks


class SegmentationMap(NamedTuple):
    """Classes of the pixels of one image.

    Attributes:
        labels: Class of each pixel, `(H, W)`, uint8, or uint16 for more than 255 classes.
        scores: Probability 0..1 of that class, `(H, W)` float32; None if they were not computed.
        class_names: Names of the classes, by their numbers.

    Example:
        >>> SegmentationMap(np.array([[0, 1], [1, 1]], "uint8"), None, ("sky", "sea")).areas
        {'sea': 0.75, 'sky': 0.25}
    """

    labels: np.ndarray
    scores: np.ndarray | None
    class_names: tuple[str, ...]

    @property
    def areas(self) -> dict[str, float]:
        """Returns the part of the pixels 0..1 of each class name that occurs, the largest first."""
        parts: dict[str, float] = {}
        for name, count in zip(self.class_names, np.bincount(self.labels.ravel()), strict=False):
            if count:
                parts[name] = parts.get(name, 0.0) + float(count / self.labels.size)
        return dict(sorted(parts.items(), key=lambda row: -row[1]))


def segment(
    model: Any,
    images: Any,
    *,
    window_size: int | None = None,
    stride: int | None = None,
    class_names: Sequence[str] | None = None,
    transform: ImageTransform | None = None,
    with_scores: bool = True,
) -> list[SegmentationMap]:
    """Returns the classes of the pixels of images.

    The logits are resized to the size of the image before the best class is taken, as
    `post_process_semantic_segmentation` of transformers does.

    Args:
        model: A model of `create_model` or `UPerNet`, or an `export.ExportedModel`.
        images: An image or an iterable of them, see `open_image`; or an array `(N, H, W, C)`.
        window_size: None to see the image as a whole, resized to the size of the weights; or the height and width in
            pixels of windows that slide over the image at its own resolution, such as 640.
        stride: Distance of the windows in pixels; two thirds of the window if None.
        class_names: Names of the classes; by default those that the model knows, or their numbers.
        transform: Evaluation transform; by default that of the weights, or the squash to 512 x 512 pixels.
        with_scores: Whether the probabilities are computed too.

    Returns:
        One `SegmentationMap` per image, of the image's own height and width (after its EXIF orientation).

    Raises:
        ValueError: If the model is not one for segmentation, or an argument is not valid.
        ImageError: If an image cannot be read.

    Example:
        >>> from convnext_keras import create_model, segmentation
        >>> model = create_model("fpn_convnext_mini.shapes")
        >>> found = segmentation.segment(model, np.zeros((1, 80, 120, 3), "uint8"))
        >>> found[0].labels.shape, found[0].class_names[0]
        ((80, 120), 'background')
    """
    segmenter = Segmenter(model, class_names, transform)
    return [segmenter(image, window_size, stride, with_scores) for image in as_image_list(images)]


class Segmenter:
    """A segmentation model as a function from an image to its label map; the arguments are those of `segment`.

    Attributes:
        num_classes: Number of classes.
        class_names: Names of the classes.
        transform: The evaluation transform.
    """

    def __init__(
        self, model: Any, class_names: Sequence[str] | None = None, transform: ImageTransform | None = None
    ) -> None:
        info: PretrainedInfo | None = getattr(model, "pretrained_info", None)
        transform = transform or (info and info.transform) or DEFAULT_TRANSFORM
        self.transform = transform._replace(exif_transpose=True)
        if isinstance(model, keras.Model):
            self.fixed_size, count, self.gives_scores = _read_keras_model(model)
            self.run: Any = _as_function(main_output(model))
            self.run_window = self.run if self.gives_scores else _as_function(decoder_output(model))
        else:
            self.fixed_size, self.run = model.image_size, model
            if not model.is_segmentation:
                raise ValueError(f"{model!r} is not for segmentation.")
            edges = self.fixed_size or self.transform.shape[:2]
            shape = np.shape(model(np.zeros((1, *edges, self.transform.channels), "float32")))
            count, self.gives_scores, self.run_window = shape[-1], model.outputs[0] == "probabilities", model
        if self.fixed_size and self.transform.shape[:2] != self.fixed_size:
            self.transform = self.transform._replace(size=self.fixed_size, resize_size=None)
        names = tuple(class_names or [name for _, name in (info and info.class_names) or ()])
        if names and len(names) != count:
            raise ValueError(f"class_names must be {count}, one for each class. Received: {len(names)}")
        self.num_classes, self.class_names = count, names or tuple(map(str, range(count)))

    def __call__(
        self, image: Any, window_size: int | None = None, stride: int | None = None, with_scores: bool = True
    ) -> SegmentationMap:
        """Returns the label map of one image; the arguments are those of `segment`."""
        opened, (height, width) = self._open(image)
        if window_size is None:
            return self._classify(self._whole_logits(opened, (height, width)), (height, width), with_scores)
        stride = self._check_window(window_size, stride)
        pixels = _enlarge(np.asarray(opened), window_size, self.transform.interpolation)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels

        def run(top: int, left: int) -> np.ndarray:
            window = pixels[None, top : top + window_size, left : left + window_size]
            return self.run_window(np.ascontiguousarray(window))[0]

        found = self._classify(mean_logits(run, pixels.shape[:2], window_size, stride), pixels.shape[:2], with_scores)
        if pixels.shape[:2] == (height, width):
            return found
        rows, columns = (
            np.arange(edge) * length // edge for edge, length in zip((height, width), pixels.shape, strict=False)
        )
        scores = None if found.scores is None else found.scores[np.ix_(rows, columns)]
        return SegmentationMap(found.labels[np.ix_(rows, columns)], scores, self.class_names)

    def iter_logits(self, image: Any) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Yields the logits of an image that is seen as a whole, at its own size, some rows at a time.

        Yields:
            Rows and columns of a part, and its logits.
        """
        return self._whole_logits(*self._open(image))

    def _open(self, image: Any) -> tuple[Any, tuple[int, int]]:
        """Returns a decoded image, and its height and width."""
        mode = PIL_MODES.get(self.transform.channels)
        opened = self.transform.open(image, mode) if mode else np.asarray(image)
        size = opened.shape[:2] if isinstance(opened, np.ndarray) else (opened.height, opened.width)
        return opened, size

    def _whole_logits(self, opened: Any, size: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        return _resized_parts(self.run(self.transform(opened)[None])[0], size)

    def _check_window(self, window: int, stride: int | None) -> int:
        stride = max(1, window * 2 // 3) if stride is None else stride
        if not 1 <= stride <= window:
            raise ValueError(f"stride must be 1 to window_size. Received: window_size={window}, stride={stride}")
        if self.fixed_size not in (None, (window, window)):
            raise ValueError(
                f"window_size must be the size of the model, {self.fixed_size}. Received: window_size={window}. "
                "create_model(name, input_shape=(None, None, 3)) takes any size."
            )
        return stride

    def _classify(
        self, parts: Iterator[tuple[tuple[slice, slice], np.ndarray]], size: tuple[int, int], with_scores: bool
    ) -> SegmentationMap:
        """Writes the best class and its probability, for logits that come part by part."""
        labels = np.zeros(size, "uint8" if len(self.class_names) <= MAX_BYTE_CLASSES else "uint16")
        scores = np.zeros(size, "float32") if with_scores else None
        for place, logits in parts:
            labels[place] = logits.argmax(axis=-1)
            if scores is not None:
                best = logits.max(axis=-1)
                total = 1 if self.gives_scores else np.exp(logits - best[..., None]).sum(axis=-1)
                scores[place] = best if self.gives_scores else 1 / total
        return SegmentationMap(labels, scores, self.class_names)


def _resized_parts(logits: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yields logits `(h, w, C)` resized to a size, some rows at a time."""
    rows, columns = (bilinear_taps(*pair) for pair in zip(logits.shape, size, strict=False))
    step = max(1, MAX_BLOCK // (size[1] * logits.shape[2]))
    for start in range(0, size[0], step):
        part = slice(start, start + step)
        yield (part, slice(None)), interpolate(logits, rows.select(part), columns)


def _enlarge(pixels: np.ndarray, window: int, interpolation: str) -> np.ndarray:
    """Returns an image, enlarged if it is smaller than a window."""
    height, width = pixels.shape[:2]
    scale = window / min(height, width)
    if scale <= 1:
        return pixels
    size = max(window, round(width * scale)), max(window, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, INTERPOLATIONS[interpolation]))


def is_segmentation_model(model: keras.Model) -> bool:
    """Returns whether a model ends in a decoder of `UPerNet`."""
    return any(reading and reading[1].role == "decoder_classifier" for reading in _readings(model))


def _readings(model: keras.Model) -> list[Any]:
    return [parse_layer_name(layer.name) for layer in model.layers]


def _layer(model: keras.Model, role: str) -> Any:
    roles = [reading and reading[1].role for reading in _readings(model)]
    return model.layers[roles.index(role)] if role in roles else None


def _read_keras_model(model: keras.Model) -> tuple[tuple[int, int] | None, int, bool]:
    """Returns the fixed size of the images, the number of classes, and whether outputs are probabilities."""
    if not is_segmentation_model(model):
        raise ValueError(
            f"{model.name!r} is not for segmentation. Give a model of create_model or segmentation.UPerNet."
        )
    if keras.config.image_data_format() == "channels_first":
        raise ValueError("segment needs Keras' data format channels_last.")
    height, width = model.input_shape[1:3]
    size = None if None in (height, width) else (height, width)
    return size, _layer(model, "decoder_classifier").filters, _layer(model, "decoder_activation") is not None


def main_output(model: keras.Model) -> keras.Model:
    """Returns a model without the auxiliary output; the model itself if it has none."""
    return keras.Model(model.input, model.outputs[0]) if len(model.outputs) > 1 else model


def decoder_output(model: keras.Model) -> keras.Model:
    """Returns the model up to the logits before they are resized to the input's resolution."""
    return keras.Model(model.input, _layer(model, "decoder_classifier").output)


def _as_function(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    runner = BatchRunner(model)
    return lambda pixels: runner(pixels.astype("float32"), len(pixels))
