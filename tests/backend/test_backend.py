"""The operations that each backend computes in a way of its own, against float64, forward and gradient."""

import importlib
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import BACKEND, needs_training, to_numpy
from keras import ops

from convnext_keras import backend
from convnext_keras import backend as backend_package
from convnext_keras.backend import common
from convnext_keras.layers import (
    DepthwiseConvolution,
    FusedDense,
    LayerNormalization,
)

pytestmark = pytest.mark.cross_backend

CASES = [
    # kernel size, dilation, (N, H, W, C)
    (7, 1, (2, 9, 12, 5)),
    (7, 1, (1, 3, 2, 4)),
    (5, 1, (2, 8, 8, 3)),
    ((3, 5), 1, (2, 8, 6, 3)),
    (7, 2, (1, 11, 14, 3)),
    (3, 4, (1, 16, 16, 2)),
]
TOLERANCE = 2e-5  # of float32 sums of 49 products of order 1


def depthwise_reference(inputs, kernel, rate):
    """Returns outputs `(N, H, W, C)` in float64, and a function from an upstream gradient to both gradients."""
    rows, columns = kernel.shape[:2]
    margin = [(0, 0), ((rows - 1) * rate // 2,) * 2, ((columns - 1) * rate // 2,) * 2, (0, 0)]
    padded = np.pad(inputs.astype("float64"), margin)
    height, width = inputs.shape[1:3]

    def window(array, row, column):
        return array[:, row * rate : row * rate + height, column * rate : column * rate + width]

    positions = [(row, column) for row in range(rows) for column in range(columns)]
    result = sum(window(padded, *position) * kernel[(*position, 0)] for position in positions)

    def gradients(upstream):
        for_inputs, for_kernel = np.zeros_like(padded), np.zeros(kernel.shape)
        for position in positions:
            window(for_inputs, *position)[...] += upstream * kernel[(*position, 0)]
            for_kernel[(*position, 0)] = (window(padded, *position) * upstream).sum(axis=(0, 1, 2))
        for_inputs = for_inputs[:, margin[1][0] :][:, :height, margin[2][0] :][:, :, :width]
        return for_inputs, for_kernel

    return result, gradients


def example(kernel_size, rate, shape):
    random = np.random.default_rng(0)
    layer = DepthwiseConvolution(shape[-1], kernel_size, dilation_rate=rate, use_bias=False)
    layer.build(shape)
    kernel = random.normal(size=layer.kernel.shape).astype("float32")
    layer.kernel.assign(kernel)
    return layer, random.normal(size=shape).astype("float32"), kernel, random.normal(size=shape).astype("float32")


def run_with_gradients(layer, inputs, upstream, compiled):
    """Outputs, and gradients of `sum(outputs * upstream)`, eagerly or compiled (by XLA where there is one)."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def step(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                results = layer(inputs)
                loss = tf.reduce_sum(results * upstream)
            return results, tape.gradient(loss, [inputs, layer.kernel.value])

        step = tf.function(step, jit_compile=True) if compiled else step
        return step(tf.constant(inputs))
    if BACKEND == "jax":
        import jax

        others = [variable.value for variable in layer.trainable_variables[1:]]

        def loss(inputs, kernel):
            results = layer.stateless_call([kernel, *others], [], inputs)[0]
            return (results * upstream).sum(), results

        step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, results), gradients = (jax.jit(step) if compiled else step)(inputs, layer.kernel.value)
        return results, gradients
    import torch

    tensor = torch.tensor(inputs, requires_grad=True)
    results = layer(tensor)
    (results * torch.tensor(upstream)).sum().backward()
    return results, (tensor.grad, layer.kernel.value.grad)


@pytest.mark.parametrize(("kernel_size", "rate", "shape"), CASES)
def test_depthwise_outputs(kernel_size, rate, shape):
    layer, inputs, kernel, _ = example(kernel_size, rate, shape)
    expected, _ = depthwise_reference(inputs, kernel, rate)
    np.testing.assert_allclose(to_numpy(layer(inputs)), expected, atol=TOLERANCE)


@needs_training
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("kernel_size", "rate", "shape"), CASES)
def test_depthwise_gradients(kernel_size, rate, shape, compiled):
    layer, inputs, kernel, upstream = example(kernel_size, rate, shape)
    expected, gradients = depthwise_reference(inputs, kernel, rate)
    results, found = run_with_gradients(layer, inputs, upstream, compiled)
    np.testing.assert_allclose(to_numpy(results), expected, atol=TOLERANCE)
    for gradient, wanted in zip(found, gradients(upstream), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), wanted, atol=10 * TOLERANCE)


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="the others have no XLA")
@pytest.mark.parametrize(("kernel_size", "rate", "shape"), CASES)
def test_depthwise_shift_add_accepts_any_batch_and_size(kernel_size, rate, shape):
    layer, inputs, kernel, _ = example(kernel_size, rate, shape)
    expected, _ = depthwise_reference(inputs, kernel, rate)
    found = common.shifted_depthwise(ops.convert_to_tensor(inputs), layer.kernel.value, rate)
    np.testing.assert_allclose(to_numpy(found), expected, atol=TOLERANCE)


def test_depthwise_accepts_unknown_sizes():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, DepthwiseConvolution(3, 7)(inputs))
    assert to_numpy(model(np.ones((1, 5, 9, 3), "float32"))).shape == (1, 5, 9, 3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_depthwise_accumulates_in_float32(policy):
    """Forty-nine products of 1.0 and 40.0 lose digits in 16 bits, but their sum has three significant ones only."""
    layer = DepthwiseConvolution(2, 7, kernel_initializer="ones", dtype=policy)
    found = layer(np.full((1, 7, 7, 2), 40.0, "float32"))
    assert keras.backend.standardize_dtype(found.dtype) == layer.compute_dtype
    np.testing.assert_allclose(to_numpy(ops.cast(found, "float32"))[0, 3, 3], 1960, rtol=4e-3)


def test_depthwise_rejects_even_kernels():
    with pytest.raises(ValueError, match="must be odd"):
        DepthwiseConvolution(3, 4)


DENSE_SHAPES = [(2, 5, 7, 6), (1, 6), (3, 6), (2, 3, 6), (1, 32, 32, 6)]
GELU_ERROR = 1e-5  # of float32 sums of six products of order 1, and of the error function


def gelu_reference(x):
    """Exact GELU and its derivative in float64."""
    cumulative = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x * cumulative, cumulative + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def dense_example(shape, activation):
    random = np.random.default_rng(0)
    layer = FusedDense(10, activation=activation)
    layer.build(shape)
    kernel, bias = random.normal(size=(shape[-1], 10)), random.normal(size=10)
    layer.set_weights([kernel, bias])
    inputs, upstream = random.normal(size=shape), random.normal(size=(*shape[:-1], 10))
    outputs = inputs @ kernel + bias
    slope = np.ones_like(outputs)
    if activation == "gelu":
        outputs, slope = gelu_reference(outputs)
    rows = (upstream * slope).reshape(-1, 10)
    for_kernel = inputs.reshape(-1, shape[-1]).T @ rows
    return (
        layer,
        inputs.astype("float32"),
        upstream.astype("float32"),
        outputs,
        ((upstream * slope) @ kernel.T, for_kernel),
    )


@pytest.mark.parametrize("activation", ["linear", "gelu"])
@pytest.mark.parametrize("shape", DENSE_SHAPES)
def test_dense_outputs(shape, activation):
    layer, inputs, _, expected, _ = dense_example(shape, activation)
    np.testing.assert_allclose(to_numpy(layer(inputs)), expected, atol=GELU_ERROR)
    inside = keras.Model(layer_input := keras.Input(shape[1:]), layer(layer_input))
    np.testing.assert_allclose(
        inside.predict(inputs, verbose=0), expected, atol=4e-2 if BACKEND == "openvino" else GELU_ERROR
    )


@needs_training
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("activation", ["linear", "gelu"])
@pytest.mark.parametrize("shape", DENSE_SHAPES)
def test_dense_gradients(shape, activation, compiled):
    layer, inputs, upstream, expected, gradients = dense_example(shape, activation)
    results, found = run_with_gradients(layer, inputs, upstream, compiled)
    np.testing.assert_allclose(to_numpy(results), expected, atol=GELU_ERROR)
    for gradient, wanted in zip(found, gradients, strict=True):
        np.testing.assert_allclose(to_numpy(gradient), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaled", [True, False])
def test_layer_normalization(scaled):
    random = np.random.default_rng(0)
    inputs, (gamma, beta) = random.normal(3, 2, size=(2, 3, 4, 5)), random.normal(size=(2, 5))
    layer = LayerNormalization(epsilon=1e-6, scale=scaled, center=scaled)
    layer.build(inputs.shape)
    layer.set_weights([gamma, beta] if scaled else [])
    normal = (inputs - inputs.mean(-1, keepdims=True)) / np.sqrt(inputs.var(-1, keepdims=True) + 1e-6)
    expected = normal * gamma + beta if scaled else normal
    np.testing.assert_allclose(to_numpy(layer(inputs.astype("float32"))), expected, atol=TOLERANCE)


@pytest.mark.skipif(BACKEND != "torch", reason="the path is our own under PyTorch only")
@pytest.mark.parametrize("activation", ["linear", "gelu", "silu"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("is_missing", [False, True])
def test_16_bit_models_run_on_any_processor(precision, activation, is_missing, monkeypatch):
    """Sums in float32, rounded once, on this processor and on one without instructions for such numbers."""
    import torch

    from convnext_keras.backend import torch as torch_backend

    dtype, random = getattr(torch, precision), torch.Generator().manual_seed(0)
    if is_missing:
        monkeypatch.setattr(torch_backend, "EMULATED_DTYPES", [dtype])
        monkeypatch.setattr(torch_backend, "LINEAR_OP", None)
    activate, shapes = keras.activations.get(activation), ((3, 5, 4, 48), (48, 9), (9,), (3, 3, 1, 48), (48,))
    tensors = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
    inputs, kernel, bias, window, of_channels = (tensor.double() for tensor in tensors)
    found = torch_backend.dense(*tensors[:3], activate)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), activate(inputs @ kernel + bias), rtol=1e-2, atol=2e-2)
    found = torch_backend.depthwise(tensors[0], *tensors[3:], 1)
    assert found.dtype == dtype
    wanted = torch_backend.depthwise(inputs, window, of_channels, 1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=2e-2)


@pytest.mark.skipif(BACKEND != "torch", reason="the choice is our own under PyTorch only")
@pytest.mark.parametrize("activation", ["linear", "gelu", "silu"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("prefers_mkl", [True, False])
def test_both_libraries_of_matmuls_equal_float64(prefers_mkl, has_bias, activation, monkeypatch):
    import torch

    from convnext_keras.backend import torch as torch_backend

    monkeypatch.setattr(torch_backend, "PREFERS_MKL", prefers_mkl)
    random, activate = torch.Generator().manual_seed(0), keras.activations.get(activation)
    inputs, kernel, bias = (torch.randn(shape, generator=random) for shape in ((3, 5, 4, 48), (48, 96), (96,)))
    bias, before = bias if has_bias else None, inputs.clone()
    expected = inputs.double() @ kernel.double() + (bias.double() if has_bias else 0)
    for given in (inputs, inputs.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)):
        with torch.no_grad():
            found = torch_backend.dense(given, kernel, bias, activate)
        torch.testing.assert_close(found.double(), activate(expected), rtol=1e-5, atol=1e-4)
    assert torch.equal(inputs, before)


@pytest.mark.skipif(BACKEND != "jax", reason="the product is our own under JAX only")
@pytest.mark.parametrize("activation", ["linear", "gelu", "silu"])
def test_bfloat16_matmuls_accumulate_in_float32(activation):
    """Outputs and gradients round once, where products of bfloat16, biases and activations round three times."""
    import jax

    from convnext_keras.backend import jax as jax_backend

    activate, random = keras.activations.get(activation), np.random.default_rng(0)
    shapes = ((3, 5, 4, 48), (48, 9), (9,))
    narrow = [ops.cast(random.normal(size=shape), "bfloat16") for shape in shapes]
    wide = [ops.cast(array, "float32") for array in narrow]

    def loss(inputs, kernel, bias):
        return ops.sum(ops.cast(jax_backend.dense(inputs, kernel, bias, activate), "float32"))

    found, expected = (jax_backend.dense(*arrays, activate) for arrays in (narrow, wide))
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(to_numpy(ops.cast(found, "float32")), expected, rtol=2**-8, atol=1e-6)
    gradients, wanted = (jax.grad(loss, argnums=(0, 1, 2))(*arrays) for arrays in (narrow, wide))
    for gradient, of_wide in zip(gradients, wanted, strict=True):
        assert gradient.dtype == "bfloat16"
        np.testing.assert_allclose(to_numpy(ops.cast(gradient, "float32")), of_wide, rtol=1e-2, atol=5e-2)


@pytest.mark.skipif(BACKEND != "torch", reason="the gradient is our own under PyTorch only")
def test_dense_supports_second_derivatives_vmap_and_export():
    import torch

    from convnext_keras.backend import torch as torch_backend

    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=random, requires_grad=True) for shape in ((2, 3, 4), (4, 5), (5,))]
    with torch.no_grad():
        assert torch_backend.has_fast_matmul(*tensors[:2])

    def plain(inputs, kernel, bias):
        return torch.nn.functional.linear(inputs, kernel.T, bias)

    def second(function):
        (first,) = torch.autograd.grad((function(*tensors) ** 2).sum(), tensors[0], create_graph=True)
        return torch.autograd.grad((first**2).sum(), tensors[:2])

    def linear(inputs, kernel, bias):
        return torch_backend.dense(inputs, kernel, bias, keras.activations.linear)

    for found, wanted in zip(second(linear), second(plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    mapped = torch.func.vmap(linear, in_dims=(0, None, None))(*tensors)
    torch.testing.assert_close(mapped, plain(*tensors))
    layer = FusedDense(5, activation="gelu")
    layer.build((None, 4))
    program = torch.export.export(layer, (torch.zeros(2, 4),))
    assert "mkldnn" not in str(program.graph)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the path that exports to a SavedModel")
def test_saved_model_runs_without_xla(tmp_path):
    import tensorflow as tf

    from convnext_keras import create_model

    model = create_model("convnext_mini", weights=None, classes=3)
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    functions = served.graph.as_graph_def().library.function
    attributes = [name for function in functions for name in function.attr]
    operations = {node.op for function in functions for node in function.node_def}
    assert "DepthwiseConv2dNative" in operations
    assert not [name for name in attributes if "XlaMustCompile" in name]


def without(monkeypatch, name):
    """The module of this backend's kernels as it is where a private name of another library is absent."""
    module = importlib.import_module(f"convnext_keras.backend.{BACKEND}")
    monkeypatch.setattr(module, name, None)
    return module


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's private name")
@pytest.mark.parametrize("compiled", [False, True])
def test_tensorflow_falls_back_without_private_name(compiled, monkeypatch):
    """Slower under XLA, still right."""
    without(monkeypatch, "control_flow_util")
    kernel_size, rate, shape = CASES[0]
    layer, inputs, kernel, upstream = example(kernel_size, rate, shape)
    expected, gradients = depthwise_reference(inputs, kernel, rate)
    results, found = run_with_gradients(layer, inputs, upstream, compiled)
    np.testing.assert_allclose(to_numpy(results), expected, atol=TOLERANCE)
    for gradient, wanted in zip(found, gradients(upstream), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), wanted, atol=10 * TOLERANCE)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's private names")
@pytest.mark.parametrize("absent", ["LINEAR_OP", "is_transformed"])
def test_pytorch_falls_back_without_private_names(absent, monkeypatch):
    """Slower, still right; the modules read the names by `getattr` with these defaults."""
    import torch

    from convnext_keras.backend import torch as torch_backend

    monkeypatch.setattr(torch_backend, absent, None if absent == "LINEAR_OP" else lambda: True)
    assert not torch_backend.has_fast_matmul(torch.ones(2, 6), torch.ones(6, 10))
    layer, inputs, upstream, expected, gradients = dense_example((2, 5, 7, 6), "gelu")
    results, found = run_with_gradients(layer, inputs, upstream, compiled=False)
    np.testing.assert_allclose(to_numpy(results), expected, atol=GELU_ERROR)
    for gradient, wanted in zip(found, gradients, strict=True):
        np.testing.assert_allclose(to_numpy(gradient), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(BACKEND != "openvino", reason="Keras' private names")
def test_openvino_falls_back_without_private_names(monkeypatch):
    """Slower, still right: Keras' own norm, and models that are called directly."""
    from convnext_keras import clip

    model = clip.create_model("shapes")
    images, texts = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), "uint8"), ["a red star", "two rings"]
    expected = model.encode_image(images), model.encode_text(texts)
    specification = importlib.util.find_spec("convnext_keras.backend.openvino")
    module = importlib.util.module_from_spec(specification)
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "keras.src.backend.openvino", None)
        specification.loader.exec_module(module)
    assert module.layer_norm is module.predict_batch is None
    for name in ("layer_norm", "compile_model", "predict_batch"):
        monkeypatch.setattr(backend, name, getattr(module, name))
    again = clip.create_model("shapes")
    for vectors, wanted in zip((again.encode_image(images), again.encode_text(texts)), expected, strict=True):
        np.testing.assert_allclose(vectors, wanted, atol=TOLERANCE)


PRIVATE = re.compile(r"keras\.src|tensorflow\.python|torch\._C|torch\.ops\.|jax\._src|openvino\._")


@pytest.mark.any_backend
def test_private_names_of_other_libraries_are_used_in_backend_only():
    package = Path(backend_package.__file__).parents[1]
    users = {path.relative_to(package).parts[0] for path in package.rglob("*.py") if PRIVATE.search(path.read_text())}
    assert users == {"backend"}


AS_USERS_HAVE_IT = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
TESTS = Path(__file__).parents[1]
# XLA compiles under TensorFlow what `fit` does, and every operation under JAX.
COMPILED = {
    "jax": __file__,
    "tensorflow": f"{TESTS}/training/test_finetuning.py::test_first_loss_and_gradients_equal_pytorch",
}


@pytest.mark.slow
@pytest.mark.skipif(BACKEND not in COMPILED, reason="XLA compiles nothing")
@pytest.mark.skipif(AS_USERS_HAVE_IT.items() <= os.environ.items(), reason="these are a user's settings")
def test_models_compile_with_user_settings():
    """Numbers and gradients again, without the settings that conftest.py makes for little time."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", COMPILED[BACKEND]]
    ended = subprocess.run(command, cwd=TESTS.parent, env={**os.environ, **AS_USERS_HAVE_IT}, capture_output=True)
    assert ended.returncode == 0, ended.stdout.decode()[-3000:]
