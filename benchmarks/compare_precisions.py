"""Measures lower precisions: accuracy of the bundled models, and speed of ConvNeXt-Tiny in OpenVINO.

    KERAS_BACKEND=openvino python benchmarks/compare_precisions.py answers --write   # into docs/export_results.md; five
    minutes KERAS_BACKEND=openvino python benchmarks/compare_precisions.py speed --write     # one minute, of an idle
    machine

Calibrated with images that the models were trained on, and judged by others. Needs the extras `openvino`, `onnx`,
`int8` and `litert`, and scikit-learn.
"""

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import openvino
from benchmark_report import machine
from compare_exports import write_between
from shapes import split as split_scenes
from train_digits import split as split_digits
from train_shapes_clip import images_of, measure

from convnext_keras import ConvNeXtTiny, clip, create_model, export

SEED = 5  # of the images of shapes that are drawn anew
CALIBRATION = 300  # images
ROUNDS = {1: 25, 8: 9}  # interleaved, by images at a time
LARGEST = 8  # kinds of operations that are listed
SHAPES = ("whole captions", "color and shape")


def answers() -> list[str]:
    """A table of formats and precisions: sizes and answers of both bundled models."""
    model, shapes = create_model("convnext_mini.digits"), clip.create_model("convnext_mini.shapes")
    calibration, _, held_out, labels = split_digits()
    transform: Any = model.pretrained_info and model.pretrained_info.transform
    digits = np.stack([transform(digit) for digit in held_out]).astype("float32")
    before = np.asarray(keras.ops.convert_to_numpy(model(digits)))  # `predict` of OpenVINO computes in bfloat16.
    scenes = split_scenes()
    _, images = images_of(scenes.training[:CALIBRATION], SEED)
    heads = ["format", "precision", "MB", "digits", "largest change of a probability", "MB", *SHAPES]
    lines = [f"| {' | '.join(heads)} |", "|---|---" + "|---:" * (len(heads) - 2) + "|"]
    lines.append(_line(["Keras", "float32", "", _right(before, labels), "", "", *_shapes(shapes, scenes)]))
    with tempfile.TemporaryDirectory() as folder:
        for name, row in export.FORMATS.items():
            for precision in row.precisions if len(row.precisions) > 1 else ():
                options: dict[str, Any] = {"precision": precision, "verify": precision != "int8"}
                path = Path(folder) / f"{precision}{row.suffix}"
                given = list(calibration[:CALIBRATION]) if precision == "int8" else None
                written = export.export(model, path, name, calibration_data=given, **options)
                scores = export.ExportedModel(path)(digits)
                cells = [name, precision, f"{written.size_bytes / 1e6:.2f}", _right(scores, labels)]
                cells.append(f"{np.abs(scores - before).max():.3f}")
                if name in export.CLIP_FORMATS:
                    given = images if precision == "int8" else None
                    both = Path(folder) / f"{name}-{precision}"
                    written = export.export_clip(shapes, both, name, calibration_data=given, **options)
                    cells += [f"{written.size_bytes / 1e6:.2f}", *_shapes(export.ExportedCLIP(both), scenes)]
                lines.append(_line([*cells, "", "", ""][: len(heads)]))
                print(lines[-1], flush=True)
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _right(scores: np.ndarray, labels: np.ndarray) -> str:
    return f"{100 * np.mean(scores.argmax(axis=1) == labels):.2f} %"


def _shapes(model: clip.DualEncoder, scenes: Any) -> list[str]:
    accuracies = measure(model, scenes.held_out, SEED)
    return [f"{accuracies[name]:.1f} %" for name in SHAPES]


def tiny(folder: Path) -> dict[str, tuple[str, str]]:
    """ConvNeXt-Tiny with random weights in float32 and int8: files and the precision that the rest is computed in."""
    model, random = ConvNeXtTiny(weights=None, classifier_activation=None), np.random.default_rng(0)
    for weight in model.weights:
        if weight.name == "kernel":
            weight.assign(random.normal(0, max(1, np.prod(weight.shape[:-1])) ** -0.5, weight.shape))
        elif weight.name in ("bias", "beta"):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "scale"):
            weight.assign(random.normal(1, 0.3, weight.shape))
    images = random.integers(0, 256, (32, 224, 224, 3)).astype("uint8")
    for precision, given in (("float32", None), ("int8", images)):
        written = export.export(
            model, folder / f"{precision}.xml", precision=precision, calibration_data=given, verify=False
        )
        print(precision, written.size_bytes, flush=True)
    return {
        "float32": (str(folder / "float32.xml"), "f32"),
        "bfloat16": (str(folder / "float32.xml"), "bf16"),
        "int8": (str(folder / "int8.xml"), "f32"),
        "int8, the rest bfloat16": (str(folder / "int8.xml"), "bf16"),
    }


def speeds(files: dict[str, tuple[str, str]]) -> list[str]:
    """A table of milliseconds an image, in turn, and of medians of ratios."""
    programs = {
        name: openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        for name, (file, hint) in files.items()
    }
    lines = ["| images at a time | precision | MB | ms an image | x float32 | x bfloat16 | cosine to float32 |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for batch, rounds in ROUNDS.items():
        pixels = np.random.default_rng(1).integers(0, 256, (batch, 224, 224, 3)).astype("float32")
        outputs = {name: np.array(program(pixels)[0]).ravel() for name, program in programs.items()}
        times = collections.defaultdict(list)
        for _ in range(rounds):
            for name, program in programs.items():
                start = time.perf_counter()
                program(pixels)
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            ratios = [np.median(np.divide(times[other], seconds)) for other in ("float32", "bfloat16")]
            cosine = outputs[name] @ outputs["float32"] / np.linalg.norm(outputs[name])
            size = sum(Path(files[name][0]).with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin")) / 1e6
            cells = [str(batch), name, f"{size:.1f}", f"{1000 * np.median(seconds) / batch:.1f}"]
            cells += [f"{ratio:.2f}" for ratio in ratios] + [f"{cosine / np.linalg.norm(outputs['float32']):.5f}"]
            lines.append(_line(cells))
    return lines


def operations(files: dict[str, tuple[str, str]]) -> list[str]:
    """A table of milliseconds an image by kind of operation, eight images at a time."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 224, 224, 3)).astype("float32")
    columns = {}
    for name, (file, hint) in files.items():
        program = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": True})
        request, total = program.create_infer_request(), collections.Counter()
        for turn in range(6):
            request.infer(pixels)
            for part in request.get_profiling_info() if turn else ():
                kind = "FullyConnected" if part.node_type.startswith("FullyConnected") else part.node_type
                total[kind] += 1000 * part.real_time.total_seconds() / 5 / len(pixels)
        columns[name] = total
    kinds = sorted({kind for total in columns.values() for kind in total}, key=lambda kind: -columns["int8"][kind])
    lines = [_line(["operation", *columns]), "|---" + "|---:" * len(columns) + "|"]
    for kind in kinds[:LARGEST]:
        lines.append(_line([kind, *(f"{total[kind]:.2f}" for total in columns.values())]))
    lines.append(_line(["all", *(f"{sum(total.values()):.2f}" for total in columns.values())]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["answers", "speed"])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/export_results.md")
    options = parser.parse_args()
    if options.what == "answers":
        parts = [answers()]
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = tiny(Path(folder))
            parts = [speeds(files), operations(files)]
    text = "\n\n".join("\n".join(part) for part in [[machine()], *parts])
    print(text)
    if options.write:
        write_between(f"{options.what} of precisions", text)


if __name__ == "__main__":
    main()
