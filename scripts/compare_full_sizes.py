"""Compares models at full size with the peers, through files that the peers write, and prints a Markdown table.

Run it in an environment that has the peers, with this package installed; it needs 16 GB of memory and takes a while:

    KERAS_BACKEND=torch python scripts/compare_full_sizes.py --peer timm [--write]
    KERAS_BACKEND=tensorflow python scripts/compare_full_sizes.py --peer keras --peer tf_keras [--write]

Each peer builds its model with random weights far from their initial values and saves it in its own format; the file is
loaded by `weights=`, and both compute two pictures. The difference is that of the outputs (timm: the logits; Keras: of
each kind of head), relative to the largest output. The script fails where it is above the tolerance.
"""

import argparse
import gc
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from make_references import HEADS, keras_roles, normalised, pictures, random_weights, randomised

import convnext_keras
from convnext_keras.variants import VARIANTS

PARITY = Path(__file__).parents[1] / "PARITY.md"
SHAPE = (48, 64, 3)
TOLERANCE = 1e-4
HEADER = "| peer | model | tensors | parameters | largest relative difference |\n|---|---|---:|---:|---:|"


def from_timm(name: str, path: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Our model and its outputs, and those of timm's."""
    import safetensors.torch
    import timm
    import torch

    model = randomised(timm.create_model(name, pretrained=False, num_classes=1000))
    safetensors.torch.save_file(model.state_dict(), path)
    with torch.no_grad():
        expected = model(normalised()).numpy()
    del model
    arguments = {"weights": path, "classes": 1000, "classifier_activation": None, "input_shape": SHAPE}
    ours = convnext_keras.create_model(name, **arguments)
    return ours, keras.ops.convert_to_numpy(ours(pictures().astype("float32"))), expected


def from_keras(library, name: str, head: str, path: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Our model and its outputs, and those of the model in Keras 3 or 2."""
    arguments = {**HEADS[head], "classes": 1000, "input_shape": SHAPE}
    model = getattr(library.applications.convnext, name)(weights=None, **arguments)
    model.set_weights(random_weights(keras_roles(model)))
    model.save(path, include_optimizer=False) if library is keras else model.save_weights(path)
    expected = np.asarray(model(pictures().astype("float32")))
    ours = getattr(convnext_keras, name)(weights=path, **arguments)
    return ours, np.asarray(ours(pictures().astype("float32"))), expected


def comparisons(peer: str, folder: Path) -> Iterator[tuple[str, keras.Model, np.ndarray, np.ndarray]]:
    """Name, model and both outputs of all models of a peer."""
    if peer == "timm":
        for name in VARIANTS:
            if "isotropic" not in name and name != "convnext_mini":
                yield name, *from_timm(name, folder / "peer.safetensors")
        return
    import tf_keras

    library = {"keras": keras, "tf_keras": tf_keras}[peer]
    for name in ("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"):
        for head in HEADS:
            yield f"{name}, {head}", *from_keras(library, name, head, folder / "peer.h5")
            library.backend.clear_session()


def main() -> None:
    """Prints one row for each model, and fails after the last if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="append", choices=["timm", "keras", "tf_keras"], required=True)
    parser.add_argument("--write", action="store_true", help="put the table into PARITY.md")
    options = parser.parse_args()
    worst = 0.0
    for peer in options.peer:
        version = f"{peer} {importlib.metadata.version(peer)}"
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            for name, model, found, expected in comparisons(peer, Path(folder)):
                difference = float(np.abs(found - expected).max() / np.abs(expected).max())
                worst = max(worst, difference)
                count = f"{len(model.weights)} | {model.count_params():,}"
                lines.append(f"| {version} | `{name}` | {count} | {difference:.1e} |")
                print(lines[-1], flush=True)
                del model
                gc.collect()
        if options.write:
            write(peer, f"{HEADER}\n" + "\n".join(lines) + "\n")
    if worst > TOLERANCE:
        raise SystemExit(f"Largest difference {worst:.1e} is above {TOLERANCE:.0e}.")


def write(peer: str, table: str) -> None:
    start, end = f"<!-- {peer} -->\n", f"<!-- end of {peer} -->"
    before, rest = PARITY.read_text().split(start)
    PARITY.write_text(before + start + table + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
