"""Measures UPerNet-ConvNeXt-Tiny against transformers, the memory of the sliding window, and int8.

    python benchmarks/benchmark_segmentation.py --peers PEERS/bin/python --write    # into docs/benchmarks.md

Each contender runs in a process of its own, `predict` of one image of 512 x 512 pixels in turns; figures are medians
of the turns and ratios are medians of the turns' ratios. `--peers` is the Python of an environment with transformers.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_report import machine, write_section

SIZE, CLASSES = 512, 150
BACKENDS = ("tensorflow", "jax", "torch", "openvino")
PEERS = ("transformers", "transformers, channels last")
EXPORTS = (("", ""), *((format, precision) for format in ("openvino", "onnx") for precision in ("float32", "int8")))
EDGES = (1000, 2000, 4000, 8000)


def our_step():
    """Returns `predict` of one image by this library."""
    import numpy as np

    from convnext_keras import create_model

    model = create_model("upernet_convnext_tiny", weights=None, classes=CLASSES, input_shape=(SIZE, SIZE, 3))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, SIZE, SIZE, 3)).astype("float32")
    return lambda: model.predict(pixels, verbose=0)


def peer_step(channels_last: bool):
    """Returns a call of transformers' model on one image."""
    import torch
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}
    config = UperNetConfig(backbone_config=ConvNextConfig(out_features=stages, **sizes), num_labels=CLASSES)
    model, pixels = UperNetForSemanticSegmentation(config).eval(), torch.randn(1, 3, SIZE, SIZE)
    if channels_last:
        model, pixels = (part.to(memory_format=torch.channels_last) for part in (model, pixels))

    def step():
        with torch.no_grad():
            return model(pixels)

    return step


def work(name: str) -> None:
    """Runs one step for each line on stdin, and prints its seconds."""
    step = our_step() if name in BACKENDS else peer_step(name.endswith("last"))
    for _ in range(3):  # PyTorch's `predict` records its operations after three batches.
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def start(name: str, python: str) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": name if name in BACKENDS else "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, __file__, "--worker", name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **pipes)
    while process.stdout.readline().strip() not in ("ready", ""):
        pass
    return process


def speed(python: str, turns: int) -> str:
    """The table of seconds per image, and how many times as fast as transformers each is."""
    running = {name: start(name, python if name in PEERS else sys.executable) for name in (*BACKENDS, *PEERS)}
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(turns):
        for name, process in running.items():
            process.stdin.write("\n")
            process.stdin.flush()
            times[name].append(float(process.stdout.readline()))
    for process in running.values():
        process.stdin.close()
        process.wait()
    best = [min(pair) for pair in zip(*(times[name] for name in PEERS), strict=True)]
    lines = ["| | seconds per image | times as fast as transformers |", "|---|---:|---:|"]
    for name, row in times.items():
        ratio = statistics.median(peer / own for peer, own in zip(best, row, strict=True))
        label = f"convnext_keras, {name}" if name in BACKENDS else name
        lines.append(f"| {label} | {statistics.median(row):.2f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def memory_of(edge: int) -> None:
    """Prints the growth of the peak memory in MB while a window slides over an image, without the image and its map."""
    import numpy as np

    from convnext_keras import create_model, segmentation

    segmenter = segmentation.Segmenter(create_model("upernet_convnext_tiny", weights=None, classes=CLASSES))
    segmenter.run_window = lambda pixels: np.zeros((1, 128, 128, CLASSES), "float32")  # of a model, without its time
    image = np.zeros((edge, edge, 3), "uint8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = segmenter(image, 512, 341, with_scores=False)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    print(f"{grown - 2 * image.nbytes / 2**20 - found.labels.nbytes / 2**20:.0f}")


def memory() -> str:
    """The table of the memory of windows by the edge of the image."""
    lines = ["| edge of the image, pixels | memory of windows of 512 pixels, MB |", "|---:|---:|"]
    for edge in EDGES:
        environment = {**os.environ, "KERAS_BACKEND": "torch"}
        command = [sys.executable, __file__, "--memory", str(edge)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines.append(f"| {edge:,} | {result.stdout.strip()} |")
    return "\n".join(lines) + "\n"


def precisions() -> str:
    """The table of the bundled model's mean IoU on drawn images, in Keras and exported in int8."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from train_shapes_segmentation import draw

    from convnext_keras import create_model, export, segmentation, training
    from convnext_keras.data.class_names import SHAPES

    pairs = [draw(np.random.default_rng((9, number)), 0.25) for number in range(300)]
    dataset = training.load_segmentation_dataset(pairs[:200], SHAPES)
    images = [image for image, _ in pairs[200:]]
    model = create_model("fpn_convnext_mini.shapes", input_shape=(96, 96, 3))
    lines = ["| model | mean IoU, % | file, MB |", "|---|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        for format, precision in EXPORTS:
            source, size = model, ""
            if format:
                path = Path(folder) / f"{precision}{export.FORMATS[format].suffix}"
                data = images if precision == "int8" else None
                written = export.export(model, path, format, precision=precision, calibration_data=data)
                source, size = export.ExportedModel(path), f"{written.size_bytes / 1e6:.2f}"
            result = training.evaluate_segmentation(segmentation.Segmenter(source), dataset)
            label = f"{format}, {precision}" if format else "Keras"
            lines.append(f"| {label} | {100 * result.mean_iou:.1f} | {size} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", choices=[*BACKENDS, *PEERS], help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    if options.memory:
        return memory_of(options.memory)
    text = f"{machine()}\n\n{speed(options.peers, options.turns)}\n{memory()}\n{precisions()}"
    print(text)
    if options.write:
        write_section("segmentation", text.splitlines())
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
