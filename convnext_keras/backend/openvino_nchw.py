"""Conversion of OpenVINO graphs to `(N, C, H, W)`, the layout of its convolutions.

Keras writes a transposition before and after each convolution of channels-last tensors. Where the number of rows is
free, OpenVINO's program for CPUs copies the whole tensor for each, takes the norm of the last of four axes apart, and
adds biases and residuals on their own. Between convolutions the same numbers are had without any of it.
"""

from collections.abc import Callable

import openvino
from openvino import Node, Output, opset15

NCHW_TO_NHWC, NHWC_TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
CONVOLUTIONS = {"Convolution", "GroupConvolution", "MaxPool", "AvgPool"}
# Operations on each element, of one tensor or of several that are broadcast.
POINTWISE = (
    *("Add", "Subtract", "Multiply", "Divide", "Power", "Maximum", "Minimum", "SquaredDifference", "Convert"),
    *("Gelu", "Swish", "Mish", "Relu", "Elu", "Selu", "Clamp", "Sigmoid", "HardSigmoid", "HSigmoid", "HSwish"),
    *("Tanh", "SoftPlus", "Exp", "Sqrt", "Abs", "Negative"),
)
REDUCTIONS = ("MVN", "ReduceMean", "ReduceSum", "ReduceMax")
ORDER_PRESERVING_AXES = ([1, 2], [3])  # axes without which those that are left have the same order either way

# Outputs of a graph, `(N, H, W, C)`, and those that have the same numbers as `(N, C, H, W)`.
NchwOutputs = dict[Output, Output]


def convert_to_nchw(graph: openvino.Model) -> None:
    """Changes a graph of channels-last tensors: the same inputs and outputs, but few transpositions between.

    Args:
        graph: Graph with any shapes, also free ones; changed in place. Operations that are not known here get their
            inputs as they were.
    """
    first: NchwOutputs = {}
    untransposed: dict[Output, Output] = {}  # what transpositions to channels first gave, and what is that without them
    for node, inputs in [(node, node.input_values()) for node in graph.get_ordered_ops()]:
        _connect(node, inputs, untransposed)
        kind = node.get_type_name()
        if kind == "Transpose":
            order, source = _integers(inputs[1]), inputs[0]
            if order == NCHW_TO_NHWC and source.get_node().get_type_name() in CONVOLUTIONS:
                first[node.output(0)] = source
                continue
            if order == NHWC_TO_NCHW and source in first:
                untransposed[node.output(0)] = first[source]
                continue
        is_known = kind in CONVERTERS and not any(port in untransposed for port in inputs)
        if any(port in first for port in inputs) and not (is_known and CONVERTERS[kind](node, inputs, first)):
            as_it_was = {
                port: opset15.transpose(first[port], NCHW_TO_NHWC).output(0) for port in inputs if port in first
            }
            _connect(node, inputs, as_it_was)
    graph.validate_nodes_and_infer_types()


def _connect(node: Node, inputs: list[Output], others: dict[Output, Output]) -> None:
    """Gives an operation others in place of some inputs."""
    for index, port in enumerate(inputs):
        if port in others:
            node.input(index).replace_source_output(others[port])


def _pointwise(node: Node, inputs: list[Output], first: NchwOutputs) -> bool:
    others = {port: first.get(port) or _broadcast_nchw(port) for port in inputs}
    known = {port: other for port, other in others.items() if other}
    if len(known) < len(others):
        return False
    _connect(node, inputs, known)
    node.validate_and_infer_types()
    first[node.output(0)] = node.output(0)
    return True


def _broadcast_nchw(port: Output) -> Output | None:
    """Converts a value that broadcasts to `(N, H, W, C)` for `(N, C, H, W)`; returns None for two or three axes."""
    rank = _rank(port)
    if rank == 1:
        return opset15.reshape(port, [1, -1, 1, 1], False).output(0)
    if rank == 4:
        return opset15.transpose(port, NHWC_TO_NCHW).output(0)
    return port if rank == 0 else None


def _rank(port: Output) -> int | None:
    rank = port.get_partial_shape().rank
    return None if rank.is_dynamic else rank.get_length()


def _matmul_to_conv(node: Node, inputs: list[Output], first: NchwOutputs) -> bool:
    """Returns a product of each position's channels with a matrix is a convolution of one position."""
    rows, kernel = inputs
    attributes = node.get_attributes()
    if rows not in first or _rank(kernel) != 2 or attributes["transpose_a"]:
        return False
    matrix = kernel if attributes["transpose_b"] else opset15.transpose(kernel, [1, 0]).output(0)
    filters = opset15.unsqueeze(matrix, [2, 3])
    first[node.output(0)] = opset15.convolution(first[rows], filters, [1, 1], [0, 0], [0, 0], [1, 1]).output(0)
    return True


def _reduce(node: Node, inputs: list[Output], first: NchwOutputs) -> bool:
    """Sums, means and norms along the same axes, which have other numbers."""
    tensor, given = inputs
    axes = sorted(axis % 4 for axis in _integers(given))
    keeps = node.get_type_name() == "MVN" or node.get_attributes()["keep_dims"]
    if tensor not in first or not axes or not (keeps or axes in ORDER_PRESERVING_AXES):
        return False
    others = opset15.constant([NHWC_TO_NCHW.index(axis) for axis in axes], given.get_element_type())
    _connect(node, inputs, {tensor: first[tensor], given: others.output(0)})
    node.validate_and_infer_types()
    if keeps:
        first[node.output(0)] = node.output(0)
    return True


def _integers(port: Output) -> list[int]:
    """Returns those of a constant; none of anything else."""
    node = port.get_node()
    return node.get_data().reshape(-1).tolist() if node.get_type_name() == "Constant" else []


# How each kind of operation becomes one of channels-first tensors; False if it cannot, and nothing was changed.
CONVERTERS: dict[str, Callable[[Node, list[Output], NchwOutputs], bool]] = {
    "MatMul": _matmul_to_conv,
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
}
