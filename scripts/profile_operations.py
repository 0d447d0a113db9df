"""Where the time of `predict` goes: each kind of operation is left out in turn, and what that saves is its share.

    python scripts/profile_operations.py --write    # into BENCHMARKS.md, with a picture; five minutes

A model without an operation computes something else, in the same shapes. What remains of it is compared with the time
that its matrix products would take at the machine's own limit (`benchmark.py`'s); the rest is what they take beyond
that, residual sums, copies and Python. The variants of one backend take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmark import GIGA, answer, limit_of, started
from benchmark_report import BENCHMARKS, machine, write_section
from benchmark_worker import Contender, Task

PICTURE = BENCHMARKS.with_name("PROFILE.png")
BACKENDS = ("tensorflow", "jax", "torch")
OPERATIONS = ("depthwise", "norm", "GELU", "layer scale")
COLOURS = {"products at the limit": "tab:blue", "depthwise": "tab:orange", "norm": "tab:green", "GELU": "tab:red"}
COLOURS |= {"layer scale": "tab:purple", "rest": "tab:gray"}


def leave_out(operation: str) -> None:
    """Makes an operation nothing, in this process."""
    import keras

    from convnext_keras import kernels, layers

    if operation == "depthwise":
        kernels.depthwise = lambda inputs, kernel, bias, dilation_rate: inputs
    elif operation == "norm":
        layers.LayerNormalization.call = lambda self, inputs: inputs
    elif operation == "layer scale":
        layers.LayerScale.call = lambda self, inputs: inputs
    elif operation == "GELU":
        dense: Any = kernels.dense
        kernels.dense = lambda inputs, kernel, bias, activation: dense(inputs, kernel, bias, keras.activations.linear)


def work(operation: str, batch: int) -> None:
    """A process that runs the model without an operation once for each line that it is sent."""
    import numpy as np

    from convnext_keras import ConvNeXtTiny, keep_memory

    keep_memory()
    leave_out(operation)
    model = ConvNeXtTiny(weights=None)
    pixels = np.random.default_rng(0).uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    for _ in range(3):
        model.predict(pixels, verbose=0)
    print("[0, 0]", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        model.predict(pixels, verbose=0)
        print(json.dumps([time.perf_counter() - start, 0]), flush=True)


def measure(backend: str, batch: int, rounds: int, options) -> dict[str, float]:
    """Milliseconds of a batch by part."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    processes = {
        name: subprocess.Popen([sys.executable, __file__, "--work", name, str(batch)], env=environment, **pipes)
        for name in ("", *OPERATIONS)
    }
    limit = Contender("limit", "torch")
    processes["limit"] = started(limit, Task("tiny", "predict", batch), options)
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    try:
        for process in processes.values():
            answer(process)
        for _ in range(rounds):
            for name, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                seconds[name].append(answer(process)[0])
    finally:
        for process in processes.values():
            process.kill()
    rate = limit_of({limit: {"seconds": seconds["limit"]}}, "float32") or 0
    whole = 1000 * statistics.median(seconds[""])
    parts = {"products at the limit": 1000 * batch * GIGA["tiny"] / rate}
    for name in OPERATIONS:
        saved = statistics.median(all_ - less for all_, less in zip(seconds[""], seconds[name], strict=True))
        parts[name] = max(0.0, 1000 * saved)
    return {**parts, "rest": max(0.0, whole - sum(parts.values())), "whole": whole}


def plot(found: dict[str, dict[str, float]]) -> None:
    """One bar a backend and batch, in parts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(found) + 1.4))
    left = dict.fromkeys(found, 0.0)
    for part, colour in COLOURS.items():
        widths = [100 * row[part] / row["whole"] for row in found.values()]
        axes.barh([*found], widths, left=[*left.values()], color=colour, label=part)
        left = {name: left[name] + width for name, width in zip(found, widths, strict=True)}
    axes.set_xlabel("% of the time of predict, ConvNeXt-Tiny, 224 x 224, float32")
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.86))
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md, and the picture beside")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], int(options.work[1]))
        return
    options.gpu, options.peers = False, None
    found = {}
    for batch in (8, 1):
        for backend in BACKENDS:
            found[f"{backend}, batch {batch}"] = measure(backend, batch, options.rounds, options)
            print(found, flush=True)
    heads = [*COLOURS, "whole"]
    lines = [machine(), "", f"| ms of a batch | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    lines += [f"| {name} | {' | '.join(f'{row[part]:.1f}' for part in heads)} |" for name, row in found.items()]
    print("\n".join(lines))
    if options.write:
        write_section("profile", lines)
        plot(found)


if __name__ == "__main__":
    main()
