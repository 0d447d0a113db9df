"""Whether an artifact gives what the Keras model gives, run by the program of its format in a process of its own."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.export import runtimes
from convnext_keras.export.metadata import get_tokenizer_config
from convnext_keras.export.writing import run_subprocess

# Of the largest output, between an artifact and the Keras model in float32.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 0.05, "int8_weights": 0.05, "int8": 0.25}
TEST_BATCH_SIZES = (1, 3)
TEST_LENGTHS = (9, 16)  # in tokens, that are tried where they are open
TEST_SIZES = ((64, 96), (96, 64))  # that are tried where height and width are open


def make_test_inputs(model: keras.Model, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Inputs of every number of rows and size that is to be tried: those given, or random ones."""
    random = np.random.default_rng(0)
    batch, *shape = model.inputs[0].shape
    if rows is not None:
        counts = {batch} if batch else {1, len(rows)}
        return {str(count): np.resize(rows, (count, *rows.shape[1:])) for count in sorted(counts)}
    counts = (batch,) if batch else TEST_BATCH_SIZES
    if len(shape) == 1:
        words: Any = get_tokenizer_config(model)["vocab_size"]
        lengths = shape if shape[0] else TEST_LENGTHS
        texts = {
            f"{count}, {length}": random.integers(1, words - 1, (count, length)).astype("int32")
            for count in counts
            for length in lengths
        }
        for tokens in texts.values():  # The end of a text:
            tokens[np.arange(len(tokens)), random.integers(1, tokens.shape[1], len(tokens))] = words - 1
        return texts
    found = {}
    for number, sizes in enumerate(TEST_SIZES if None in shape else TEST_SIZES[:1]):
        free = iter(sizes)
        filled = [length or next(free) for length in shape]
        for count in counts:
            values = random.integers(0, 256, (count, *filled))
            found[f"{count}, {number}"] = values.astype(model.inputs[0].dtype)
    return found


def verify_export(
    model: keras.Model, path: Path, precision: str = "float32", rows: np.ndarray | None = None
) -> tuple[float, float]:
    """Largest difference of an artifact from the Keras model by the largest output, and seconds of one row.

    Args:
        model: the Keras model.
        path: of the artifact.
        precision: of the artifact.
        rows: to compare with, random ones if None.

    Raises:
        ValueError: if it is above `TOLERANCES`, or the format's own program cannot run it.
    """
    inputs = make_test_inputs(model, rows)
    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **inputs)  # pyright: ignore[reportArgumentType]
        try:
            run_subprocess([runtimes.__file__, str(path), str(given), str(results)])
        except RuntimeError as error:
            raise ValueError(f"What was written does not run: {error}") from error
        with np.load(results) as arrays:
            found = dict(arrays)
    differences = []
    for name, rows in inputs.items():
        for number, expected in enumerate(keras.tree.flatten(model(rows, training=False))):
            wanted = np.asarray(ops.convert_to_numpy(expected), "float64")
            exact = found[f"{name} {number}"]
            if exact.shape != wanted.shape:
                raise ValueError(f"What was written gives {exact.shape} where the model gives {wanted.shape}.")
            differences.append(np.abs(exact - wanted).max() / np.abs(wanted).max())
    difference = float(max(differences))
    most = TOLERANCES[precision]
    if not difference <= most:
        raise ValueError(f"What was written differs by {difference:.1e} of the largest output, more than {most:.0e}.")
    return difference, float(found[f"{next(iter(inputs))} seconds"])
