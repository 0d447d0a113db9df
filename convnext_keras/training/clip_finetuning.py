"""Fine-tuning a ConvNeXt-CLIP on pairs, without forgetting what it knew."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras import clip
from convnext_keras.clip.model import CLIP
from convnext_keras.surgery import average_weights, flatten_layers, merge_lora
from convnext_keras.training.batching import build_augmentation
from convnext_keras.training.checkpointing import EpochRecorder, TrainingCheckpoint
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.finetuning import check_callbacks, compile_model
from convnext_keras.training.image_text import ImageTextDataset, load_image_text_pairs, pair_batches
from convnext_keras.training.lora import enable_lora
from convnext_keras.training.presets import TrainingConfig
from convnext_keras.validation import format_choices

# Of FLYP's appendix (https://arxiv.org/abs/2212.00638v1) with clipping; a small model takes a higher rate.
CLIP_CONFIG = TrainingConfig(epochs=10, batch_size=64, learning_rate=1e-5, weight_decay=0.1, clip_norm=1.0)
LOSSES: dict[str | None, Any] = {None: clip.ContrastiveLoss, "sigmoid": clip.SigmoidContrastiveLoss}
TOWERS = {"image": "image_encoder", "text": "text_encoder"}


class ZeroShotAccuracy(keras.callbacks.Callback):
    """Callback that adds the zero-shot accuracy in [0, 1] to the logs of each epoch.

    Args:
        examples: Images with classes.
        templates: See `clip.ZeroShotClassifier`.
        name: Name of the figure in the logs and the history.

    Example:
        >>> images = [np.zeros((8, 8, 3), "uint8")] * 2
        >>> ZeroShotAccuracy(ImageDataset(images, np.array([0, 1]), ("cat", "dog"))).name
        'zero_shot_accuracy'
    """

    def __init__(self, examples: ImageDataset, templates: Any = "a photo of a {}", name: str = "zero_shot_accuracy"):
        super().__init__()
        self.examples, self.templates, self.name = examples, templates, name

    def on_epoch_end(self, epoch, logs=None):
        """Measures."""
        logs[self.name] = zero_shot_accuracy(self.model, self.examples, self.templates)


class RetrievalRecall(keras.callbacks.Callback):
    """Callback that adds the recall at 1 in [0, 1], of texts by image and images by text, to the logs of each epoch.

    Args:
        pairs: Images with texts; texts of one group count as right for each other.
        name: Name of the figure in the logs and the history.

    Example:
        >>> RetrievalRecall(load_image_text_pairs(([np.zeros((8, 8, 3), "uint8")], ["a cat"]))).name
        'recall_at_1'
    """

    def __init__(self, pairs: ImageTextDataset, name: str = "recall_at_1"):
        super().__init__()
        self.pairs, self.name = pairs, name

    def on_epoch_end(self, epoch, logs=None):
        """Measures."""
        logs[self.name] = self.evaluate(self.model)

    def evaluate(self, model: CLIP | Any) -> float:
        """Returns the figure of a ConvNeXt-CLIP, 0..1."""
        images = model.encode_image(self.pairs.images, exif_transpose=True)
        texts = model.encode_text([row[0] for row in self.pairs.texts])
        groups = self.pairs.groups
        nearest = [groups[nearest_indices(*sides)] == groups for sides in ((images, texts), (texts, images))]
        return float(np.mean(nearest))


def nearest_indices(queries: np.ndarray, rows: np.ndarray, block: int = 1024) -> np.ndarray:
    """Returns the index of the nearest row of `(M, D)` for each query `(N, D)`, computed in blocks."""
    starts = range(0, len(queries), block)
    return np.concatenate([(queries[start : start + block] @ rows.T).argmax(axis=1) for start in starts])


def zero_shot_accuracy(model: CLIP | Any, examples: ImageDataset, templates: Any = "a photo of a {}") -> float:
    """Returns the zero-shot accuracy in [0, 1] among the dataset's classes.

    Args:
        model: A ConvNeXt-CLIP.
        examples: Images with classes.
        templates: See `clip.ZeroShotClassifier`.

    Example:
        >>> examples = ImageDataset([np.full((64, 64, 3), (255, 0, 0), "uint8")], np.array([0]), ("red", "blue"))
        >>> zero_shot_accuracy(clip.create_model("convnext_mini.shapes"), examples, "a {} background")
        1.0
    """
    classifier = clip.ZeroShotClassifier(model, [*examples.class_names], templates)
    return float(np.mean(classifier.cosine_similarity(examples.images).argmax(axis=1) == examples.labels))


def fine_tune_clip(
    model: CLIP,
    data: Any,
    config: TrainingConfig = CLIP_CONFIG,
    *,
    replay_data: Any = (),
    freeze_tower: str | None = None,
    hard_negative_ratio: float = 0.5,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> CLIP:
    """Fine-tunes a ConvNeXt-CLIP on image-text pairs, with limited forgetting.

    Batches come from the new pairs and from each replayed set in turn. Half of each batch are hard negatives: pairs
    with similar texts. `select_interpolation` averages the new model with the old one.

    Args:
        model: Model to start from; it stays as it is.
        data: The new pairs, see `load_image_text_pairs`; `class_prompts(examples)` makes them of images with classes.
        config: Training config; `loss` is None for the softmax loss, or `"sigmoid"` for a model with a logit bias. Its
            fields of augmentation, optimizer, duration and `lora_rank` apply. With
            `accumulation_steps`, batches are larger by this factor and encoded in parts, see `CLIP.micro_batches`.
        replay_data: Pairs, or several sets of pairs, from the original domain, replayed to limit forgetting.
        freeze_tower: `"image"` or `"text"`, the tower that keeps its weights ("LiT",
            https://arxiv.org/abs/2111.07991v3).
        hard_negative_ratio: See `pair_batches`.
        seed: Random seed.
        state: Folder that keeps the state and `history.csv` after each epoch, so that an interrupted training goes on
            from there.
        callbacks: Callbacks of Keras, such as `ZeroShotAccuracy`. What they add to the logs is part of the history.
        verbose: Verbosity of `fit`.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> from convnext_keras import clip, training
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> images = [np.full((64, 64, 3), color, "uint8") for color in ((250, 150, 200), (90, 220, 230))]
        >>> config = training.TrainingConfig(epochs=1, batch_size=2, learning_rate=1e-3)
        >>> tuned = training.fine_tune_clip(model, (images, ["a pink background", "a cyan background"]), config)
        >>> tuned.embed_dim == model.embed_dim
        True
    """
    if freeze_tower not in (None, *TOWERS):
        raise ValueError(f"freeze_tower must be None, 'image' or 'text'. Received: freeze_tower={freeze_tower!r}")
    if not 0 <= hard_negative_ratio <= 1:
        raise ValueError(f"hard_negative_ratio must be 0 to 1. Received: hard_negative_ratio={hard_negative_ratio!r}")
    if config.loss not in LOSSES:
        raise ValueError(f"loss must be {format_choices(LOSSES)} for a ConvNeXt-CLIP. Received: loss={config.loss!r}")
    if config.loss == "sigmoid" and not model.get_layer("similarity").use_bias:
        raise ValueError("loss='sigmoid' needs a model with a logit bias. Use loss=None.")
    check_callbacks(callbacks)
    keras.utils.set_random_seed(seed)
    others = (
        [replay_data]
        if isinstance(replay_data, ImageTextDataset)
        else [load_image_text_pairs(part) for part in replay_data]
    )
    sources = [load_image_text_pairs(data), *others]
    tuned: Any = average_weights([model])
    if config.lora_rank:
        enable_lora(tuned, config.lora_rank)
    frozen = [layer for layer in flatten_layers(tuned) if not layer.trainable]  # by the caller
    if freeze_tower:
        getattr(tuned, TOWERS[freeze_tower]).trainable = False
    tuned.micro_batches = config.accumulation_steps
    size = min(config.batch_size, max(1, len(sources[0]) // tuned.micro_batches)) * tuned.micro_batches
    steps = max(1, len(sources[0]) // size) * len(sources)
    epochs = max(config.epochs, -(-config.min_steps // steps))
    compile_model(tuned, dataclasses.replace(config, accumulation_steps=1), epochs * steps, LOSSES[config.loss]())
    settings = {
        "pairs": _digest(sources),
        "config": vars(config),
        "freeze_tower": freeze_tower,
        "hard_negative_ratio": hard_negative_ratio,
        "seed": seed,
    }
    progress = TrainingCheckpoint(None if state is None else Path(state), {**settings, "start": model.fingerprint()})
    initial_epoch = progress.resume(tuned)
    augmentation = build_augmentation(config, model.transform)
    batches: Any = pair_batches(sources, model, augmentation, size, hard_negative_ratio, seed, initial_epoch * steps)
    options: Any = {"callbacks": [*callbacks, EpochRecorder(progress)], "shuffle": False, "verbose": verbose}
    try:
        if initial_epoch < epochs:
            tuned.fit(batches, steps_per_epoch=steps, initial_epoch=initial_epoch, epochs=epochs, **options)
    finally:
        batches.close()
    tuned.micro_batches = 1
    for tower in TOWERS.values():
        getattr(tuned, tower).trainable = True
    for layer in frozen:
        layer.trainable = False
    merged: Any = merge_lora(tuned)
    return merged


def _digest(sources: Sequence[ImageTextDataset]) -> str:
    """Returns the SHA-256 of the texts and groups of all pairs."""
    rows = [[*zip(pairs.texts, pairs.groups.tolist(), strict=True)] for pairs in sources]
    return hashlib.sha256(repr(rows).encode(errors="surrogatepass")).hexdigest()


@dataclasses.dataclass(frozen=True)
class InterpolationResult:
    """Result of `select_interpolation`.

    Attributes:
        model: The average that was chosen.
        weight: Weight of the tuned model in it, 0..1.
        metrics: Each weight that was tried, with the figures of the new and of the old data, 0..1.
    """

    model: CLIP
    weight: float
    metrics: list[tuple[float, float, float]]


def select_interpolation(
    before: CLIP,
    tuned: CLIP,
    new: ImageDataset | ImageTextDataset,
    old: ImageDataset | ImageTextDataset,
    weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    templates: Any = "a photo of a {}",
) -> InterpolationResult:
    """Returns the average of a model before and after fine-tuning that is best on new and old data together.

    "Robust fine-tuning of zero-shot models" (https://arxiv.org/abs/2109.01903v3), its weight chosen by the mean of two
    figures, the zero-shot accuracy of images with classes or the recall at 1 of pairs; the larger weight, where two are
    equal.

    Args:
        before: The model before fine-tuning.
        tuned: The same after it.
        new: Validation images, or pairs, of what was learned.
        old: Validation images, or pairs, of what was known.
        weights: Weights of the tuned model, that are tried.
        templates: See `clip.ZeroShotClassifier`.

    Example:
        >>> from convnext_keras import clip
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> pixels = [np.full((64, 64, 3), level, "uint8") for level in (0, 255)]
        >>> images = ImageDataset(pixels, np.arange(2), ("black", "white"))
        >>> select_interpolation(model, model, images, images, weights=(0.0, 1.0)).weight
        1.0
    """
    measured = []
    for weight in weights:
        mixed = clip.interpolate_weights(before, tuned, weight)
        measured.append((weight, *(_accuracy_or_recall(mixed, part, templates) for part in (new, old))))
    best = max(measured, key=lambda row: (row[1] + row[2], row[0]))[0]
    return InterpolationResult(clip.interpolate_weights(before, tuned, best), best, measured)


def _accuracy_or_recall(model: CLIP, data: ImageDataset | ImageTextDataset, templates: Any) -> float:
    """Returns the zero-shot accuracy of images with classes, or the recall at 1 of pairs."""
    if isinstance(data, ImageTextDataset):
        return RetrievalRecall(data).evaluate(model)
    return zero_shot_accuracy(model, data, templates)
