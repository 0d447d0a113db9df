"""The few layers that Keras does not have, each registered under the package name `convnext_keras`.

The depthwise convolution is the reason for the library's speed on CPUs: it keeps the kernel of Keras' published
files and computes by whatever way is fast on the backend and device at hand.
"""

import functools
from typing import get_args

import keras
from keras import layers, ops

from convnext_keras import backend
from convnext_keras.backend.common import to_float32
from convnext_keras.configs import Activation

# A promise: files saved with one version name these classes in the next.
register = keras.saving.register_keras_serializable(package="convnext_keras")


@register
class DepthwiseConvolution(layers.Conv2D):
    """Depthwise 2D convolution with the kernel shape of Keras' published ConvNeXt files.

    `(N, H, W, C)` -> `(N, H, W, C)`: stride 1, zero padding, channels last. Its kernel is `(kh, kw, 1, C)`, that of
    `keras.layers.Conv2D(C, kernel_size, padding="same", groups=C)`, whose outputs and gradients it equals.

    Args:
        filters: Number of channels `C`, of the input and of the output.
        kernel_size: Odd height and width in pixels.
        **kwargs: The other arguments of `keras.layers.Conv2D`, but for strides, padding, groups and data format.

    Raises:
        ValueError: If a kernel size is even.

    Example:
        >>> tuple(DepthwiseConvolution(96, 7)(keras.ops.ones((1, 8, 8, 96))).shape)
        (1, 8, 8, 96)
    """

    FIXED = {"strides": 1, "padding": "same", "data_format": "channels_last"}

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, groups=filters, **self.FIXED, **kwargs)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"kernel_size must be odd, as in 7 or (7, 5). Received: kernel_size={kernel_size}")

    def call(self, inputs):
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        outputs = backend.depthwise(inputs, ops.convert_to_tensor(self.kernel), bias, self.dilation_rate[0])
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self):
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in {"groups", *self.FIXED}}


@register
class FusedDense(layers.Dense):
    """`keras.layers.Dense` with matmul, bias and activation in one operation where the backend supports it.

    `(..., C)` -> `(..., units)`; arguments, weights and outputs are those of `keras.layers.Dense`.

    Example:
        >>> tuple(FusedDense(4, activation="gelu")(keras.ops.ones((1, 8, 8, 2))).shape)
        (1, 8, 8, 4)
    """

    def call(self, inputs, training=None):
        if backend.dense is None or self.bias is None or self.lora_enabled or self.quantization_mode:
            return super().call(inputs, training=training)
        kernel, bias = (ops.convert_to_tensor(variable) for variable in (self.kernel, self.bias))
        return backend.dense(inputs, kernel, bias, self.activation)

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantizes like `keras.layers.Dense`, which rejects subclasses by default."""
        super().quantize(mode, type_check=False, config=config)


@register
class LayerNormalization(layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, in one operation where the backend supports it.

    `(..., C)` -> `(..., C)`; arguments, weights and outputs are those of `keras.layers.LayerNormalization`.
    """

    def call(self, inputs):
        is_last = self.axis in ([-1], [len(inputs.shape) - 1], -1, len(inputs.shape) - 1)
        if backend.layer_norm is None or not is_last or keras.backend.standardize_dtype(inputs.dtype) != "float32":
            return super().call(inputs)
        return ops.cast(backend.layer_norm(inputs, self.gamma, self.beta, self.epsilon), self.compute_dtype)


@register
class BatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of the last axis with two operations per element at inference.

    `(..., C)` -> `(..., C)`; arguments, weights and outputs are those of `keras.layers.BatchNormalization`.
    """

    def call(self, inputs, training=None, mask=None):
        if training or self.axis not in (-1, len(inputs.shape) - 1) or not (self.scale and self.center):
            return super().call(inputs, training=training, mask=mask)
        mean, variance = to_float32(self.moving_mean), to_float32(self.moving_variance)
        factor = to_float32(self.gamma) * ops.rsqrt(variance + self.epsilon)
        offset = to_float32(self.beta) - mean * factor
        return inputs * ops.cast(factor, inputs.dtype) + ops.cast(offset, inputs.dtype)


@register
class LayerScale(layers.Layer):
    """Multiplies each channel by a learned factor: `(..., C)` -> `(..., C)` (https://arxiv.org/abs/2103.17239v2).

    Args:
        init_value: The factors at the start of training; small, so that each block starts near the identity.
    """

    def __init__(self, init_value: float, **kwargs):
        super().__init__(**kwargs)
        self.init_value = init_value

    def build(self, input_shape):
        initializer = keras.initializers.Constant(self.init_value)
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=initializer)

    def call(self, inputs):
        return inputs * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "init_value": self.init_value}


@register
class GlobalResponseNormalization(layers.Layer):
    """Scales channels by their relative norms: `(N, H, W, C)` -> `(N, H, W, C)` (https://arxiv.org/abs/2301.00808v1).

    Args:
        epsilon: Added to the mean norm that divides.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="zeros")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs):
        # Squares overflow float16; the tiny addend gives an all-zero channel the gradient 0 in place of 0 / 0.
        squares = ops.sum(ops.square(to_float32(inputs)), axis=(1, 2), keepdims=True)
        norm = ops.sqrt(squares + 1e-30)  # (N, 1, 1, C)
        relative = norm / (ops.mean(norm, axis=-1, keepdims=True) + self.epsilon)
        return inputs + self.beta + self.gamma * (inputs * ops.cast(relative, inputs.dtype))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@register
class SimpleNormalization(layers.Layer):
    """Divides by the standard deviation of the channels without subtracting their mean: `(..., C)` -> `(..., C)`.

    The norm of timm's zepto models, there named SimpleNorm: the variance is the unbiased one, over `C - 1`.

    Args:
        epsilon: Added to the variance.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        channels = inputs.shape[-1]
        variance = ops.var(to_float32(inputs), axis=-1, keepdims=True) * channels / (channels - 1)
        return inputs * ops.cast(ops.rsqrt(variance + self.epsilon), inputs.dtype) * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@register
def gelu_tanh(inputs):
    """Returns the tanh approximation of GELU, of the same shape; the family's own activation is the exact one."""
    return ops.gelu(inputs, approximate=True)


@register
def quick_gelu(inputs):
    """Returns the sigmoid approximation of GELU that OpenAI's CLIP has."""
    return inputs * ops.sigmoid(1.702 * inputs)


@register
def leaky_relu(inputs):
    """Returns the leaky ReLU with PyTorch's slope of 0.01; Keras' own has 0.2."""
    return ops.leaky_relu(inputs, negative_slope=0.01)


@register
def hard_mish(inputs):
    """Computes `x clip(x + 2, 0, 2) / 2`, like timm."""
    return inputs * ops.clip(inputs + 2.0, 0.0, 2.0) * 0.5


@register
class AverageMaxPooling2D(layers.Layer):
    """Global mean and maximum: `(N, H, W, C)` -> `(N, C)`, their mean, or `(N, 2 C)`, concatenated.

    Args:
        concatenate: Whether both are kept, the mean first.
        data_format: `"channels_last"`, the only one.
    """

    def __init__(self, concatenate: bool = False, data_format: str = "channels_last", **kwargs):
        super().__init__(**kwargs)
        self.concatenate, self.data_format = concatenate, data_format

    def call(self, inputs):
        both = ops.mean(inputs, axis=(1, 2)), ops.max(inputs, axis=(1, 2))
        return ops.concatenate(both, axis=-1) if self.concatenate else (both[0] + both[1]) / 2

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1] * (2 if self.concatenate else 1))

    def get_config(self):
        return {**super().get_config(), "concatenate": self.concatenate, "data_format": self.data_format}


# Norms, poolings and activations by their names in `ConvNeXtConfig`.
NORMS = {"layer": LayerNormalization, "rms": layers.RMSNormalization, "simple": SimpleNormalization}
POOLINGS = {
    "avg": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "avgmax": AverageMaxPooling2D,
    "catavgmax": functools.partial(AverageMaxPooling2D, concatenate=True),
}
# Activations of Keras keep their names.
OWN_ACTIVATIONS = {function.__name__: function for function in (gelu_tanh, quick_gelu, leaky_relu, hard_mish)}
ACTIVATIONS = {name: OWN_ACTIVATIONS.get(name, name) for name in get_args(Activation)}


def is_noop(layer: keras.Layer) -> bool:
    """Returns whether a layer returns its input unchanged at inference: dropout, or a linear activation."""
    is_linear = isinstance(layer, layers.Activation) and layer.activation is keras.activations.linear
    return is_linear or isinstance(layer, layers.Dropout)
