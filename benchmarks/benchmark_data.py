"""Measures what surrounds the model: reading images, reading while the model works, memory, and growth with size.

    KERAS_BACKEND=torch python benchmarks/benchmark_data.py --write

Prints the tables and, with `--write`, puts them into docs/benchmarks.md.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
from benchmark_report import machine, write_section
from model_table import multiply_adds
from PIL import Image

from convnext_keras import clip, create_model
from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform

IMAGES, HEIGHT, WIDTH = 512, 375, 500
FEW, BATCH = 128, 16  # for ConvNeXt-Tiny
GROWTH = [
    *(("convnext_atto", 224, batch) for batch in (1, 4, 16)),
    *(("convnext_tiny", 224, batch) for batch in (1, 4, 16)),
    *(("convnext_tiny", size, 4) for size in (64, 128, 320, 512)),
    ("convnext_small", 224, 4),
    ("convnext_base", 224, 4),
]


def write_images(folder: Path, number: int, size: tuple[int, int]) -> list[Path]:
    """JPEG files of smooth noise, about as large as photographs of that size."""
    random = np.random.default_rng(0)
    paths = []
    for index in range(number):
        noise = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), "uint8")
        paths.append(folder / f"{index:05}.jpg")
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=85)
    return paths


def rate(run, number: int, turns: int = 3) -> float:
    """Images a second: the median of some turns."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return number / statistics.median(times)


def data_path(folder: Path) -> list[str]:
    """Pillow alone, one thread and all threads of the library, the model, and both at once."""
    paths = write_images(folder, IMAGES, (WIDTH, HEIGHT))
    model = clip.create_model("shapes")
    transform = model.transform
    pixels = np.stack([transform(path) for path in paths])

    def pillow() -> None:
        for path in paths:
            with Image.open(path) as image:
                image.convert("RGB").resize((85, 64), Image.Resampling.BICUBIC)

    def consume(batches) -> None:
        for _ in batches:
            pass

    model.encode_image(pixels)
    tiny, large_recipe = create_model("convnext_tiny", weights=None), ImageTransform(size=224, crop_pct=0.875)
    few = paths[:FEW]
    large = np.stack([large_recipe(path) for path in few])

    def classify(batches) -> None:
        for _, batch in batches:
            tiny.predict_on_batch(batch)

    classify([(few, large[:BATCH])])
    rows = {
        "Pillow alone: decode and resize, one thread": rate(pillow, IMAGES),
        "the library's transform, one thread": rate(lambda: [transform(path) for path in paths], IMAGES),
        f"the library's transform, {os.cpu_count()} threads": rate(
            lambda: consume(iter_batches(paths, transform, 32)), IMAGES
        ),
        "the model alone, pixels ready": rate(
            lambda: [model.encode_pixels(pixels[start : start + 32], 32) for start in range(0, IMAGES, 32)], IMAGES
        ),
        "files to vectors": rate(lambda: model.encode_image(paths), IMAGES),
        "transform for ConvNeXt-Tiny at 224, all threads": rate(
            lambda: consume(iter_batches(few, large_recipe, BATCH)), FEW
        ),
        "ConvNeXt-Tiny alone, pixels ready": rate(
            lambda: classify((few, large[start : start + BATCH]) for start in range(0, FEW, BATCH)), FEW
        ),
        "files to probabilities by ConvNeXt-Tiny": rate(lambda: classify(iter_batches(few, large_recipe, BATCH)), FEW),
    }
    backend = os.environ["KERAS_BACKEND"]
    head = f"{machine()}\n\nJPEGs of {WIDTH} x {HEIGHT} pixels, the bundled ConvNeXt-CLIP at 64 x 64, {backend}."
    table = [f"| {name} | {speed:.0f} |" for name, speed in rows.items()]
    return [head, "", "| | images/s |", "|---|---:|", *table]


def growth() -> list[str]:
    """Seconds a multiply-add for models, sizes and batches: on a straight line they are all alike."""
    lines = [
        "| model | pixels | batch | 10^9 multiply-adds a batch | ms | ms for 10^9 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, size, batch in GROWTH:
        model = create_model(name, weights=None, input_shape=(size, size, 3))
        giga = batch * multiply_adds(model) / 1e9
        pixels = np.zeros((batch, size, size, 3), "float32")
        model.predict_on_batch(pixels)
        milliseconds = 1000 / rate(lambda model=model, pixels=pixels: model.predict_on_batch(pixels), 1, turns=5)
        lines.append(f"| `{name}` | {size} | {batch} | {giga:.2f} | {milliseconds:.0f} | {milliseconds / giga:.1f} |")
    return lines


def peak_of_embed(number: int) -> float:
    """Returns the memory of `convnext-keras embed` at its end, in MB, by the number of images."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        write_images(images, number, (64, 64))
        command = [sys.executable, __file__, "--peak", folder]
        return float(subprocess.check_output(command, text=True).splitlines()[-1])


def embed_and_report(folder: Path) -> None:
    """Runs `embed` in this process and prints its peak."""
    from convnext_keras.cli import app

    arguments = ["embed", str(folder / "images"), "--output", str(folder / "out.safetensors"), "--weights", "shapes"]
    app(arguments, standalone_mode=False)
    # Not getrusage's figure, which starts from that of the process before.
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        embed_and_report(options.peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = data_path(Path(folder))
    peaks = {number: peak_of_embed(number) for number in (1000, 10_000)}
    report += ["", "| images embedded | peak MB |", "|---:|---:|"]
    report += [f"| {number:,} | {peak:.0f} |" for number, peak in peaks.items()]
    report += ["", *growth()]
    print("\n".join(report))
    if options.write:
        write_section("data", report)


if __name__ == "__main__":
    main()
