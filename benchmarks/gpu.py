"""Measures models on one GPU against keras.applications, timm and OpenCLIP: images per second and memory.

    python benchmarks/gpu.py --peers PEERS/bin/python --write  # into docs/benchmarks.md; at most eight minutes
    python benchmarks/gpu.py --quick  # tiny sizes, also on a CPU: a test of the script, not a measurement

Each library runs each model in a process of its own: inference, then a training step with AdamW, in the order of their
memory, since JAX reports the largest amount so far only. Images are on the device before the clock starts. "float32"
allows no TF32. When the time is over, the rows that are left are reported as not measured.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmark_report import machine, write_section

MINUTES, PROCESS_SECONDS = 8, 120
# Model -> names in this library, in timm or OpenCLIP, and in keras.applications; edge in pixels; batches of inference
# and training.
MODELS = {
    "tiny": ("convnext_tiny", "convnext_tiny", "ConvNeXtTiny", 224, 256, 128),
    "base": ("convnext_base", "convnext_base", "ConvNeXtBase", 224, 256, 64),
    "v2 tiny": ("convnextv2_tiny", "convnextv2_tiny", None, 224, 256, 128),
    "clip base_w": ("convnext_base_w", "convnext_base_w", None, 256, 256, 64),
}
PRECISIONS = ("bfloat16", "float32")


class Contender(NamedTuple):
    """A library, the backend that it runs on, and whether PyTorch compiles the model."""

    library: str
    backend: str
    compiled: bool = False


CONTENDERS = [
    Contender("convnext_keras", "jax"),
    Contender("convnext_keras", "torch"),
    Contender("convnext_keras", "torch", compiled=True),
    Contender("keras.applications", "jax"),
    Contender("keras.applications", "torch"),
    Contender("peer", "torch"),
    Contender("peer", "torch", compiled=True),
]
HEADS = "model | library | backend | precision | batch | inference, images/s | MB | batch | training, images/s | MB"


def device_memory(backend: str) -> float:
    """Returns the largest number of MB on the device so far; 0 on a CPU."""
    if backend == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def keras_steps(
    who: Contender, name: str, precision: str, size: int, is_clip: bool
) -> tuple[Callable, Callable, Callable]:
    """Returns functions that put pixels on the device, run inference, and run a training step with labels."""
    import keras
    import numpy as np

    import convnext_keras

    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    options = {"weights": None, "input_shape": (size, size, 3)}
    if who.library == "keras.applications":
        model: Any = getattr(keras.applications.convnext, name)(**options)
    elif is_clip:
        model = convnext_keras.clip.create_model(name, weights=None).image_encoder
    else:
        model = convnext_keras.create_model(name, **options)
    loss = "mse" if is_clip else "sparse_categorical_crossentropy"
    model.compile("adamw", loss, jit_compile=True if who.compiled else "auto")
    shape, kind = (model.output_shape[1:], "float32") if is_clip else ((), "int32")
    return (
        lambda pixels: keras.ops.convert_to_tensor(pixels * 255),
        lambda pixels: np.asarray(model.predict_on_batch(pixels)),
        lambda pixels: model.train_on_batch(pixels, np.zeros((len(pixels), *shape), kind)),
    )


def peer_steps(
    who: Contender, name: str, precision: str, size: int, is_clip: bool
) -> tuple[Callable, Callable, Callable]:
    """Does the same with timm or OpenCLIP, channels last."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_clip:
        import open_clip

        model = open_clip.create_model(name, force_image_size=size).visual
    else:
        import timm

        model = timm.create_model(name)
    model = model.to(device, memory_format=torch.channels_last)
    run = torch.compile(model) if who.compiled else model
    optimizer = torch.optim.AdamW(model.parameters())
    is_mixed = precision == "bfloat16"

    def put(pixels):
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return tensor.to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def infer(pixels):
        model.eval()
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            return run(pixels).float().cpu()

    def train(pixels):
        model.train()
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            outputs = run(pixels)
            loss = outputs.float().square().mean() if is_clip else outputs.float().logsumexp(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return put, infer, train


def images_per_second(step: Callable, pixels: Any, seconds: float) -> float:
    """Returns the rate of a step, the best of three parts, after three runs that compile and warm up."""
    for _ in range(3):
        step(pixels)
    rates = []
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds / 3:
            step(pixels)
            count += 1
        rates.append(count * len(pixels) / (time.perf_counter() - start))
    return max(rates)


def work(who: Contender, model: str, is_quick: bool) -> None:
    """Prints a line of JSON for each measurement of one library and model."""
    import numpy as np

    ours, peer, keras_name, size, *batches = MODELS[model]
    size, batches = (64, [2, 2]) if is_quick else (size, batches)
    name = {"peer": peer, "keras.applications": keras_name}.get(who.library, ours)
    build = peer_steps if who.library == "peer" else keras_steps
    for action in (0, 1):
        for precision in PRECISIONS:
            put, *steps = build(who, str(name), precision, size, model.startswith("clip"))
            pixels = put(np.random.default_rng(0).random((batches[action], size, size, 3), "float32"))
            rate = images_per_second(steps[action], pixels, 0.1 if is_quick else 3)
            print(json.dumps([precision, action, batches[action], rate, device_memory(who.backend)]), flush=True)


def measure(who: Contender, model: str, options: argparse.Namespace, seconds: float) -> dict[tuple[str, int], list]:
    """Returns batch, rate and memory by precision and action, of what a process could measure in some seconds."""
    environment = {"KERAS_BACKEND": who.backend, "NVIDIA_TF32_OVERRIDE": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment |= {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    python = options.peers if who.library == "peer" else sys.executable
    command = [python, __file__, "--work", model, json.dumps(who), *(["--quick"] if options.quick else [])]
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=seconds
        )
        output, errors = done.stdout, [line for line in done.stderr.splitlines() if re.match(r"[\w.]+: ", line)]
        problem = errors[-1:] if done.returncode else []
    except subprocess.TimeoutExpired as error:
        output, problem = (error.stdout or b"").decode(), [f"ended after {seconds:.0f} s"]
    if problem:
        print(f"{model}, {who.library}, {who.backend}: {problem[0]}", file=sys.stderr, flush=True)
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
    return {(row[0], row[1]): row[2:] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Python of an environment that has timm and OpenCLIP")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="models to measure")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time of the whole run")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, also without a GPU")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(Contender(*json.loads(options.work[1])), options.work[0], options.quick)
        return
    end = time.perf_counter() + 60 * options.minutes
    lines = [machine(options.peers, gpu=not options.quick), "", f"| {HEADS} |", "|---|---|---|---" + "|---:" * 6 + "|"]
    print("\n".join(lines), flush=True)
    for model in options.models:
        for who in CONTENDERS:
            is_absent = who.library == "peer" and not options.peers
            if is_absent or (who.library == "keras.applications" and MODELS[model][2] is None):
                continue
            left = end - time.perf_counter()
            found = measure(who, model, options, min(PROCESS_SECONDS, left)) if left > 0 else {}
            library = {"peer": "OpenCLIP" if "clip" in model else "timm"}.get(who.library, who.library)
            for precision in PRECISIONS:
                cells = [model, library, who.backend + (" compiled" if who.compiled else ""), precision]
                for action in (0, 1):
                    batch, rate, memory = found.get((precision, action), ["", None, None])
                    cells += [str(batch), "not measured" if rate is None else f"{rate:,.0f}"]
                    cells += [f"{memory:,.0f}" if memory else ""]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    if options.write:
        write_section("gpu", lines)


if __name__ == "__main__":
    main()
