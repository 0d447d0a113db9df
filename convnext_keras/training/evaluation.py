"""Evaluation of models on images with known labels."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from convnext_keras.clip.constructors import create_model as create_clip
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.clip.zero_shot import DEFAULT_TEMPLATE, ZeroShotClassifier
from convnext_keras.constructors import create_model
from convnext_keras.data.images import ImageSource
from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform as Transform
from convnext_keras.hub import is_clip_repo
from convnext_keras.inference import BatchRunner, softmax
from convnext_keras.model import get_pretrained_info, get_problem_type, has_activation
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.problem_types import DEFAULT_THRESHOLD, MULTI_LABEL, REGRESSION, SINGLE_LABEL, to_scores
from convnext_keras.training.datasets import ImageDataset, load_dataset
from convnext_keras.training.multi_label import MultiLabelEvaluation
from convnext_keras.training.regression import RegressionEvaluation
from convnext_keras.training.splits import validation_part

NUM_BINS = 15  # of confidence, as in https://arxiv.org/abs/1706.04599v2
MAX_CONFUSED = 2000  # classes, above which a summary leaves out the matrix, whose size is their square


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a model for images with known classes, and the metrics.

    Attributes:
        scores: Probabilities `(N, classes)`.
        labels: The right classes, `(N,)`.
        class_names: Class names in the order of the columns.

    Example:
        >>> result = Evaluation(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), ("cat", "dog"))
        >>> result.accuracy(), result.confusion_matrix.tolist()
        (0.5, [[1, 1], [0, 0]])
    """

    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        size = f"{len(self.labels)} images, {len(self.class_names)} classes"
        return f"<{type(self).__name__}: {size}, accuracy={self.accuracy():.4f}>"

    def accuracy(self, top_k: int = 1) -> float:
        """Returns the top-k accuracy in [0, 1]; of equal scores, the first class counts as the better one."""
        scores = np.where(np.isnan(self.scores), -np.inf, self.scores)
        right = scores[np.arange(len(self.labels)), self.labels][:, None]
        is_before = np.arange(scores.shape[1]) < self.labels[:, None]
        better = (scores > right).sum(axis=1) + ((scores == right) & is_before).sum(axis=1)
        return float(np.mean(better < top_k))

    @property
    def loss(self) -> float:
        """Returns the mean cross-entropy in nats."""
        right = self.scores[np.arange(len(self.labels)), self.labels]
        return float(-np.mean(np.log(np.maximum(right, 1e-12))))

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Returns the number of images per true class (rows) and predicted class (columns)."""
        counts = np.zeros((len(self.class_names),) * 2, int)
        np.add.at(counts, (self.labels, self.scores.argmax(axis=1)), 1)
        return counts

    @property
    def _class_counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the numbers of right predictions, of predictions and of images of each class, `(classes,)` each."""
        predicted, count = self.scores.argmax(axis=1), len(self.class_names)
        hits = np.bincount(self.labels[predicted == self.labels], minlength=count)
        return hits, np.bincount(predicted, minlength=count), np.bincount(self.labels, minlength=count)

    @property
    def class_accuracy(self) -> dict[str, float | None]:
        """Returns the accuracy 0..1 on each class; None for one without images."""
        hits, _, positives = self._class_counts
        rows = zip(self.class_names, hits.tolist(), positives.tolist(), strict=True)
        return {name: right / total if total else None for name, right, total in rows}

    @property
    def mean_class_accuracy(self) -> float:
        """Returns the mean of `class_accuracy`, which counts a rare class like a frequent one."""
        return float(np.mean([value for value in self.class_accuracy.values() if value is not None]))

    @property
    def reliability_bins(self) -> list[tuple[int, float, float]]:
        """Returns number of images, mean confidence and accuracy of each bin of confidence with images."""
        confidence, right = self.scores.max(axis=1), self.scores.argmax(axis=1) == self.labels
        bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
        members = [bins == index for index in range(NUM_BINS) if (bins == index).any()]
        return [(int(own.sum()), float(confidence[own].mean()), float(right[own].mean())) for own in members]

    @property
    def expected_calibration_error(self) -> float:
        """Returns the expected calibration error 0..1: how far confidence and accuracy are apart, in the mean."""
        total = len(self.labels)
        return sum(count * abs(confidence - right) for count, confidence, right in self.reliability_bins) / total

    @property
    def precision_recall_f1(self) -> dict[str, dict[str, float]]:
        """Returns precision, recall and F1 of each class; 0 where nothing is predicted."""
        rows = zip(self.class_names, *self._class_counts, strict=True)
        return {
            name: {
                "precision": float(hits / max(1, predicted)),
                "recall": float(hits / max(1, positives)),
                "f1": float(2 * hits / max(1, predicted + positives)),
            }
            for name, hits, predicted, positives in rows
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Returns the most important metrics, the first of all first."""
        return {"accuracy": self.accuracy()}

    def summary(self) -> dict[str, Any]:
        """Returns all metrics as plain data."""
        return {
            "num_images": len(self.labels),
            "top1_accuracy": self.accuracy(),
            "top5_accuracy": self.accuracy(min(5, len(self.class_names))),
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
            "expected_calibration_error": self.expected_calibration_error,
            "class_accuracy": self.class_accuracy,
            "class_metrics": self.precision_recall_f1,
            "class_names": [*self.class_names],
            "confusion_matrix": self.confusion_matrix.tolist() if len(self.class_names) <= MAX_CONFUSED else None,
        }


AnyEvaluation = Evaluation | MultiLabelEvaluation | RegressionEvaluation  # which have loss, metrics and summary


def evaluate(
    model: Any,
    data: Any,
    *,
    class_names: Sequence[str] | None = None,
    transform: Transform | None = None,
    size: int | None = None,
    flip: bool = False,
    batch_size: int = 32,
    on_error: str = "raise",
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    **data_options: Any,
) -> AnyEvaluation:
    """Measures a classifier, a regression, or the zero-shot classification of a ConvNeXt-CLIP, on images.

    Args:
        model: A classifier, or what `create_model` takes for one: the name of a weight set, a folder, a repository, a
            `.keras` file; or an exported one, `export.ExportedModel`. Or a ConvNeXt-CLIP, by its name, in Keras or
            exported.
        data: See `load_dataset`. Of data that is divided into training and validation, by folders `train` and `val`
            or by a column `split`, the validation part is used. Its classes are found among the model's by identifier
            or name, so that folders of ImageNet may be called `n01440764` or `tench`; they may be some of the model's.
        class_names: The classes of a model that does not know them, in the order of its outputs.
        transform: Evaluation transform; by default the model's own.
        size: Another height and width in pixels than the transform's; a larger one is often better.
        flip: Whether the scores of the mirrored images are averaged in.
        batch_size: Images at a time.
        on_error: See `load_dataset`.
        templates: Prompts of the class names for a ConvNeXt-CLIP, see `clip.ZeroShotClassifier`.
        **data_options: Other arguments of `load_dataset`, such as `label_column`.

    Returns:
        An `Evaluation`; of a multi-label classifier a `MultiLabelEvaluation`, of a regression a
        `RegressionEvaluation`.

    Raises:
        ValueError: If the classes are not the model's, the model knows no transform and none is given, or its input has
            another size.

    Example:
        >>> digits = (np.zeros((2, 8, 8, 3), "uint8"), ["zero", "one"])
        >>> evaluate("convnext_mini.digits", digits).scores.shape
        (2, 10)
    """
    if isinstance(model, str | os.PathLike) and is_clip_repo(str(model)):
        model = create_clip(str(model))
    if isinstance(model, DualEncoder):
        if class_names or transform or size or flip:
            raise ValueError("class_names, transform, size and flip are of classifiers, not of a ConvNeXt-CLIP.")
        examples = _load_validation_part(data, on_error, data_options)
        classifier = ZeroShotClassifier(model, examples.class_names, templates)
        cosines = classifier.cosine_similarity(examples.images, batch_size, exif_transpose=True)
        return Evaluation(softmax(classifier.logit_scale * cosines), examples.labels, examples.class_names)
    if isinstance(model, str | os.PathLike):
        model = create_model(model, **({"input_shape": (size, size, 3)} if size else {}))
    run: Any = model
    if isinstance(model, keras.Model):
        pretrained_info, shape = get_pretrained_info(model), model.output_shape
        problem_type = get_problem_type(model)
    else:  # an exported one
        pretrained_info = run.pretrained_info
        problem_type = (pretrained_info and pretrained_info.problem_type) or SINGLE_LABEL
        edges = (transform or (pretrained_info and pretrained_info.transform) or Transform(224)).shape
        shape = (None, *run(np.zeros((1, *edges), "float32")).shape[1:])
    name = getattr(model, "name", "The exported model")
    transform = transform or (pretrained_info and pretrained_info.transform)
    if transform is None:
        raise ValueError(f"{name!r} has no transform. Pass one, such as transform=ImageTransform(224).")
    if size:
        transform = transform._replace(size=size, resize_size=None)
    if len(shape) != 2:
        raise ValueError(f"A classifier has outputs (N, classes). Those of {name!r} are {shape}.")
    if problem_type != SINGLE_LABEL:
        data_options.setdefault("problem_type", problem_type)
    examples = _load_validation_part(data, on_error, data_options)
    if examples.problem_type != problem_type:
        raise ValueError(f"{name!r} is for {problem_type}, the labels are for {examples.problem_type}.")
    names = class_names or get_class_names(pretrained_info)
    if problem_type == REGRESSION and len(examples.class_names) == shape[-1] == 1:
        names = examples.class_names  # The only value needs no name.
    columns = _class_columns(examples.class_names, names, name, shape[-1])
    scores = predict_scores(model, examples.images, transform, batch_size, flip, problem_type)
    shown = tuple(word if isinstance(word, str) else word[1] for word in names or examples.class_names)
    if problem_type == SINGLE_LABEL:
        return Evaluation(scores, columns[examples.class_indices], shown)
    if problem_type == REGRESSION:
        return RegressionEvaluation(scores[:, columns], examples.labels, examples.class_names)
    labels = np.zeros(scores.shape, "float32")
    labels[:, columns] = examples.labels
    thresholds: Any = pretrained_info and pretrained_info.thresholds
    return MultiLabelEvaluation(scores, labels, shown, thresholds or (DEFAULT_THRESHOLD,) * scores.shape[1])


def _load_validation_part(data: Any, on_error: str, data_options: dict[str, Any]) -> ImageDataset:
    """Returns the validation part of data, or all of them; their classes may be some of the model's."""
    part = validation_part(data, on_error=on_error, **data_options)
    return part if isinstance(part, ImageDataset) else load_dataset(part, None, on_error, name="data", **data_options)


def evaluate_scores(
    scores: np.ndarray, examples: ImageDataset, thresholds: tuple[float, ...] | None = None
) -> AnyEvaluation:
    """Returns the evaluation of scores `(N, C)` in the order of the classes of a dataset."""
    if examples.problem_type == REGRESSION:
        return RegressionEvaluation(scores, examples.labels, examples.class_names)
    if examples.problem_type == MULTI_LABEL:
        chosen = (DEFAULT_THRESHOLD,) * scores.shape[1] if thresholds is None else thresholds
        return MultiLabelEvaluation(scores, examples.labels, examples.class_names, chosen)
    return Evaluation(scores, examples.class_indices, examples.class_names)


def get_class_names(pretrained_info: PretrainedInfo | None) -> tuple[tuple[str, str], ...] | None:
    """Returns the model's classes, each `(identifier, name)`; None if it does not know them."""
    return pretrained_info.class_names if pretrained_info else None


def _class_columns(given: tuple[str, ...], known: Sequence[Any] | None, model: str, count: int) -> np.ndarray:
    """Returns the column of the scores of each class of the images."""
    if known is None:
        if len(given) != count:
            raise ValueError(
                f"{model!r} has {count} classes and does not know their names, the images have {len(given)}. "
                "Give class_names, in the order of its outputs."
            )
        return np.arange(count)
    indices: dict[str, int] = {}
    for index, words in enumerate(known):
        for word in (words,) if isinstance(words, str) else words:
            indices.setdefault(word, index)
    unknown = [name for name in given if name not in indices]
    if unknown or len(known) != count:
        shown = ", ".join(unknown[:5]) or f"{len(known)} names for {count} classes"
        raise ValueError(f"Classes of the images that {model!r} does not know: {shown}.")
    return np.array([indices[name] for name in given])


def predict_scores(
    model: Any,
    images: Sequence[ImageSource],
    transform: Transform,
    batch_size: int = 32,
    flip: bool = False,
    problem_type: str = SINGLE_LABEL,
) -> np.ndarray:
    """Returns the scores of images, `(N, classes)` float32; logits of a model become probabilities."""
    is_keras, batches = isinstance(model, keras.Model), []
    run: Any = BatchRunner(model) if is_keras else lambda pixels, size: model(pixels)
    gives_scores = has_activation(model) if is_keras else model.outputs[0] in ("probabilities", "values")
    for _, pixels in iter_batches(images, transform._replace(exif_transpose=True), batch_size):
        views = [pixels, pixels[:, :, ::-1]] if flip else [pixels]
        outputs = [run(np.ascontiguousarray(view, "float32"), batch_size) for view in views]
        batches.append(np.mean([out if gives_scores else to_scores(out, problem_type) for out in outputs], axis=0))
    return np.concatenate(batches)
