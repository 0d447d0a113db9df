"""Prints the tables of docs/variants.md: parameters and multiply-adds counted on the built models, and CLIP's sets.

    KERAS_BACKEND=torch python scripts/model_table.py [--write]

Multiply-adds are those of convolutions and dense layers at the variant's input size, as papers count "FLOPs". Needs
PyTorch, whose tensors without numbers make the largest model as cheap as the smallest.
"""

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import keras

from convnext_keras import create_model
from convnext_keras.checkpoints import BUNDLED_WEIGHTS_DIR, load_registry
from convnext_keras.configs import CLIP_CONFIGS, CONVNEXT_CONFIGS
from convnext_keras.surgery import flatten_layers

IMAGENET_CLASSES = 1000
PAGE = Path(__file__).parents[1] / "docs" / "variants.md"


def multiply_adds(model: keras.Model) -> int:
    """Returns the multiply-adds of one layer: kernel size times output positions."""
    layers: list[Any] = [layer for layer in flatten_layers(model) if hasattr(layer, "kernel")]
    return sum(math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1]) for layer in layers)


def table() -> str:
    """One row for each variant, with the best published accuracy of its weight sets."""
    lines = ["| variant | pixels | parameters | multiply-adds | best published top-1 | by |"]
    lines.append("|---|---:|---:|---:|---:|---|")
    for name, variant in CONVNEXT_CONFIGS.items():
        with keras.device("meta"):
            model = create_model(name, weights=None, input_shape=(variant.input_size, variant.input_size, 3))
        rows = [row for row in load_registry().values() if row.variant == name and row.top1_accuracy]
        best = max(rows, key=accuracy, default=None)
        top1, command = f"{best.top1_accuracy} %" if best else "", ""
        if best:
            measured = best.classes == IMAGENET_CLASSES
            command = f"`convnext-keras evaluate {name}.{best.tag} imagenet/val`" if measured else f"`{best.tag}`"
        size, giga = variant.input_size, multiply_adds(model) / 1e9
        lines.append(f"| `{name}` | {size} | {model.count_params():,} | {giga:.2f} G | {top1} | {command} |")
    return "\n".join(lines) + "\n"


def clip_table() -> str:
    """One row for each weight set of ConvNeXt-CLIP, with what its publisher measured."""
    head = "| weight set | pixels | million parameters | ImageNet-1k top-1 | COCO text to image | COCO image to text |"
    lines = [head, "|---|---:|---:|---:|---:|---:|"]
    with (BUNDLED_WEIGHTS_DIR / "clip.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            name, million = f"{row['variant']}.{row['tag']}", f"{CLIP_CONFIGS[row['variant']].num_params / 1e6:.1f}"
            results = [
                f"{row[key]} %" for key in ("top1_accuracy", "coco_image_recall", "coco_text_recall") if row[key]
            ]
            if len(results) == 3:  # The bundled set is no model of photographs.
                lines.append(f"| `{name}` | {row['input_size']} | {million} | {' | '.join(results)} |")
    return "\n".join(lines) + "\n"


def accuracy(row) -> float:
    return float(row.top1_accuracy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/variants.md")
    write = parser.parse_args().write
    for section, printed in (("variants", table()), ("clip", clip_table())):
        print(printed)
        start, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->"
        if write:
            before, rest = PAGE.read_text().split(start)
            PAGE.write_text(before + start + printed + end + rest.split(end)[1])
