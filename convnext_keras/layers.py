"""The few layers that Keras does not have, each registered under the package name `convnext_keras`.

The depthwise convolution is the reason for the library's speed on CPUs: it keeps the kernel of Keras' published
files and computes by whatever way is fast on the backend and device at hand.
"""

import functools

import keras
from keras import layers, ops

# A promise: files saved with one version name these classes in the next.
register = keras.saving.register_keras_serializable(package="convnext_keras")


def widened(tensor):
    """The tensor in at least float32: sums of many 16-bit numbers lose digits and overflow."""
    return ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))


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


def depthwise_tensorflow(inputs, kernel, dilation_rate: int):
    """TensorFlow: its depthwise op, except where XLA compiles for a CPU, which has no fast convolution with groups."""
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    accelerated = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
    if not accelerated and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return shifted_depthwise(inputs, kernel, dilation_rate)
    kernel = ops.transpose(kernel, (0, 1, 3, 2))  # (kh, kw, 1, C) -> (kh, kw, C, 1)
    dtype = inputs.dtype
    if not accelerated:  # The op is slow in 16 bits on a CPU (tensorflow#41715).
        inputs, kernel = widened(inputs), widened(kernel)
    options = {"padding": "same", "data_format": "channels_last", "dilation_rate": dilation_rate}
    return ops.cast(ops.depthwise_conv(inputs, kernel, **options), dtype)


def depthwise_native(inputs, kernel, dilation_rate: int):
    """The backend's own convolution with one group a channel."""
    return ops.conv(inputs, kernel, padding="same", data_format="channels_last", dilation_rate=dilation_rate)


def depthwise_jax(inputs, kernel, dilation_rate: int):
    """JAX: chosen when XLA lowers the program, by the platform that it lowers for."""
    import jax

    rate = {"dilation_rate": dilation_rate}
    return jax.lax.platform_dependent(
        inputs,
        kernel,
        cpu=jax.jit(functools.partial(shifted_depthwise, **rate)),
        default=functools.partial(depthwise_native, **rate),
    )


DEPTHWISE = {"tensorflow": depthwise_tensorflow, "jax": depthwise_jax}


@register
class DepthwiseConvolution(layers.Conv2D):
    """Depthwise 2D convolution with the kernel shape of Keras' published ConvNeXt files.

    `(N, H, W, C)` -> `(N, H, W, C)`: stride 1, zero padding, channels last. Its kernel is `(kh, kw, 1, C)`, that of
    `keras.layers.Conv2D(C, kernel_size, padding="same", groups=C)`, whose outputs and gradients it equals.

    Args:
        filters: number of channels `C`, of the input and of the output.
        kernel_size: odd height and width in pixels.
        **kwargs: the other arguments of `keras.layers.Conv2D`, but for strides, padding, groups and data format.

    Raises:
        ValueError: if a kernel size is even.

    Example:
        >>> tuple(DepthwiseConvolution(96, 7)(keras.ops.ones((1, 8, 8, 96))).shape)
        (1, 8, 8, 96)
    """

    FIXED = {"strides": 1, "padding": "same", "data_format": "channels_last"}

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, groups=filters, **self.FIXED, **kwargs)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"kernel_size must be odd, as in 7 or (7, 5). Received: kernel_size={kernel_size}")

    def convolution_op(self, inputs, kernel):
        depthwise = DEPTHWISE.get(keras.backend.backend(), depthwise_native)
        return depthwise(inputs, ops.convert_to_tensor(kernel), self.dilation_rate[0])

    def get_config(self):
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in {"groups", *self.FIXED}}


def dense_tensorflow(inputs, kernel, bias, activation):
    """On rows, where TensorFlow's graph optimiser makes one operation of product, bias and exact GELU."""
    import tensorflow as tf

    shape = tf.concat([tf.shape(inputs)[:-1], [kernel.shape[-1]]], 0)
    rows = tf.reshape(inputs, (-1, kernel.shape[0]))
    outputs = tf.reshape(activation(tf.nn.bias_add(tf.matmul(rows, kernel), bias)), shape)
    outputs.set_shape([*inputs.shape[:-1], kernel.shape[-1]])
    return outputs


def dense_torch(inputs, kernel, bias, activation):
    """One operation for product and bias, where Keras runs two."""
    import torch

    return activation(torch.nn.functional.linear(inputs, kernel.T, bias))


DENSE = {"tensorflow": dense_tensorflow, "torch": dense_torch}


@register
class FusedDense(layers.Dense):
    """`keras.layers.Dense` with product, bias and activation in one operation where the backend has it.

    `(..., C)` -> `(..., units)`; arguments, weights and outputs are those of `keras.layers.Dense`.

    Example:
        >>> tuple(FusedDense(4, activation="gelu")(keras.ops.ones((1, 8, 8, 2))).shape)
        (1, 8, 8, 4)
    """

    def call(self, inputs, training=None):
        fused = DENSE.get(keras.backend.backend())
        if fused is None or self.bias is None or self.lora_enabled or self.quantization_mode:
            return super().call(inputs, training=training)
        kernel, bias = (ops.convert_to_tensor(variable) for variable in (self.kernel, self.bias))
        return fused(inputs, kernel, bias, self.activation)

    def quantize(self, mode=None, type_check=True, config=None):
        """As `keras.layers.Dense` does, which leaves subclasses out unless they ask."""
        super().quantize(mode, type_check=False, config=config)


@register
class LayerScale(layers.Layer):
    """Multiplies each channel by a learned factor: `(..., C)` -> `(..., C)` (https://arxiv.org/abs/2103.17239v2).

    Args:
        init_value: the factors at the start of training; small, so that each block starts near the identity.
    """

    def __init__(self, init_value: float, **kwargs):
        super().__init__(**kwargs)
        self.init_value = init_value

    def build(self, input_shape):
        initializer = keras.initializers.Constant(self.init_value)
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer)

    def call(self, inputs):
        return inputs * self.gamma

    def get_config(self):
        return {**super().get_config(), "init_value": self.init_value}


@register
class GlobalResponseNormalization(layers.Layer):
    """Lets channels compete by their norms: `(N, H, W, C)` -> `(N, H, W, C)` (https://arxiv.org/abs/2301.00808v1).

    Args:
        epsilon: added to the mean norm that divides.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="zeros")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs):
        # Squares overflow float16; the tiny addend gives an all-zero channel the gradient 0 in place of 0 / 0.
        squares = ops.sum(ops.square(widened(inputs)), axis=(1, 2), keepdims=True)
        norm = ops.sqrt(squares + 1e-30)  # (N, 1, 1, C)
        relative = norm / (ops.mean(norm, axis=-1, keepdims=True) + self.epsilon)
        return inputs + self.beta + self.gamma * (inputs * ops.cast(relative, inputs.dtype))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@register
class SimpleNormalization(layers.Layer):
    """Divides by the standard deviation of the channels without subtracting their mean: `(..., C)` -> `(..., C)`.

    The norm of timm's zepto models, there named SimpleNorm: the variance is the unbiased one, over `C - 1`.

    Args:
        epsilon: added to the variance.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        channels = inputs.shape[-1]
        variance = ops.var(widened(inputs), axis=-1, keepdims=True) * channels / (channels - 1)
        return inputs * ops.cast(ops.rsqrt(variance + self.epsilon), inputs.dtype) * self.gamma

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@register
def gelu_tanh(inputs):
    """The tanh approximation of GELU, of the same shape; the family's own activation is the exact one."""
    return ops.gelu(inputs, approximate=True)
