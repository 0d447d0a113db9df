"""Any model by its name: a ConvNeXt-CLIP, a classifier or a segmentation model, in Keras or exported."""

from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras import checkpoints, clip, hub
from convnext_keras.constructors import create_model
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.export.clip import ExportedCLIP, get_or_export_clip, is_exported_clip
from convnext_keras.export.exported_model import ExportedModel, is_exported_model
from convnext_keras.export.metadata import CLASSIFIER_OUTPUTS, output_names
from convnext_keras.inference import BatchRunner, pad_batch
from convnext_keras.model import ConvNeXtModel, get_problem_type
from convnext_keras.problem_types import DEFAULT_THRESHOLD, SINGLE_LABEL, to_scores
from convnext_keras.segmentation import Segmenter, is_segmentation_model


class Classifier:
    """Classifier as a function from pixels to scores, with its classes.

    Args:
        model: A classifier of this library, or an exported one.
        name: Name that clients call it by.

    Attributes:
        transform: The evaluation transform.
        classes: Each as `(identifier, name)`.
        problem_type: A key of `PROBLEM_TYPES`.
        thresholds: Score of each class above which a multi-label classifier predicts it, `(classes,)`.
        streams: Batches that may run at a time.

    Raises:
        ValueError: If the model is not a classifier.
    """

    streams = 1

    def __init__(self, model: ConvNeXtModel | ExportedModel, name: str) -> None:
        self.name, self.pretrained_info = name, model.pretrained_info
        known = self.pretrained_info
        self.transform = (known and known.transform) or ImageTransform(224)
        if isinstance(model, ExportedModel):
            kind, self.run = model.outputs[0], model
            self.problem_type = (known and known.problem_type) or SINGLE_LABEL
        else:
            kind, run = output_names(model)[0], BatchRunner(model)
            self.run = lambda pixels: run(pixels.astype("float32"), len(pixels))
            self.problem_type = get_problem_type(model)
        if kind not in CLASSIFIER_OUTPUTS:
            raise ValueError(f"{name} gives {kind}. Name a classifier, or a ConvNeXt-CLIP.")
        self.is_logits = kind == "logits"
        self.embed_dim = self.run(np.zeros((1, *self.transform.shape), "uint8")).shape[1]
        self.classes = tuple((known and known.class_names) or ((str(number),) * 2 for number in range(self.embed_dim)))
        thresholds = (known and known.thresholds) or [DEFAULT_THRESHOLD] * self.embed_dim
        self.thresholds = np.array(thresholds, "float32")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name!r}, {len(self.classes)} classes>"

    def encode_pixels(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """Returns scores `(N, classes)` of at most `batch_size` images: probabilities, or values of a regression."""
        scores = self.run(pad_batch(pixels, batch_size))[: len(pixels)]
        return to_scores(scores, self.problem_type) if self.is_logits else scores


class SegmentationPredictor:
    """Segmentation model as a function from images to label maps, with its classes.

    Args:
        model: A segmentation model of this library, or an exported one.
        name: Name that clients call it by.

    Attributes:
        segmenter: See `segmentation.Segmenter`.
        transform: The evaluation transform.
        classes: Each as `(identifier, name)`.
        streams: Images that may run at a time.
    """

    streams = 1

    def __init__(self, model: ConvNeXtModel | ExportedModel, name: str) -> None:
        self.name, self.pretrained_info = name, model.pretrained_info
        self.segmenter = Segmenter(model)
        self.transform, names = self.segmenter.transform, self.segmenter.class_names
        known = self.pretrained_info and self.pretrained_info.class_names
        self.classes = known or tuple((name, name) for name in names)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name!r}, {len(self.classes)} classes>"


Predictor = clip.DualEncoder | Classifier | SegmentationPredictor


def load_predictor(name: str, runtime: str | None = None, streams: int = 1) -> Predictor:
    """Returns a model by its name: a weight set, a `.keras` file, a repository or folder, or what `export` wrote.

    Args:
        name: Name of the model.
        runtime: Runtime for a ConvNeXt-CLIP; see `create_app`.
        streams: Number of parallel inference streams of the runtime; see `create_app`.

    Raises:
        ValueError: If there is no such model, or it cannot be run so.
    """
    if is_exported_clip(name):
        exported = ExportedCLIP(name, streams)
        if runtime not in (None, exported.format):
            raise ValueError(f"{name} was written for {exported.format}. Received: runtime={runtime!r}")
        return exported
    if streams > 1 and not runtime:
        raise ValueError(
            f"streams require a runtime (openvino or onnx) and a ConvNeXt-CLIP. Received: streams={streams}"
        )
    if is_clip_name(name):
        return ExportedCLIP(get_or_export_clip(name, runtime), streams) if runtime else clip.create_model(name)
    if runtime:
        raise ValueError(
            f"runtime requires a ConvNeXt-CLIP. Export {name} with `convnext-keras export` and serve the exported file."
        )
    model: Any = ExportedModel(name) if is_exported_model(name) else create_model(name)
    is_segmentation = model.is_segmentation if is_exported_model(name) else is_segmentation_model(model)
    return (SegmentationPredictor if is_segmentation else Classifier)(model, Path(name).name)


def is_clip_name(name: str) -> bool:
    """Returns whether a name is of a ConvNeXt-CLIP; names of both kinds, such as `"convnext_base"`, count as one."""
    if is_exported_model(name) or Path(name).suffix == ".keras":
        return False
    known = checkpoints.find_weight_set(name, checkpoints.CLIP_REGISTRY) or checkpoints.default_weight_set(
        name, checkpoints.CLIP_REGISTRY
    )
    return bool(known) or hub.is_clip_repo(name)
