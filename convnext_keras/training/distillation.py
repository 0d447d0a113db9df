"""Distillation: a small model learns the outputs of a large one, also on images without labels."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras import clip
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.constructors import create_model
from convnext_keras.data.images import ImageSource
from convnext_keras.data.loader import list_images
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.export.metadata import CLASSIFIER_OUTPUTS, output_names
from convnext_keras.model import get_pretrained_info, get_problem_type
from convnext_keras.predictors import is_clip_name
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION
from convnext_keras.training.datasets import ImageDataset, load_dataset
from convnext_keras.training.evaluation import predict_scores
from convnext_keras.training.finetuning import TrainingResult, fine_tune
from convnext_keras.training.presets import TrainingConfig

EPSILON = 1e-7  # smallest probability whose logarithm is computed


def teacher_labels(
    teacher: keras.Model | DualEncoder | str,
    images: Any,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    batch_size: int = 32,
) -> ImageDataset:
    """Returns images with the outputs of a teacher as labels, computed once without augmentation.

    Args:
        teacher: A classifier, whose probabilities become soft labels (https://arxiv.org/abs/1503.02531v1); or a
            backbone with pooling, a ConvNeXt-CLIP or its image encoder, whose features become the values of a
            regression. Or the name of one.
        images: A directory of images, with or without subdirectories; a sequence of images; or see `load_dataset`.
        temperature: Divisor of the logits of a classifier, above 0. Defaults to 1.
        label_weight: Weight 0..1 of the true labels, which images of the same classes must have. Defaults to 0.
        batch_size: Number of images per batch.

    Raises:
        ValueError: If an argument is not valid, or the classes of teacher and images differ.

    Example:
        >>> from convnext_keras import create_model
        >>> images = [np.zeros((32, 32, 3), "uint8")] * 2
        >>> teacher_labels(create_model("convnext_mini.digits"), images, temperature=4).labels.shape
        (2, 10)
    """
    if temperature <= 0 or not 0 <= label_weight <= 1:
        raise ValueError(
            f"temperature must be above 0, label_weight 0 to 1. Received: {temperature!r} and {label_weight!r}"
        )
    loaded: Any = teacher
    if isinstance(teacher, str):
        loaded = clip.create_model(teacher) if is_clip_name(teacher) else create_model(teacher)
    examples = to_images(images, label_weight > 0)
    sources = examples.images if isinstance(examples, ImageDataset) else examples
    if isinstance(loaded, DualEncoder):
        return _with_values(sources, loaded.encode_image(sources, batch_size, exif_transpose=True))
    model, info = loaded, get_pretrained_info(loaded)
    transform = (info and info.transform) or ImageTransform(model.input_shape[1] or 224)
    if output_names(model)[0] not in CLASSIFIER_OUTPUTS:
        if len(model.output_shape) != 2:
            raise ValueError(f"A backbone as teacher needs pooling='avg'. {model.name!r} gives {model.output_shape}.")
        return _with_values(sources, predict_scores(model, sources, transform, batch_size, problem_type=REGRESSION))
    problem_type = get_problem_type(model)
    scores = predict_scores(model, sources, transform, batch_size, problem_type=problem_type)
    count = scores.shape[1]
    known: Any = (info and info.class_names) or tuple((str(index),) * 2 for index in range(count))
    names = tuple(name for _, name in known)
    labels = _soften(scores, problem_type, temperature)
    if label_weight:
        targets = _align(examples, known)
        labels = label_weight * targets + (1 - label_weight) * labels
    return ImageDataset(sources, labels.astype("float32"), names, problem_type=problem_type)


def to_images(images: Any, with_labels: bool = False) -> Any:
    """Returns a dataset, or a list of images without labels."""
    if isinstance(images, ImageDataset):
        return images
    if with_labels:
        return load_dataset(images)
    if isinstance(images, str | os.PathLike) and Path(images).is_dir():
        return list_images(Path(images))
    if isinstance(images, list) or (isinstance(images, np.ndarray) and images.ndim == 4):
        return [*images]
    return load_dataset(images)


def _with_values(images: Sequence[ImageSource], values: np.ndarray) -> ImageDataset:
    names = tuple(f"feature_{index}" for index in range(values.shape[1]))
    return ImageDataset(images, np.asarray(values, "float32"), names, problem_type=REGRESSION)


def _soften(scores: np.ndarray, problem_type: str, temperature: float) -> np.ndarray:
    """Returns probabilities of logits that are divided by a temperature."""
    if temperature == 1 or problem_type == REGRESSION:
        return scores
    powers = np.maximum(scores, EPSILON) ** (1 / temperature)
    if problem_type == MULTI_LABEL:
        return powers / (powers + np.maximum(1 - scores, EPSILON) ** (1 / temperature))
    return powers / powers.sum(axis=1, keepdims=True)


def _align(examples: ImageDataset, known: Sequence[tuple[str, str]]) -> np.ndarray:
    """Returns the targets of images in the order of the teacher's classes."""
    indices = {word: index for index, words in enumerate(known) for word in words}
    unknown = [name for name in examples.class_names if name not in indices]
    if unknown:
        raise ValueError(f"The teacher does not know the classes {', '.join(unknown[:5])}. Set label_weight=0.")
    targets = np.zeros((len(examples), len(known)), "float32")
    targets[:, [indices[name] for name in examples.class_names]] = examples.targets(range(len(examples)))
    return targets


def distill(
    student: keras.Model | str | os.PathLike,
    images: Any,
    teacher: keras.Model | DualEncoder | str,
    config: TrainingConfig | str | None = None,
    *,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    validation: Any = 0.2,
    **options: Any,
) -> TrainingResult:
    """Trains a student on the outputs of a teacher.

    A classifier as teacher gives a classifier with the same classes. Features of a backbone or a ConvNeXt-CLIP give a
    network with these features as outputs in the teacher's units; `reset_classifier(model, 0)` makes a backbone of it.

    Args:
        student: See `fine_tune`.
        images: See `teacher_labels`.
        teacher: See `teacher_labels`.
        config: See `fine_tune`.
        temperature: See `teacher_labels`.
        label_weight: See `teacher_labels`.
        validation: Fraction 0..1 for validation, by the teacher's outputs; or images with labels, see `load_dataset`.
        **options: Other arguments of `fine_tune`.

    Raises:
        ValueError: See `teacher_labels` and `fine_tune`.

    Example:
        >>> from convnext_keras import create_model, training
        >>> images = [np.full((32, 32, 3), level, "uint8") for level in range(0, 240, 20)]
        >>> teacher, config = create_model("convnext_mini.digits"), training.TrainingConfig(epochs=1, batch_size=4)
        >>> result = training.distill("convnext_mini", images, teacher, config, temperature=2)
        >>> result.model.pretrained_info.class_names[0]
        ('zero', 'zero')
    """
    examples = teacher_labels(teacher, images, temperature, label_weight)
    if isinstance(validation, float):
        order = np.random.default_rng(options.get("seed", 0)).permutation(len(examples))
        count = max(1, round(validation * len(examples)))
        examples, held_out = examples.select(sorted(order[count:])), examples.select(sorted(order[:count]))
    else:
        held_out = load_dataset(validation, examples.class_names, name="validation")
    return fine_tune(student, examples, config, validation=held_out, **options)
