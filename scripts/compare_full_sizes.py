"""Compares the five constructors at full size with `keras.applications` and `tf_keras`, through files that they write.

Run it in an environment that has both, with this package installed; it needs 8 GB of memory and takes some minutes:

    python scripts/compare_full_sizes.py [ConvNeXtTiny ...]

For each head (top, none, avg, max) the peer's random model is saved as `.h5` and loaded by `weights=`; the difference
of the outputs is printed, and the script fails where it is above 1e-5 of the largest output.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tf_keras
from make_references import HEADS, keras_roles, random_weights

import convnext_keras

NAMES = ("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge")
TOLERANCE = 1e-5


def write(peer: str, name: str, head: str, path: Path, pixels: np.ndarray) -> np.ndarray:
    """Saves the peer's model with random weights and gives its outputs."""
    library = {"keras": keras, "tf_keras": tf_keras}[peer]
    arguments = {**HEADS[head], "classes": 1000, "weights": None, "input_shape": pixels.shape[1:]}
    model = getattr(library.applications.convnext, name)(**arguments)
    model.set_weights(random_weights(keras_roles(model)))
    model.save(path, include_optimizer=False) if peer == "keras" else model.save_weights(path)
    return np.asarray(model(pixels))


def main() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 96, 64, 3)).astype("float32")
    worst = 0.0
    for name in sys.argv[1:] or NAMES:
        for peer in ("keras", "tf_keras"):
            for head in HEADS:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "peer.h5"
                    expected = write(peer, name, head, path, pixels)
                    arguments = {**HEADS[head], "classes": 1000, "input_shape": pixels.shape[1:]}
                    model = getattr(convnext_keras, name)(weights=path, **arguments)
                difference = float(np.abs(np.asarray(model(pixels)) - expected).max() / np.abs(expected).max())
                worst = max(worst, difference)
                print(f"{name} {peer} {head}: {difference:.1e}", flush=True)
                keras.utils.clear_session()
                tf_keras.backend.clear_session()
    if worst > TOLERANCE:
        raise SystemExit(f"Largest difference {worst:.1e} is above {TOLERANCE:.0e}.")


if __name__ == "__main__":
    main()
