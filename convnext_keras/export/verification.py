"""Verification: the outputs of an exported model, computed by its own runtime in its own process."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.export import runner
from convnext_keras.export.metadata import get_tokenizer_config
from convnext_keras.export.writer import run_subprocess

# Maximum difference from the Keras model in float32, relative to the largest output.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 0.05, "int8_weights": 0.05, "int8": 0.25}
TEST_BATCH_SIZES = (1, 3)
TEST_LENGTHS = (9, 16)  # numbers of tokens, tested if the length is dynamic
TEST_SIZES = ((64, 96), (96, 64))  # heights and widths, tested if the size is dynamic


def make_test_inputs(model: keras.Model, images: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Returns inputs of every batch size and image size to test: the given images, or random ones.

    Args:
        model: A model with one input.
        images: Inputs `(N, ...)`, or None for random ones.
    """
    rng = np.random.default_rng(0)
    batch, *shape = model.inputs[0].shape
    if images is not None:
        sizes = {batch} if batch else {1, len(images)}
        return {str(size): np.resize(images, (size, *images.shape[1:])) for size in sorted(sizes)}
    sizes = (batch,) if batch else TEST_BATCH_SIZES
    if len(shape) == 1:
        vocab_size: Any = get_tokenizer_config(model)["vocab_size"]
        lengths = shape if shape[0] else TEST_LENGTHS
        texts = {
            f"{size}, {length}": rng.integers(1, vocab_size - 1, (size, length)).astype("int32")
            for size in sizes
            for length in lengths
        }
        for tokens in texts.values():  # each text needs an end token
            tokens[np.arange(len(tokens)), rng.integers(1, tokens.shape[1], len(tokens))] = vocab_size - 1
        return texts
    inputs = {}
    for number, dynamic_sizes in enumerate(TEST_SIZES if None in shape else TEST_SIZES[:1]):
        dynamic = iter(dynamic_sizes)
        full = [length or next(dynamic) for length in shape]
        for size in sizes:
            inputs[f"{size}, {number}"] = rng.integers(0, 256, (size, *full)).astype(model.inputs[0].dtype)
    return inputs


def verify_export(
    model: keras.Model, path: Path, precision: str = "float32", images: np.ndarray | None = None
) -> tuple[float, float]:
    """Compares an exported model with the Keras model.

    Args:
        model: The Keras model that was exported.
        path: The exported file or directory.
        precision: Precision of the exported model.
        images: Inputs to compare with; None for random ones.

    Returns:
        The maximum difference relative to the largest output, and the seconds for one image or text.

    Raises:
        ValueError: If the difference is above `TOLERANCES[precision]`, or the runtime cannot run the model.
    """
    inputs = make_test_inputs(model, images)
    with tempfile.TemporaryDirectory() as directory:
        given, results = Path(directory) / "inputs.npz", Path(directory) / "outputs.npz"
        np.savez(given, **inputs)  # pyright: ignore[reportArgumentType]
        try:
            run_subprocess(["-P", runner.__file__, "run", str(path), str(given), str(results)])
        except RuntimeError as error:
            raise ValueError(f"The exported model failed to run: {error}") from error
        with np.load(results) as arrays:
            found = dict(arrays)
    differences = []
    for name, batch in inputs.items():
        for index, expected in enumerate(keras.tree.flatten(model(batch, training=False))):
            reference = np.asarray(ops.convert_to_numpy(expected), "float64")
            output = found[f"{name} {index}"]
            if output.shape != reference.shape:
                raise ValueError(
                    f"The exported model returns {output.shape}; the Keras model returns {reference.shape}."
                )
            differences.append(np.abs(output - reference).max() / np.abs(reference).max())
    difference, limit = float(max(differences)), TOLERANCES[precision]
    if not difference <= limit:
        raise ValueError(
            f"The exported model differs by {difference:.1e} of the largest output. The limit for {precision} is "
            f"{limit:.0e}."
        )
    return difference, float(found[f"{next(iter(inputs))} seconds"])
