"""Seconds from the command to the first result, `convnext-keras classify` with the bundled model, in new processes.

    python benchmarks/benchmark_start.py --before OLDER_CHECKOUT --write    # into docs/benchmarks.md; two minutes

`--before` is another checkout of this repository, whose command is run in the same environment and takes turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_report import machine, write_section
from PIL import Image

BACKENDS = ("tensorflow", "jax", "torch", "openvino")
COMMAND = Path(sys.executable).with_name("convnext-keras")


def seconds(backend: str, image: Path, cache: Path, checkout: str | None) -> float:
    """Returns the time of one process, which must succeed."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "CONVNEXT_KERAS_CACHE": str(cache)}
    if checkout:
        environment["PYTHONPATH"] = checkout
    words = [COMMAND, "classify", image, "--weights", "convnext_mini.digits"]
    start = time.perf_counter()
    subprocess.run(words, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", help="an older checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    from convnext_keras import samples

    lines = [machine(), "", "| backend | before, s | now, s | again, s | now of before |", "|---|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "digit.png"
        Image.fromarray(samples.load_digits()[0][0]).save(image)
        for backend in BACKENDS:
            rows = []
            for turn in range(options.rounds):
                new, old = Path(folder) / f"{backend} {turn}", Path(folder) / f"{backend} {turn} before"
                before = seconds(backend, image, old, options.before) if options.before else float("nan")
                rows.append((before, seconds(backend, image, new, None), seconds(backend, image, new, None)))
            middle = [statistics.median(column) for column in zip(*rows, strict=True)]
            share = statistics.median(now / before for before, now, _ in rows)
            lines.append(f"| {backend} | {' | '.join(f'{value:.1f}' for value in middle)} | {share:.2f} |")
            print(lines[-1], flush=True)
    if options.write:
        write_section("start", lines)


if __name__ == "__main__":
    main()
