"""OpenVINO's graphs in the order of its convolutions: the same numbers, and no copies between."""

import keras
import numpy as np
import pytest
from backends import BACKEND, outputs, randomize, to_numpy

from convnext_keras import ConvNeXt, feature_extractor

if BACKEND != "openvino":
    pytest.skip("graphs are made under OpenVINO", allow_module_level=True)

import openvino
from openvino import opset15

from convnext_keras.backend.openvino import to_openvino_graph
from convnext_keras.backend.openvino_nchw import NCHW_TO_NHWC, NHWC_TO_NCHW, convert_to_nchw

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "weights": None, "classes": 5}
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def run(graph, *inputs):
    program = openvino.compile_model(graph, "CPU", FLOAT32)
    return [np.array(row) for row in program(list(inputs)).to_tuple()]


def transpositions(graph):
    """Those of four axes that depend on the input."""
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Transpose"]
    return sum(node.get_output_partial_shape(0).is_dynamic for node in nodes)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, 1),
        ({"use_grn": True, "layer_scale": False}, 1),
        ({"norm": "rms", "activation": "gelu_tanh"}, 1),
        ({"norm": "simple", "activation": "quick_gelu"}, 1),
        ({"activation": "silu", "head_norm_first": True}, 1),
        ({"activation": "hard_mish", "conv_bias": False}, 1),
        ({"activation": "mish", "head_pooling": "avgmax"}, 1),
        ({"activation": "selu", "head_pooling": "none"}, 2),
        ({"stem": "overlap", "stem_width": 6}, 3),
        ({"include_top": False}, 2),
    ],
)
def test_models_have_the_same_outputs_and_few_transpositions(options, left):
    model = randomize(ConvNeXt(**SIZES, **options, input_shape=(None, None, 3)))
    graph = to_openvino_graph(model)
    for shape in ((3, 32, 32, 3), (1, 40, 64, 3)):
        pixels = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
        expected = outputs(model, pixels)
        (found,) = run(graph, pixels)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert transpositions(graph) == left


def test_features_keep_their_order_of_axes():
    extractor = feature_extractor(randomize(ConvNeXt(**SIZES, include_top=False, input_shape=(32, 48, 3))), (1, 2, 3))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 48, 3)).astype("float32")
    for row, expected in zip(
        run(to_openvino_graph(extractor), pixels), keras.tree.flatten(extractor(pixels)), strict=True
    ):
        np.testing.assert_allclose(row, to_numpy(expected), atol=1e-5 * np.abs(to_numpy(expected)).max())


def numbers(*shape):
    return np.random.default_rng(len(shape)).normal(0, 1, shape).astype("float32")


def convolved(last):
    """A convolution of channels-last `(N, 5, 7, 3)` to `(N, 5, 7, 4)`, as Keras writes it."""
    first = opset15.transpose(last, NHWC_TO_NCHW)
    product = opset15.convolution(first, numbers(4, 3, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1])
    return opset15.transpose(product, NCHW_TO_NHWC)


# What may follow a convolution: of a channels-last tensor `(N, 5, 7, 4)`, and of its input.
CASES = {
    "scalar": lambda last, given: opset15.multiply(last, np.float32(3)),
    "bias": lambda last, given: opset15.add(numbers(4), last),
    "one for each position": lambda last, given: opset15.add(last, numbers(1, 5, 7, 1)),
    "three axes": lambda last, given: opset15.add(last, numbers(5, 7, 4)),
    "two axes": lambda last, given: opset15.add(last, numbers(7, 4)),
    "residual": lambda last, given: opset15.add(opset15.relu(last), last),
    "of the input": lambda last, given: opset15.add(last, opset15.reduce_mean(given, [3], True)),
    "twice": lambda last, given: opset15.add(
        opset15.softmax(last, 3), opset15.add(opset15.relu(last), opset15.softmax(last, 2))
    ),
    "product": lambda last, given: opset15.matmul(last, numbers(4, 6), False, False),
    "transposed product": lambda last, given: opset15.matmul(last, numbers(6, 4), False, True),
    "product from the left": lambda last, given: opset15.matmul(numbers(6, 7), last, False, False),
    "product of its transposition": lambda last, given: opset15.matmul(last, numbers(7, 6), True, False),
    "product with itself": lambda last, given: opset15.matmul(last, last, False, True),
    "norm": lambda last, given: opset15.mvn(last, [-1], True, 1e-6, "inside_sqrt"),
    "norm of positions": lambda last, given: opset15.mvn(last, [1, 2], True, 1e-6, "inside_sqrt"),
    "mean of positions": lambda last, given: opset15.reduce_mean(last, [1, 2], False),
    "mean of rows": lambda last, given: opset15.reduce_mean(last, [1], False),
    "mean of channels": lambda last, given: opset15.relu(opset15.reduce_mean(last, [-1], False)),
    "kept mean of rows": lambda last, given: opset15.subtract(last, opset15.reduce_mean(last, [1], True)),
    "shape": lambda last, given: opset15.reshape(last, [0, 35, 4], True),
    "halves": lambda last, given: opset15.concat([opset15.relu(last), last], 1),
    "another": lambda last, given: convolved_again(opset15.relu(last)),
    "another and itself": lambda last, given: opset15.add(convolved_again(opset15.relu(last)), last),
}


def convolved_again(last):
    first = opset15.transpose(last, NHWC_TO_NCHW)
    product = opset15.convolution(first, numbers(4, 4, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    return opset15.transpose(opset15.add(product, opset15.relu(first)), NCHW_TO_NHWC)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("later", [None, "product"])
def test_operations_after_a_convolution_have_equal_outputs(case, later):
    def graph():
        given = opset15.parameter([-1, 5, 7, 3], openvino.Type.f32)
        found = CASES[case](convolved(given), given)
        fits = [*found.output(0).get_partial_shape()][3:] == [4]
        found = CASES[later](found, given) if later and fits else found
        return openvino.Model([opset15.result(found)], [given])  # pyright: ignore

    changed, inputs = graph(), numbers(2, 5, 7, 3)
    convert_to_nchw(changed)
    (expected,), (found,) = run(graph(), inputs), run(changed, inputs)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))
