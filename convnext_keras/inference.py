"""Running an encoder over arrays of any number of rows, compiled once for few shapes, in float32 on every backend.

Keras' `predict` is not used for it: under OpenVINO it computes in bfloat16 on some processors, and elsewhere it
compiles anew for every size of the last batch.
"""

from collections.abc import Callable

import keras
import numpy as np

from convnext_keras import backend

TEXT_LENGTHS = (16, 32)  # in tokens, that texts are cut to where they fit


class BatchRunner:
    """Model with one input and one output as a function of arrays: `(N, ...)` -> `(N, D)` float32.

    Args:
        model: A functional model. It may be trained or loaded anew between calls.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.program: Callable[[np.ndarray], np.ndarray] = model.predict_on_batch
        self.values: list = []  # that the program was compiled with

    def __call__(self, inputs: np.ndarray, batch_size: int) -> np.ndarray:
        """Runs at most `batch_size` rows; their number is filled up to a power of two, so that few shapes occur."""
        filled = pad_batch(inputs, batch_size)
        if backend.compile_model:
            self._recompile_if_changed(backend.compile_model)
        return np.asarray(self.program(filled), "float32")[: len(inputs)]

    def _recompile_if_changed(self, compiled: Callable[[keras.Model], Callable]) -> None:
        """Compiles the model unless that was done with the very values that it has."""
        values = [variable.value for variable in self.model.weights]
        if len(values) != len(self.values) or any(a is not b for a, b in zip(self.values, values, strict=True)):
            self.program, self.values = compiled(self.model), values


def pad_batch(inputs: np.ndarray, batch_size: int, steps: int = 1) -> np.ndarray:
    """Pads at most `batch_size` rows with zeros to one of a few batch sizes.

    Args:
        inputs: `(N, ...)`.
        batch_size: Maximum number of rows.
        steps: Numbers between a power of two and the next: 1 for the powers alone; with 4, 16 is followed by 20.
    """
    power = 1 << (len(inputs) - 1).bit_length()
    step = max(1, power // (2 * steps))
    rows = min(batch_size, -(-len(inputs) // step) * step)
    return np.concatenate([inputs, np.zeros((rows - len(inputs), *inputs.shape[1:]), inputs.dtype)])


def trim_padding(tokens: np.ndarray, end: int) -> np.ndarray:
    """Cuts token ids `(N, L)` to the first of `TEXT_LENGTHS` that fits all texts.

    Padding after the end token does not change the embedding, but takes time.
    """
    longest = int((tokens == end).argmax(axis=-1).max()) + 1
    return tokens[:, : next((length for length in TEXT_LENGTHS if length >= longest), None)]


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `(..., D)` divided by their lengths."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities over the last axis, `(..., C)` -> `(..., C)` float32."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype("float32")
