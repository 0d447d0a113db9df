"""Measures this library against keras.applications, timm and OpenCLIP, and against the machine's own limit.

    python benchmarks/benchmark.py predict --peers PEERS/bin/python --write  # into docs/benchmarks.md; 15 minutes
    python benchmarks/benchmark.py predict --quick  # ConvNeXt-Tiny, batch 8, fewer turns

`large` measures Base and CLIP, `call` direct calls, `train` a training step, `transform` one of fine-tuning with all
that belongs to it, `groups` one with an optimizer of 30 groups. `gpu.py` measures on a GPU.

Every contender runs in a process of its own. The contenders of one task take turns, so that a machine that gets slower
or faster meanwhile changes all of them; figures are medians of the turns, and ratios are medians of the turns' ratios.
`--peers` is the Python of an environment that has timm and OpenCLIP; peers that cannot be had are named as absent.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from benchmark_report import BENCHMARKS, machine, processor, write_section
from benchmark_worker import CHANGES, GROUPS, LIMIT_SIZE, Contender, Task

PLOT = BENCHMARKS.with_name("images") / "benchmarks.png"
# Forward passes that a step of training costs, roughly.
PASSES = {"train": 3, "transform": 3, "groups": 3}
# 10^9 multiply-adds of one image at its size, or one text of 77 tokens (model_table.py, OpenCLIP's profile).
GIGA = {"tiny": 4.46, "base": 15.35, "atto": 0.55, "tiny at 64": 0.364, "clip image": 20.05, "clip text": 4.63}

KERAS = [
    Contender(library, backend, precision, setting)
    for backend, precision, setting in (
        ("tensorflow", "float32", ""),
        ("tensorflow", "float32", "jit_compile"),
        ("jax", "float32", ""),
        ("torch", "float32", ""),
        ("openvino", "bfloat16", ""),
    )
    for library in ("ours", "keras")
]
FOLDED = [Contender("ours", backend, "float32", "folded") for backend in ("tensorflow", "jax", "torch")]
FOLDED += [Contender("ours", "openvino", "bfloat16", "folded")]
FOLDED += [Contender("ours", "openvino", precision, "exported") for precision in ("float32", "bfloat16")]
FOLDED += [Contender("ours", backend, "bfloat16") for backend in ("tensorflow", "jax", "torch")]
KEPT = [Contender(library, "torch", "float32", "kept_memory") for library in ("ours", "timm")]
KEPT += [Contender("ours", backend, "float32", "kept_memory") for backend in ("jax", "tensorflow")]
TIMM = [
    Contender("timm", "torch"),
    Contender("timm", "torch", "float32", "channels_last"),
    Contender("timm", "torch", "float32", "compiled"),
    Contender("timm", "torch", "bfloat16"),
]
LIMITS = [Contender("limit", "torch", "float32"), Contender("limit", "torch", "bfloat16")]
# What `reuse_allocator_memory` sets, for processes that may not have this library.
KEEP_MEMORY = f"glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**64 - 1}"
ON_EACH = [Contender("ours", backend) for backend in ("tensorflow", "jax", "torch", "openvino")]
TRAINED = [row for row in KERAS if row.backend != "openvino" and row.setting != "jit_compile"]


def contenders(task: Task) -> list[Contender]:
    """Who takes part in a task on this machine; OpenVINO computes in float32 where bfloat16 has no instructions."""
    rows = all_contenders(task)
    if processor()[1] != "AVX2":
        return rows
    rows = [row._replace(precision="float32") if row in OPENVINO_DEFAULT else row for row in rows]
    return [row for row in rows if row.precision == "float32"]


def all_contenders(task: Task) -> list[Contender]:
    """Who takes part in a task where every precision is at home."""
    if task.model.startswith("clip"):
        return [*ON_EACH, Contender("open_clip", "torch"), *LIMITS]
    if task.action == "train":
        rows = [row for row in (*TRAINED, *KEPT) if row.backend == task.backend and row.library != "timm"]
        return [*rows, *TIMM[:1], *LIMITS]
    if task.action == "transform":
        return [*(Contender("ours", task.backend, setting=setting) for setting in CHANGES), *TIMM[:1], *LIMITS]
    if task.action == "groups":
        return [*(Contender("ours", task.backend, setting=setting) for setting in GROUPS), *LIMITS]
    if task.action == "call":  # which OpenVINO computes in float32
        rows = [row._replace(precision="float32") for row in KERAS if row.setting == ""]
        return [*rows, TIMM[0], *LIMITS]
    if task.model in SMALL_INPUTS:
        return [*ON_EACH, TIMM[0], *LIMITS]
    if task.model == "base":  # All of Base do not fit into the memory of a small machine.
        return [*(row for row in KERAS if row.setting == ""), TIMM[0], TIMM[3], *LIMITS]
    return [*KERAS, *FOLDED, *KEPT, *TIMM, *LIMITS]


OPENVINO_DEFAULT = [row for row in (*KERAS, *FOLDED) if row.backend == "openvino" and row.setting != "exported"]
SMALL_INPUTS = {"atto": 1, "tiny at 64": 4}
PREDICT_TASKS = [
    *(Task("tiny", "predict", batch) for batch in (8, 1)),
    *(Task(model, "predict", batch) for model, batch in SMALL_INPUTS.items()),
]
LARGE_TASKS = [
    *(Task("base", "predict", batch) for batch in (8, 1)),
    *(Task(model, "predict", batch) for model in ("clip image", "clip text") for batch in (1, 8)),
]
TRAIN_TASKS = [Task("tiny", "train", 8, backend) for backend in ("tensorflow", "jax", "torch")]
GROUPS_TASKS = [task._replace(action="groups") for task in TRAIN_TASKS]
RECIPE_TASKS = [task._replace(action="transform") for task in TRAIN_TASKS]
TASKS = {
    "groups": GROUPS_TASKS,
    "transform": RECIPE_TASKS,
    "predict": PREDICT_TASKS,
    "large": LARGE_TASKS,
    "call": [Task("tiny", "call", 8)],
    "train": TRAIN_TASKS,
}


def started(contender: Contender, task: Task, options) -> subprocess.Popen:
    """A contender's process."""
    peer = contender.library in ("timm", "open_clip")
    python = options.peers if peer else sys.executable
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    backend = {"KERAS_BACKEND": contender.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    kept = {"GLIBC_TUNABLES": KEEP_MEMORY} if contender.setting == "kept_memory" else {}
    worker = str(Path(__file__).with_name("benchmark_worker.py"))
    return subprocess.Popen(
        [python, worker, json.dumps([contender, task])],
        env={**os.environ, **hidden, **backend, **kept},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def answer(process: subprocess.Popen) -> list[float]:
    """The next figures that a process prints, past anything else on its stdout."""
    for line in process.stdout or ():
        if line.startswith("["):
            return json.loads(line)
    raise ChildProcessError


def measure(task: Task, options) -> dict[Contender, dict]:
    """Seconds of each turn, start-up and peak memory of all who could take part."""
    found = {}
    try:
        for contender in contenders(task):
            if contender.library in ("timm", "open_clip") and not options.peers:
                continue
            process = started(contender, task, options)
            try:
                built, first = answer(process)
            except ChildProcessError:
                print(f"  absent: {contender.name}", flush=True)
                continue
            found[contender] = {"process": process, "built": built, "first": first, "seconds": []}
        for _ in range(options.rounds):
            for row in found.values():
                row["process"].stdin.write("go\n")
                row["process"].stdin.flush()
                seconds, row["memory"] = answer(row["process"])
                row["seconds"].append(seconds)
    finally:
        for row in found.values():
            row.pop("process").kill()
    return found


def limit_of(found: dict[Contender, dict], precision: str) -> float | None:
    """10^9 multiply-adds a second of large matrix products in the same run."""
    for contender, row in found.items():
        if contender.library == "limit" and contender.precision == precision:
            return LIMIT_SIZE**3 / 1e9 / statistics.median(row["seconds"])
    return None


def ratio(mine: dict, theirs: dict | None) -> str:
    """How many times as fast, as the median of the turns' ratios."""
    if theirs is None:
        return ""
    return f"{statistics.median(b / a for a, b in zip(mine['seconds'], theirs['seconds'], strict=True)):.2f}"


def table(task: Task, found: dict[Contender, dict]) -> list[str]:
    """One section of the report."""
    steps = PASSES.get(task.action, 1)
    peer = "OpenCLIP" if task.model.startswith("clip") else "timm eager"
    heads = ["contender", "images/s", "slowest - fastest", "x keras.applications", f"x {peer}", "% of limit"]
    lines = [f"| {' | '.join([*heads, 'start, first run', 'MB'])} |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    eager = next((row for who, row in found.items() if who in (TIMM[0], Contender("open_clip", "torch"))), None)
    for who, row in found.items():
        if who.library == "limit":
            continue
        speeds = [task.batch / seconds for seconds in row["seconds"]]
        setting = "jit_compile" if who.setting == "jit_compile" else ""
        same = found.get(who._replace(library="keras", setting=setting))
        limit = limit_of(found, who.precision)
        share = f"{100 * statistics.median(speeds) * GIGA[task.model] * steps / limit:.0f}" if limit else ""
        against = ratio(row, same) if who.library == "ours" else ""
        cells = [who.name, f"{statistics.median(speeds):.1f}", f"{min(speeds):.1f} - {max(speeds):.1f}", against]
        cells += [ratio(row, eager), share, f"{row['built']:.1f} s, {row['first']:.1f} s", f"{row['memory']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    rates = {kind: limit_of(found, kind) for kind in ("float32", "bfloat16")}
    limits = [f"{kind} {2 * rate:.0f}" for kind, rate in rates.items() if rate]
    return [*lines, "", f"Matrix limit in this run, GFLOP/s: {', '.join(limits)}."]


LIBRARIES = {
    "ours": ("convnext_keras", "tab:blue"),
    "keras": ("keras.applications", "tab:gray"),
    "timm": ("timm", "tab:orange"),
}


def plot() -> None:
    """Draws the images per second of `predict` with ConvNeXt-Tiny at batch 8 from docs/benchmarks.md, by precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    text = BENCHMARKS.read_text()
    measured_on = text.split("<!-- predict -->\n")[1].split(",")[0]
    section = text.split(f"### {PREDICT_TASKS[0].name}\n")[1].split("###")[0]
    rows = re.findall(r"^\| (ours|keras|timm) (.+?) (float32|bfloat16) \| ([\d.]+) \|", section, re.MULTILINE)
    panels = {
        kind: sorted((float(row[3]), *row[:2]) for row in rows if row[2] == kind) for kind in ("float32", "bfloat16")
    }
    heights = [len(bars) for bars in panels.values()]
    figure, all_axes = pyplot.subplots(
        2, 1, figsize=(8, 0.3 * sum(heights) + 2), sharex=True, height_ratios=heights, layout="constrained"
    )
    for axes, (kind, bars) in zip(all_axes, panels.items(), strict=True):
        names = [f"{LIBRARIES[library][0]}, {setting}" for _, library, setting in bars]
        drawn = axes.barh(names, [bar[0] for bar in bars], color=[LIBRARIES[bar[1]][1] for bar in bars])
        axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
        axes.set_title(kind, loc="left")
        axes.margins(y=0.02)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel("images per second")
    figure.suptitle(f"ConvNeXt-Tiny, 224 x 224, predict, batch 8; 2 cores of {measured_on}", fontsize=11)
    handles = [Patch(color=color, label=name) for name, color in LIBRARIES.values()]
    all_axes[0].legend(handles=handles, loc="lower right", frameon=False)
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=TASKS)
    parser.add_argument("--peers", help="Python of an environment that has timm and OpenCLIP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the first task only, three turns")
    parser.add_argument("--only", help="tasks whose name contains this, such as 'batch 1'")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    tasks = [task for task in TASKS[options.what] if not options.only or options.only in task.name]
    if options.quick:
        options.rounds, tasks = 3, tasks[:1]
    report = [machine(options.peers)]
    print(report[0], flush=True)
    for task in tasks:
        lines = ["", f"### {task.name}", "", *table(task, measure(task, options))]
        print("\n".join(lines), flush=True)
        report += lines
    if options.write:
        write_section(options.what, report)
        plot()


if __name__ == "__main__":
    main()
