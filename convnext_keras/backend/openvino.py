"""OpenVINO: layer normalization as one operation, and models compiled from their own graphs.

Keras wraps OpenVINO's nodes in a class that it does not publish. Without it there is no `layer_norm` here, and models
are called directly, which compiles them anew for each call.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import openvino
from openvino import opset15

from convnext_keras.backend.openvino_nchw import convert_to_nchw

try:
    from keras.src.backend.openvino import core
except ImportError:
    core: Any = None


def _layer_norm(inputs, gamma, beta, epsilon: float):
    """Normalizes the last axis with OpenVINO's own operation."""
    last = openvino.op.Constant(openvino.Type.i64, openvino.Shape([1]), [len(inputs.shape) - 1])
    outputs = opset15.mvn(core.get_ov_output(inputs), last, True, epsilon, "inside_sqrt").output(0)
    if gamma is not None:
        outputs = opset15.multiply(outputs, core.get_ov_output(gamma)).output(0)
    if beta is not None:
        outputs = opset15.add(outputs, core.get_ov_output(beta)).output(0)
    return core.OpenVINOKerasTensor(outputs)


def to_openvino_graph(model: keras.Model, inputs: Any = None) -> openvino.Model:
    """Returns the model as OpenVINO's graph, for any number of rows.

    Args:
        model: A functional model.
        inputs: Inputs with shapes and types; those of the model if None.

    Raises:
        ImportError: If Keras has no such class of nodes any more.
    """
    if core is None:
        raise ImportError("This version of Keras does not show OpenVINO's nodes. Use another version, or format.")
    tensors = keras.tree.map_structure(_parameter, model.inputs[0] if inputs is None else inputs)
    outputs = keras.tree.flatten(model(tensors, training=False))
    parameters: Any = [tensor.output.get_node() for tensor in keras.tree.flatten(tensors)]
    graph = openvino.Model([opset15.result(row.output) for row in outputs], parameters)  # pyright: ignore
    convert_to_nchw(graph)
    return graph


def _parameter(tensor: keras.KerasTensor) -> Any:
    shape = [-1 if length is None else length for length in tensor.shape]
    return core.OpenVINOKerasTensor(opset15.parameter(shape, core.OPENVINO_DTYPES[tensor.dtype]).output(0))


class CompiledModels(NamedTuple):
    """Compiled models of one set of weights.

    Attributes:
        values: Values of its weights then.
        by_shape: Programs by the types of the inputs and the shapes of their rows.
    """

    values: list[Any]
    by_shape: dict[tuple, openvino.CompiledModel]


MAX_COMPILED_SHAPES = 2  # of inputs, for which a model stays compiled
_compiled_models: weakref.WeakKeyDictionary[keras.Model, CompiledModels] = weakref.WeakKeyDictionary()


def _predict_batch(model: keras.Model, inputs: Any) -> Any:
    """Returns outputs for `predict`, in OpenVINO's default precision; recompiles the model if its weights changed."""
    values = [variable.value for variable in model.weights]
    known = _compiled_models.get(model)
    if known is None or [*map(id, known.values)] != [*map(id, values)]:
        known = _compiled_models[model] = CompiledModels(values, {})
    rows = keras.tree.map_structure(lambda row: keras.KerasTensor((None, *row.shape[1:]), str(row.dtype)), inputs)
    shape = tuple((row.dtype, *row.shape) for row in keras.tree.flatten(rows))
    if shape not in known.by_shape:
        if len(known.by_shape) == MAX_COMPILED_SHAPES:
            known.by_shape.clear()
        known.by_shape[shape] = openvino.compile_model(to_openvino_graph(model, rows), core.get_device())
    outputs = known.by_shape[shape](keras.tree.flatten(inputs)).to_tuple()
    return outputs[0] if len(outputs) == 1 else keras.tree.pack_sequence_as(model.output, outputs)


def _compile_model(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model as OpenVINO compiles it for any number of rows, in float32; for free sizes, one at a time."""
    programs: dict[tuple[int, ...], openvino.CompiledModel] = {}
    has_free_sizes = None in model.inputs[0].shape[1:]

    def run(inputs: np.ndarray) -> np.ndarray:
        shape = inputs.shape[1:] if has_free_sizes else ()
        if shape not in programs:
            rows = keras.KerasTensor((None, *shape), model.inputs[0].dtype) if shape else None
            programs.clear()
            graph = to_openvino_graph(model, rows)
            programs[shape] = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return programs[shape](inputs)[0]

    return run


def _run_compiled(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model called directly, which Keras computes in float32."""
    return lambda inputs: np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


layer_norm = _layer_norm if core else None
compile_model = _compile_model if core else _run_compiled
predict_batch = _predict_batch if core else None
