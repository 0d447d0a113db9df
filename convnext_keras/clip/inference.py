"""Running an encoder over arrays of any number of rows, compiled once for few shapes, in float32 on every backend.

Keras' `predict` is not used for it: under OpenVINO it computes in bfloat16 on some processors, and elsewhere it
compiles anew for every size of the last batch.
"""

import keras
import numpy as np

TEXT_LENGTHS = (16, 32)  # in tokens, that texts are cut to where they fit


class Runner:
    """A model with one input and one output as a function of arrays: `(N, ...)` -> `(N, D)` float32.

    Args:
        model: a functional model. It may be trained or loaded anew between calls.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.compiled = None
        self.values: list = []

    def __call__(self, inputs: np.ndarray, batch_size: int) -> np.ndarray:
        """Runs at most `batch_size` rows; their number is filled up to a power of two, so that few shapes occur."""
        rows = min(batch_size, 1 << (len(inputs) - 1).bit_length())
        filled = np.concatenate([inputs, np.zeros((rows - len(inputs), *inputs.shape[1:]), inputs.dtype)])
        run = self._openvino if keras.backend.backend() == "openvino" else self.model.predict_on_batch
        return np.asarray(run(filled), "float32")[: len(inputs)]

    def _openvino(self, inputs: np.ndarray) -> np.ndarray:
        values = [variable.value for variable in self.model.weights]
        if self.compiled is None or any(old is not new for old, new in zip(self.values, values, strict=True)):
            self.compiled, self.values = compile_openvino(self.model), values
        return self.compiled(inputs)[0]


def compile_openvino(model: keras.Model):
    """The model as OpenVINO compiles it for any number of rows, in float32."""
    import openvino
    from keras.src.backend.openvino.core import OPENVINO_DTYPES, OpenVINOKerasTensor
    from openvino import opset15

    shape = [-1 if length is None else length for length in model.inputs[0].shape]
    parameter = opset15.parameter(shape, OPENVINO_DTYPES[model.inputs[0].dtype])
    outputs = model(OpenVINOKerasTensor(parameter.output(0)), training=False)
    graph = openvino.Model([opset15.result(outputs.output)], [parameter])  # pyright: ignore
    return openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def trimmed(tokens: np.ndarray, end: int) -> np.ndarray:
    """Token ids `(N, L)` cut to the first of `TEXT_LENGTHS` that every text with its end fits into, or as they are.

    What lies behind the end cannot change an embedding, but costs as much as the text itself.
    """
    longest = int((tokens == end).argmax(axis=-1).max()) + 1
    return tokens[:, : next((length for length in TEXT_LENGTHS if length >= longest), None)]
