"""OpenVINO: layer normalization as one operation where Keras writes it out, and models compiled in float32.

Keras wraps OpenVINO's nodes in a class that it does not publish. Without it there is no `layer_norm` here, and models
are called directly, which compiles them anew for each call.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import openvino
from openvino import opset15

from convnext_keras.kernels.channels_first import channels_first

try:
    from keras.src.backend.openvino import core
except ImportError:
    core: Any = None


def _layer_norm(inputs, gamma, beta, epsilon: float):
    """OpenVINO's own operation for zero mean and unit variance of the last axis."""
    last = openvino.op.Constant(openvino.Type.i64, openvino.Shape([1]), [len(inputs.shape) - 1])
    outputs = opset15.mvn(core.get_ov_output(inputs), last, True, epsilon, "inside_sqrt").output(0)
    if gamma is not None:
        outputs = opset15.multiply(outputs, core.get_ov_output(gamma)).output(0)
    if beta is not None:
        outputs = opset15.add(outputs, core.get_ov_output(beta)).output(0)
    return core.OpenVINOKerasTensor(outputs)


def graph_of(model: keras.Model) -> openvino.Model:
    """The model as OpenVINO's graph, for any number of rows.

    Raises:
        ImportError: if Keras has no such class of nodes any more.
    """
    if core is None:
        raise ImportError("This version of Keras does not show OpenVINO's nodes. Use another version, or format.")
    shape = [-1 if length is None else length for length in model.inputs[0].shape]
    parameter = opset15.parameter(shape, core.OPENVINO_DTYPES[model.inputs[0].dtype])
    outputs = keras.tree.flatten(model(core.OpenVINOKerasTensor(parameter.output(0)), training=False))
    graph = openvino.Model([opset15.result(row.output) for row in outputs], [parameter])  # pyright: ignore
    channels_first(graph)
    return graph


def _compiled(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """The model as OpenVINO compiles it for any number of rows, in float32."""
    program = openvino.compile_model(graph_of(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: program(inputs)[0]


def _called(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """The model called directly, which Keras computes in float32."""
    return lambda inputs: np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


layer_norm = _layer_norm if core else None
compiled = _compiled if core else _called
