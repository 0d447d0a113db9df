"""Profiles `predict` and training by removing one kind of operation at a time.

    python benchmarks/profile_operations.py --write    # into docs/benchmarks.md, with an image; a quarter of an hour

A model without an operation computes something else, in the same shapes; AdamW is left out by SGD in its place. What
remains is compared with the time that the matrix products would take at the machine's own limit (`benchmark.py`'s), in
training three times those of `predict`; the rest is what they take beyond that, residual sums, copies and Python. The
variants of one backend take turns, a few at a time, since all steps together do not fit into a small memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmark import GIGA, PASSES, answer, limit_of, started
from benchmark_report import BENCHMARKS, machine, write_section
from benchmark_worker import Contender, Task

IMAGE = BENCHMARKS.with_name("images") / "profile.png"
BACKENDS = ("tensorflow", "jax", "torch")
CASES = (("predict", 8), ("predict", 1), ("train", 8))
# In groups whose processes fit into memory at once, beside that of the whole model.
OPERATIONS = {
    "predict": [("depthwise", "norm", "GELU", "layer scale")],
    "train": [("depthwise", "norm"), ("GELU", "layer scale"), ("optimizer",)],
}
COLORS = {"matmuls at the limit": "tab:blue", "depthwise": "tab:orange", "norm": "tab:green", "GELU": "tab:red"}
COLORS |= {"layer scale": "tab:purple", "optimizer": "tab:brown", "rest": "tab:gray"}


def leave_out(operation: str) -> None:
    """Makes an operation nothing, in this process."""
    import keras

    from convnext_keras import backend, layers

    if operation == "depthwise":
        backend.depthwise = lambda inputs, kernel, bias, dilation_rate: inputs
    elif operation == "norm":
        layers.LayerNormalization.call = lambda self, inputs: inputs
    elif operation == "layer scale":
        layers.LayerScale.call = lambda self, inputs: inputs
    elif operation == "GELU":
        dense: Any = backend.dense
        backend.dense = lambda inputs, kernel, bias, activation: dense(inputs, kernel, bias, keras.activations.linear)


def run_of(operation: str, action: str, batch: int) -> Callable[[], object]:
    """Returns a function that runs `predict` or a training step without an operation."""
    import numpy as np

    from convnext_keras import ConvNeXtTiny

    leave_out(operation)
    model = ConvNeXtTiny(weights=None)
    pixels = np.random.default_rng(0).uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    if action == "predict":
        return lambda: model.predict(pixels, verbose=0)
    labels = np.zeros(batch, "int32")
    model.compile("sgd" if operation == "optimizer" else "adamw", "sparse_categorical_crossentropy")
    return lambda: model.train_on_batch(pixels, labels)


def work(operation: str, action: str, batch: int) -> None:
    """A process that runs the model without an operation once for each line that it is sent."""
    from convnext_keras import reuse_allocator_memory

    reuse_allocator_memory()
    run = run_of(operation, action, batch)
    for _ in range(3):
        run()
    print("[0, 0]", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps([time.perf_counter() - start, 0]), flush=True)


def turns(names: Sequence[str], backend: str, action: str, batch: int, options) -> dict[str, list[float]]:
    """Seconds of each turn of the whole model, named "", without each of the operations, and of the limit."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    command = [sys.executable, __file__, "--work"]
    processes = {
        name: subprocess.Popen([*command, name, action, str(batch)], env=environment, **pipes) for name in ("", *names)
    }
    processes["limit"] = started(Contender("limit", "torch"), Task("tiny", "predict", batch), options)
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    try:
        for process in processes.values():
            answer(process)
        for _ in range(options.rounds):
            for name, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                seconds[name].append(answer(process)[0])
    finally:
        for process in processes.values():
            process.kill()
    return seconds


def measure(backend: str, action: str, batch: int, options) -> dict[str, float]:
    """Milliseconds of a batch by part."""
    parts, whole, of_limit = {}, [], []
    for names in OPERATIONS[action]:
        seconds = turns(names, backend, action, batch, options)
        whole += seconds[""]
        of_limit += seconds["limit"]
        for name in names:
            saved = statistics.median(full - less for full, less in zip(seconds[""], seconds[name], strict=True))
            parts[name] = max(0.0, 1000 * saved)
    rate = limit_of({Contender("limit", "torch"): {"seconds": of_limit}}, "float32") or 0
    parts["matmuls at the limit"] = 1000 * PASSES.get(action, 1) * batch * GIGA["tiny"] / rate
    milliseconds = 1000 * statistics.median(whole)
    return {**parts, "rest": max(0.0, milliseconds - sum(parts.values())), "whole": milliseconds}


def plot() -> None:
    """Draws the table of docs/benchmarks.md: one bar per backend and batch size, in parts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    section = BENCHMARKS.read_text().split("<!-- profile -->\n")[1].split("<!-- end of profile -->")[0]
    measured_on, (heads, _, *rows) = section.split(",")[0], table_rows(section)
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(rows) + 1.8), layout="constrained")
    left = [0.0] * len(rows)
    for part, color in COLORS.items():
        column = heads.index(part)
        widths = [100 * float(row[column] or 0) / float(row[-1]) for row in rows]
        axes.barh([row[0] for row in rows], widths, left=left, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("% of the time of a batch")
    axes.set_title(f"ConvNeXt-Tiny, 224 x 224, float32; 2 cores of {measured_on}", fontsize=11)
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(IMAGE, dpi=110)


def table_rows(text: str) -> list[list[str]]:
    """Returns the cells of all rows of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md, and the image beside"
    )
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        operation, action, batch = options.work
        work(operation, action, int(batch))
        return
    options.peers = None
    found = {}
    for action, batch in CASES:
        for backend in BACKENDS:
            found[f"{backend}, {action}, batch {batch}"] = measure(backend, action, batch, options)
            print(found, flush=True)
    heads = [*COLORS, "whole"]
    lines = [machine(), "", f"| ms of a batch | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for name, row in found.items():
        cells = [f"{row[part]:.1f}" if part in row else "" for part in heads]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    print("\n".join(lines))
    if options.write:
        write_section("profile", lines)
        plot()


if __name__ == "__main__":
    main()
