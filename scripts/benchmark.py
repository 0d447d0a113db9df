"""Measures ConvNeXt-Tiny at 224 x 224 against `keras.applications`, on every backend that is installed.

    python scripts/benchmark.py                 # prints a table
    python scripts/benchmark.py --write         # and puts it into BENCHMARKS.md

Each backend runs in its own process. In it the two libraries take turns, so that a machine that gets slower or faster
meanwhile changes both; the ratio is the median of the ratios of the turns.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "BENCHMARKS.md"
MODULES = {"tensorflow": "tensorflow_cpu", "jax": "jax", "torch": "torch", "openvino": "openvino"}
HEAD = "| backend | batch | measured | images/s | spread | keras.applications | spread | ratio |"


PREDICT, COMPILED, CALL = "predict", "predict, jit_compile=True", "call"
# OpenVINO's predict computes in bfloat16 where the processor can, its call in float32.
MODES = {"tensorflow": (PREDICT, COMPILED), "openvino": (PREDICT, CALL)}


def measure(batch: int, rounds: int, mode: str) -> dict:
    """Images per second of both libraries in this process, one figure for each round."""
    import keras
    import numpy as np

    import convnext_keras

    pixels = np.random.default_rng(0).uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    runs = {}
    for name, constructor in (("ours", convnext_keras.ConvNeXtTiny), ("keras", keras.applications.ConvNeXtTiny)):
        model = constructor(weights=None)
        if mode == COMPILED:
            model.compile(jit_compile=True)
        if mode == CALL:
            runs[name] = lambda model=model: keras.ops.convert_to_numpy(model(pixels))
        else:
            runs[name] = lambda model=model: model.predict(pixels, batch_size=batch, verbose=0)
        for _ in range(2):
            runs[name]()
    speeds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            speeds[name].append(batch / (time.perf_counter() - start))
    return speeds


def row(backend: str, batch: int, mode: str, speeds: dict) -> str:
    """One line of the table."""
    cells = [backend, str(batch), mode]
    for name in ("ours", "keras"):
        low, high = min(speeds[name]), max(speeds[name])
        cells += [f"{statistics.median(speeds[name]):.1f}", f"{low:.1f} - {high:.1f}"]
    ratio = statistics.median(ours / theirs for ours, theirs in zip(speeds["ours"], speeds["keras"], strict=True))
    return f"| {' | '.join(cells)} | {ratio:.2f} |"


def machine() -> str:
    """Processor, threads and versions, in one paragraph."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("keras", *MODULES.values()) if installed(name)
    ]
    return (
        f"{cpu}, {os.cpu_count()} processors, no GPU used; Python {platform.python_version()}, {', '.join(versions)}."
    )


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def in_own_process(backend: str, batch: int, rounds: int, mode: str) -> dict:
    arguments = ["--measure", json.dumps([batch, rounds, mode])]
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", nargs="+", choices=MODULES, default=[name for name in MODULES if installed(MODULES[name])]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    table = [HEAD, "|---|---:|---|---:|---:|---:|---:|---:|"]
    print("\n".join(table))
    for backend in options.backends:
        for batch in options.batches:
            for mode in MODES.get(backend, (PREDICT,)):
                speeds = in_own_process(backend, batch, options.rounds, mode)
                table.append(row(backend, batch, mode, speeds))
                print(table[-1], flush=True)
    print(machine())
    if options.write:
        text = BENCHMARKS.read_text()
        before, after = text.split("<!-- table -->\n")[0], text.split("<!-- end -->")[1]
        BENCHMARKS.write_text(f"{before}<!-- table -->\n{chr(10).join(table)}\n\n{machine()}\n<!-- end -->{after}")


if __name__ == "__main__":
    main()
