"""Images a second of every variant, in one run on one backend, for the zoo page of the documentation.

KERAS_BACKEND=torch python benchmarks/benchmark_zoo.py    # into docs/results/speeds.csv; 20 minutes

Batches of 8 at the variant's own size in float32, with random weights, as `predict_on_batch` runs them: the median of
three to ten, after one that does not count.
"""

import csv
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from benchmark_report import machine

from convnext_keras import create_model
from convnext_keras.configs import CONVNEXT_CONFIGS

FILE = Path(__file__).parents[1] / "docs" / "results" / "speeds.csv"
BATCH, SECONDS = 8, 6.0  # of one variant, about


def speed(name: str, size: int) -> float:
    """Images a second."""
    model = create_model(name, weights=None, input_shape=(size, size, 3))
    pixels = np.random.default_rng(0).uniform(0, 255, (BATCH, size, size, 3)).astype("float32")
    model.predict_on_batch(pixels)
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < 10 and sum(seconds) < SECONDS):
        start = time.perf_counter()
        model.predict_on_batch(pixels)
        seconds.append(time.perf_counter() - start)
    return BATCH / statistics.median(seconds)


def main() -> None:
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("w", newline="") as stream:
        stream.write(f"# {keras.backend.backend()}, batches of {BATCH}, float32. {machine()}\n")
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["variant", "size", "images_per_second"])
        for name, variant in CONVNEXT_CONFIGS.items():
            found = speed(name, variant.input_size)
            rows.writerow([name, variant.input_size, f"{found:.2f}"])
            print(name, f"{found:.2f}", flush=True)
            stream.flush()
            keras.utils.clear_session()


if __name__ == "__main__":
    main()
