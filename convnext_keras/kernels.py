"""The two operations that take nearly all of a model's time, each by the way that is fast on the backend and device."""

import functools

import keras
from keras import ops


def widened(tensor):
    """The tensor in at least float32: sums of many 16-bit numbers lose digits and overflow."""
    return ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))


def with_bias(outputs, bias):
    """The sum of `(N, H, W, C)` and `(C,)`, or the former alone if there is no bias."""
    return outputs if bias is None else outputs + bias


def pad_same(inputs, kernel_size: tuple[int, int], dilation_rate: int):
    """Zero-pads an odd kernel's margin: (N, H, W, C) -> (N, H + (kh-1)d, W + (kw-1)d, C)."""
    height, width = ((size - 1) * dilation_rate // 2 for size in kernel_size)
    return ops.pad(inputs, ((0, 0), (height, height), (width, width), (0, 0)))


def shifted_sum(inputs, kernel, dilation_rate: int):
    """Depthwise convolution as one multiply-add per kernel position, which XLA fuses into a single pass over memory."""
    rows, columns = kernel.shape[:2]
    padded = pad_same(inputs, (rows, columns), dilation_rate)
    total = None
    for row in range(rows):
        for column in range(columns):
            top, bottom = row * dilation_rate, (row - rows + 1) * dilation_rate or None
            left, right = column * dilation_rate, (column - columns + 1) * dilation_rate or None
            term = padded[:, top:bottom, left:right] * kernel[row, column, 0]
            total = term if total is None else total + term
    return total


def shifted_kernel_gradient(inputs, upstream, kernel_size: tuple[int, int], dilation_rate: int):
    """Gradient of `shifted_sum` for its kernel: one fused product and sum per position, in a loop so that XLA compiles
    one of them and not all (49 in a row took five times as long to run and to compile).
    """
    rows, columns = kernel_size
    padded = pad_same(inputs, kernel_size, dilation_rate)

    def at_position(position):
        top, left = position // columns * dilation_rate, position % columns * dilation_rate
        window = ops.slice(padded, (0, top, left, 0), ops.shape(inputs))
        return ops.sum(window * upstream, axis=(0, 1, 2))

    gradient = ops.map(at_position, ops.arange(rows * columns))
    return ops.reshape(gradient, (rows, columns, 1, inputs.shape[-1]))


def shifted_depthwise(inputs, kernel, dilation_rate: int):
    """`shifted_sum` in at least float32, with its gradients written out: XLA's own take tens of seconds to compile.

    Args:
        inputs: `(N, H, W, C)`.
        kernel: `(kh, kw, 1, C)`, both sizes odd.
        dilation_rate: distance between kernel positions, in pixels.

    Returns:
        `(N, H, W, C)` in the type of `inputs`.
    """

    @ops.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            flipped = ops.flip(kernel, axis=(0, 1))
            return (
                shifted_sum(upstream, flipped, dilation_rate),
                shifted_kernel_gradient(inputs, upstream, kernel.shape[:2], dilation_rate),
            )

        return shifted_sum(inputs, kernel, dilation_rate), gradient

    return ops.cast(convolve(widened(inputs), widened(kernel)), inputs.dtype)


def depthwise_tensorflow(inputs, kernel, bias, dilation_rate: int):
    """TensorFlow: its depthwise op, except where XLA compiles for a CPU, which has no fast convolution with groups."""
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    accelerated = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
    if not accelerated and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return with_bias(shifted_depthwise(inputs, kernel, dilation_rate), bias)
    kernel = ops.transpose(kernel, (0, 1, 3, 2))  # (kh, kw, 1, C) -> (kh, kw, C, 1)
    dtype = inputs.dtype
    if not accelerated:  # The op is slow in 16 bits on a CPU (tensorflow#41715).
        inputs, kernel = widened(inputs), widened(kernel)
    options = {"padding": "same", "data_format": "channels_last", "dilation_rate": dilation_rate}
    return with_bias(ops.cast(ops.depthwise_conv(inputs, kernel, **options), dtype), bias)


def depthwise_native(inputs, kernel, bias, dilation_rate: int):
    """The backend's own convolution with one group a channel."""
    options = {"padding": "same", "data_format": "channels_last", "dilation_rate": dilation_rate}
    return with_bias(ops.conv(inputs, kernel, **options), bias)


@functools.cache
def compiled_depthwise(dilation_rate: int):
    """A function of inputs and kernel, compiled even in a direct call of a model; inside a program it dissolves."""
    import jax

    def convolve(inputs, kernel):
        return jax.lax.platform_dependent(
            inputs,
            kernel,
            cpu=functools.partial(shifted_depthwise, dilation_rate=dilation_rate),
            default=functools.partial(depthwise_native, bias=None, dilation_rate=dilation_rate),
        )

    return jax.jit(convolve)


def depthwise_jax(inputs, kernel, bias, dilation_rate: int):
    """JAX: chosen when XLA lowers the program, by the platform that it lowers for."""
    return with_bias(compiled_depthwise(dilation_rate)(inputs, kernel), bias)


def depthwise_torch(inputs, kernel, bias, dilation_rate: int):
    """PyTorch: its convolution on a view of the input, where Keras' copies it first."""
    from convnext_keras import torch_kernels

    return torch_kernels.depthwise(inputs, kernel, bias, dilation_rate)


DEPTHWISE = {"tensorflow": depthwise_tensorflow, "jax": depthwise_jax, "torch": depthwise_torch}


def dense_tensorflow(inputs, kernel, bias, activation):
    """TensorFlow: on rows, where its graph optimiser makes one operation of product, bias and exact GELU."""
    import tensorflow as tf

    shape = tf.concat([tf.shape(inputs)[:-1], [kernel.shape[-1]]], 0)
    rows = tf.reshape(inputs, (-1, kernel.shape[0]))
    outputs = tf.reshape(activation(tf.nn.bias_add(tf.matmul(rows, kernel), bias)), shape)
    outputs.set_shape([*inputs.shape[:-1], kernel.shape[-1]])
    return outputs


@functools.lru_cache(maxsize=64)
def compiled_dense(activation):
    """A function of inputs, kernel and bias, as `compiled_depthwise` is one."""
    import jax

    def on_rows(inputs, kernel, bias):
        rows = activation(inputs.reshape(-1, kernel.shape[0]) @ kernel + bias)
        return rows.reshape(*inputs.shape[:-1], kernel.shape[-1])

    return jax.jit(on_rows)


def dense_jax(inputs, kernel, bias, activation):
    """JAX: on rows, since XLA's gradients of products of four axes take two to three times as long on CPUs."""
    return compiled_dense(activation)(inputs, kernel, bias)


def dense_torch(inputs, kernel, bias, activation):
    """PyTorch: one operation for product and bias, where Keras runs two, and on CPUs through oneDNN."""
    from convnext_keras import torch_kernels

    return torch_kernels.dense(inputs, kernel, bias, activation)


DENSE = {"tensorflow": dense_tensorflow, "jax": dense_jax, "torch": dense_torch}


def norm_openvino(inputs, gamma, beta, epsilon: float):
    """OpenVINO: its own operation for zero mean and unit variance of the last axis, where Keras writes them out."""
    import openvino
    from keras.src.backend.openvino.core import OpenVINOKerasTensor, get_ov_output
    from openvino import opset15

    last = openvino.op.Constant(openvino.Type.i64, openvino.Shape([1]), [len(inputs.shape) - 1])
    outputs = opset15.mvn(get_ov_output(inputs), last, True, epsilon, "inside_sqrt").output(0)
    if gamma is not None:
        outputs = opset15.multiply(outputs, get_ov_output(gamma)).output(0)
    if beta is not None:
        outputs = opset15.add(outputs, get_ov_output(beta)).output(0)
    return OpenVINOKerasTensor(outputs)


NORM = {"openvino": norm_openvino}
