"""Measures how time and memory grow with the number of items, and fits the exponent of a power law.

    KERAS_BACKEND=torch python benchmarks/growth.py --figure growth.png

Models are fake encoders, so that only the library's own work counts. Each operation runs at several sizes in a process
of its own; the exponent is that of the largest three sizes, where constant parts weigh least. 1 is proportional.
"""

import argparse
import contextlib
import csv
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from benchmark_report import machine
from PIL import Image

WIDTH = 32  # of the fake vectors
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
LARGEST = {"weight file: tensors": 10_000, "evaluation of 100 images: classes": 30_000}  # limits of the library


def fake_encoder() -> Any:
    from convnext_keras.clip import DualEncoder
    from convnext_keras.data.transforms import ImageTransform

    class FakeEncoder(DualEncoder):
        name = "fake"
        embed_dim: Any = WIDTH
        logit_scale: Any = 100.0
        logit_bias: Any = 0.0
        transform: Any = ImageTransform(8)
        random = np.random.default_rng(0)

        def vectors(self, count: int) -> np.ndarray:
            rows = self.random.normal(size=(count, WIDTH)).astype("float32")
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        def encode_pixels(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
            return self.vectors(len(pixels))

        def encode_text(self, texts: Any, batch_size: int = 256, truncate: str = "warn") -> np.ndarray:
            return self.vectors(1 if isinstance(texts, str) else len(texts))

        def tokenizer(self, texts: Any) -> np.ndarray:
            return np.zeros((len(texts), 8), "int32")

        def fingerprint(self) -> str:
            return "0" * 64

    return FakeEncoder()


def filled_index(count: int) -> Any:
    from convnext_keras import retrieval

    model = fake_encoder()
    index = retrieval.InMemoryIndex(model)
    index._put([f"photos/{number}.jpg" for number in range(count)], model.vectors(count))
    return index


def job(count: int, folder: Path) -> Callable:
    from convnext_keras import distributed
    from convnext_keras.distributed import tasks

    Image.new("RGB", (8, 8)).save(folder / "image.png")
    with (folder / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path"], *([str(folder / "image.png")] for _ in range(count))])
    tasks.load_predictor = lambda *_: fake_encoder()
    return lambda: distributed.embed("fake", folder / "list.csv", folder / "vectors", batch_size=256)


def index_add(count: int, folder: Path) -> Callable:
    from convnext_keras import retrieval

    pixels = np.zeros((8, 8, 3), "uint8")
    return lambda: retrieval.InMemoryIndex(fake_encoder()).add([pixels] * count, map(str, range(count)), 256)


def index_search(count: int, folder: Path) -> Callable:
    index, query = filled_index(count), np.ones(WIDTH)
    return lambda: [index.search_by_vector(query) for _ in range(20)]


def index_save(count: int, folder: Path) -> Callable:
    index = filled_index(count)
    return lambda: index.save(folder / "index")


def index_load(count: int, folder: Path) -> Callable:
    from convnext_keras import retrieval

    index = filled_index(count)
    index.save(folder / "index")
    return lambda: retrieval.open_index(folder / "index", index.model)


def lance_search(count: int, folder: Path) -> Callable:
    import pyarrow

    from convnext_keras import retrieval

    model = fake_encoder()
    index = retrieval.LanceIndex(folder / "table.lance", model)
    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(model.vectors(count).ravel()), WIDTH)
    index.append([pyarrow.RecordBatch.from_pydict({"name": [*map(str, range(count))], "vector": rows})])
    index.build_vector_index(recall=0.8)
    queries = model.vectors(50)
    return lambda: [index.search_by_vector(query) for query in queries]


def captions(count: int, folder: Path) -> Callable:
    from convnext_keras import training
    from convnext_keras.data.augmentation import Augmentation
    from convnext_keras.training.image_text import pair_batches

    images = np.broadcast_to(np.uint8(0), (count, 8, 8, 3))
    model = fake_encoder()

    def first_batch() -> None:
        pairs = training.load_image_text_pairs((images, [f"caption {number}" for number in range(count)]))
        with contextlib.closing(
            pair_batches([pairs], model, Augmentation(model.transform), 64, hard_negative_ratio=0.5)
        ) as batches:
            next(batches)

    return first_batch


def zero_shot(count: int, folder: Path) -> Callable:
    from convnext_keras import clip

    labels, image = [f"label {number}" for number in range(count)], np.zeros((8, 8, 3), "uint8")
    return lambda: clip.ZeroShotClassifier(fake_encoder(), labels).predict([image] * 4)


def class_scores(count: int, folder: Path) -> Callable:
    from convnext_keras import training
    from convnext_keras.training.evaluation import evaluate_scores

    names = tuple(f"class {number}" for number in range(count))
    rng = np.random.default_rng(0)
    examples = training.ImageDataset([np.zeros((8, 8, 3), "uint8")] * 100, rng.integers(0, count, 100), names)
    scores = rng.uniform(size=(100, count)).astype("float32")
    return lambda: evaluate_scores(scores, examples).metrics


def weight_file(count: int, folder: Path) -> Callable:
    from convnext_keras.checkpoints.formats import open_weights

    path = folder / "weights.safetensors"
    safetensors.numpy.save_file({f"layer_{number}.weight": np.zeros(1, "float32") for number in range(count)}, path)

    def read() -> int:
        with open_weights(path) as reader:
            return len(reader.headers)

    return read


OPERATIONS = {
    "job: images to vectors": job,
    "index: add images": index_add,
    "index: 20 searches": index_search,
    "index: save": index_save,
    "index: load": index_load,
    "Lance index (IVF): 50 searches": lance_search,
    "captions: first batch with hard negatives": captions,
    "zero-shot: labels": zero_shot,
    "evaluation of 100 images: classes": class_scores,
    "weight file: tensors": weight_file,
}
TARGETS = {"Lance index (IVF): 50 searches": 0.6}  # others: 1.05


def measure(name: str, count: int) -> tuple[float, float]:
    """Returns the seconds of an operation, the best of three, and the most MB that Python held meanwhile."""
    seconds, megabytes = [], 0.0
    for traced in (False, False, False, True):  # tracing slows Python down, so it has a run of its own
        with tempfile.TemporaryDirectory() as folder:
            work = OPERATIONS[name](count, Path(folder))
            if traced:
                tracemalloc.start()
            start = time.perf_counter()
            work()
            if traced:
                megabytes = tracemalloc.get_traced_memory()[1] / 2**20
            else:
                seconds.append(time.perf_counter() - start)
    return min(seconds), megabytes


def exponent(sizes: list[int], values: list[float]) -> float:
    """Returns the slope of the logarithms over the largest three sizes."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(np.maximum(values[-3:], 1e-9)), 1)[0])


def plot(results: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, rows in results.items():
        sizes, seconds, _ = zip(*rows, strict=True)
        axes.loglog(sizes, seconds, marker="o", markersize=4, label=name)
    axes.set(xlabel="items", ylabel="seconds", title="Time by the number of items")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--figure", type=Path, help="picture to write")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    results: dict[str, list[tuple[int, float, float]]] = {}
    print(f"{machine()}\n\n{options.sizes[0]:,} to {options.sizes[-1]:,} items.\n")
    print("| operation | seconds at the largest size | exponent of time | exponent of memory | target |")
    print("|---|---:|---:|---:|---:|")
    for name in OPERATIONS:
        for count in (size for size in options.sizes if size <= LARGEST.get(name, size)):
            command = [sys.executable, __file__, "--one", name, str(count)]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            results.setdefault(name, []).append((count, *found))
        sizes, seconds, megabytes = (list(column) for column in zip(*results[name], strict=True))
        slopes = f"{exponent(sizes, seconds):.2f} | {exponent(sizes, megabytes):.2f}"
        print(f"| {name} | {seconds[-1]:.3f} | {slopes} | {TARGETS.get(name, 1.05)} |", flush=True)
    if options.figure:
        plot(results, options.figure)


if __name__ == "__main__":
    main()
