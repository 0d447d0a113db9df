"""Exports several models in every format and measures size, difference from the Keras model, and speed.

python benchmarks/compare_exports.py --write   # into docs/export_results.md; half an hour: each backend in turn is the
active one
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from benchmark_report import machine

from convnext_keras import clip, create_model, export, feature_extractor

PAGE = Path(__file__).parents[1] / "docs" / "export_results.md"
BACKENDS = ("torch", "tensorflow", "jax", "openvino")
LABELS = ("a red star", "a blue circle", "a green square")


def models() -> dict[str, keras.Model | clip.ZeroShotClassifier]:
    """Returns the models to export. Weights that need a download are random instead."""
    shapes = clip.create_model("convnext_mini.shapes")
    random = {name: create_model(name, weights=None) for name in ("convnext_atto", "convnextv2_atto")}
    for model in random.values():
        for weight in model.weights:
            if weight.name == "gamma":
                weight.assign(np.random.default_rng(0).normal(0.5, 0.2, weight.shape))
    digits = create_model("convnext_mini.digits")
    return {
        **random,
        "digits": digits,
        "features of digits": feature_extractor(digits),
        "shapes, image tower": shapes.image_encoder,
        "shapes, text tower": shapes.text_encoder,
        "shapes, zero-shot": clip.ZeroShotClassifier(shapes, LABELS, "{}"),
    }


def keras_seconds(model: keras.Model | clip.ZeroShotClassifier) -> float:
    """The fastest of five calls of `predict_on_batch` with one image or text."""
    model = model.to_keras_model() if isinstance(model, clip.ZeroShotClassifier) else model
    shape = [length or 40 for length in model.inputs[0].shape[1:]]
    inputs = np.ones((1, *shape), model.inputs[0].dtype)
    model.predict_on_batch(inputs)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model.predict_on_batch(inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measured() -> dict[str, dict[str, list]]:
    """MB, difference, milliseconds and ratio to Keras of each format of each model, or what went wrong."""
    found: dict[str, dict[str, list]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models().items():
            found[name] = {}
            for format, row in export.FORMATS.items():
                path = Path(folder) / f"{name}-{format}{row.suffix}".replace(" ", "-")
                try:
                    written = export.export(model, path, format)
                except (ValueError, ImportError) as error:
                    found[name][format] = [str(error)]
                    continue
                seconds = written.latency_seconds or 1
                found[name][format] = [
                    written.size_bytes / 1e6, written.max_relative_error, 1000 * seconds, keras_seconds(model) / seconds
                ]  # fmt: skip
                print(name, format, found[name][format], file=sys.stderr, flush=True)
    return found


def table(of_backends: dict[str, dict[str, dict[str, list]]]) -> list[str]:
    """A line for each model and format; sizes and speeds are those of the first backend."""
    first, *_ = of_backends
    heads = ["model", "format", "MB", "ms", f"x Keras on {first}", *(f"differs from {name}" for name in of_backends)]
    lines = [f"| {' | '.join(heads)} |", "|---|---" + "|---:" * (len(heads) - 2) + "|"]
    for model, formats in of_backends[first].items():
        for format, cells in formats.items():
            others = [found[model][format] for found in of_backends.values()]
            differences = [f"{row[1]:.1e}" if len(row) > 1 else str(row[0]) for row in others]
            speed = [f"{cells[0]:.2f}", f"{cells[2]:.1f}", f"{cells[3]:.1f}"] if len(cells) > 1 else ["", "", ""]
            lines.append(f"| {' | '.join([model, format, *speed, *differences])} |")
    return lines


def apart(backend: str) -> dict[str, dict[str, list]]:
    """Runs the measurement in a process with another active backend."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, __file__, "--json"], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_between(name: str, text: str) -> None:
    """Puts text between the marks of a section of docs/export_results.md."""
    before, rest = PAGE.read_text().split(f"<!-- {name} -->\n")
    after = rest.split(f"<!-- end of {name} -->")[1]
    PAGE.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/export_results.md")
    parser.add_argument("--json", action="store_true", help="print what the active backend gives")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measured()))
        return
    text = "\n".join([machine(), "", *table({backend: apart(backend) for backend in BACKENDS})])
    print(text)
    if options.write:
        write_between("exports", text)


if __name__ == "__main__":
    main()
