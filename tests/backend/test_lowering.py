"""Lowering for GPUs and TPUs: XLA receives the depthwise convolution as one convolution."""

import re

import keras
import numpy as np
import pytest
from backends import BACKEND

from convnext_keras import ConvNeXt

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "weights": None, "classes": 5, "input_shape": (32, 32, 3)}
pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="JAX lowers for devices that are not there")


def lowered(platform, function, *arguments):
    """The program for a platform, in StableHLO's text."""
    import jax
    from jax import export

    return export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


def groups(program):
    """Returns the number of groups and the type of each convolution."""
    found = re.findall(r"stablehlo\.convolution.*?feature_group_count = (\d+).*?-> tensor<[\dx]*x(\w+)>", program)
    return [(int(count), kind) for count, kind in found]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_depthwise_convolutions_are_native_on_accelerators(platform, dtype):
    import jax

    model = ConvNeXt(**SIZES, dtype=keras.dtype_policies.get(dtype))
    pixels = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
    found = groups(lowered(platform, lambda inputs: model(inputs, training=False), pixels))
    depthwise = sorted(count for count, _ in found if count > 1)
    assert depthwise == ([] if platform == "cpu" else [8, 12, 16, 20])
    kind = "bf16" if dtype == "mixed_bfloat16" else "f32"
    assert {each for count, each in found if count > 1} <= {kind}


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_bfloat16_matmuls_are_not_converted(platform):
    """With sums in float32 on CPUs, where XLA converts the matrices otherwise; gradients too."""
    import jax

    from convnext_keras.backend import jax as jax_kernels

    def loss(inputs, kernel, bias):
        return jax_kernels.dense(inputs, kernel, bias, keras.activations.gelu).astype("float32").sum()

    arguments = [jax.ShapeDtypeStruct(shape, "bfloat16") for shape in ((2, 4, 4, 8), (8, 6), (6,))]
    program = lowered(platform, jax.grad(loss, argnums=(0, 1, 2)), *arguments)
    found = re.findall(
        r"stablehlo\.dot_general.*: \(tensor<\S*x(\w+)>, tensor<\S*x(\w+)>\) -> tensor<\S*x(\w+)>", program
    )
    assert found == [("bf16", "bf16", "f32" if platform == "cpu" else "bf16")] * 3


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_depthwise_gradients_are_native_on_accelerators(platform):
    import jax

    model = ConvNeXt(**SIZES)

    def loss(weights, pixels):
        outputs = model.stateless_call(weights, [], pixels, training=True)[0]
        return outputs[:, 0].sum()

    weights = [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in model.trainable_variables]
    assert not model.non_trainable_variables
    found = groups(lowered(platform, jax.grad(loss), weights, jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)))
    # Forward, for the inputs and for the kernels, each in groups; the first layers need no gradient of their inputs.
    assert len([count for count, _ in found if count > 1]) >= 2 * 4
    program = lowered(platform, jax.grad(loss), weights, jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32))
    assert "stablehlo.while" not in program  # the loop of the kernel's gradient on CPUs
