"""Depthwise convolution that several backends share: as a sum of shifted inputs, and as Keras' own operation."""

from typing import Any

import keras
from keras import ops


def to_float32(tensor):
    """Returns the tensor in at least float32: sums of many 16-bit numbers lose digits and overflow."""
    return ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))


def with_bias(outputs, bias):
    """Returns the sum of `(N, H, W, C)` and `(C,)`, or the former alone if there is no bias."""
    return outputs if bias is None else outputs + bias


def pad_same(inputs, kernel_size: tuple[int, int], dilation_rate: int):
    """Pads with zeros for an odd kernel: `(N, H, W, C)` -> `(N, H + (kh-1)d, W + (kw-1)d, C)`."""
    height, width = ((size - 1) * dilation_rate // 2 for size in kernel_size)
    return ops.pad(inputs, ((0, 0), (height, height), (width, width), (0, 0)))


def depthwise_shift_add(inputs, kernel, dilation_rate: int):
    """Computes a depthwise convolution as one multiply-add per kernel position, which XLA fuses into one pass."""
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
    """Computes the kernel gradient of `depthwise_shift_add`, one fused multiplication and reduction per position.

    The loop lets XLA compile one position; 49 in a row took five times as long to run and to compile.
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
    """Computes `depthwise_shift_add` in at least float32, with explicit gradients.

    XLA compiles its own gradients for tens of seconds.

    Args:
        inputs: `(N, H, W, C)`.
        kernel: `(kh, kw, 1, C)`, both sizes odd.
        dilation_rate: Distance between kernel positions, in pixels.

    Returns:
        `(N, H, W, C)` in the type of `inputs`.
    """

    @ops.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            flipped = ops.flip(kernel, axis=(0, 1))
            return (
                depthwise_shift_add(upstream, flipped, dilation_rate),
                shifted_kernel_gradient(inputs, upstream, kernel.shape[:2], dilation_rate),
            )

        return depthwise_shift_add(inputs, kernel, dilation_rate), gradient

    return ops.cast(convolve(to_float32(inputs), to_float32(kernel)), inputs.dtype)


def depthwise_native(inputs, kernel, bias, dilation_rate: int):
    """Returns the backend's own convolution with one group a channel."""
    options = {"padding": "same", "data_format": "channels_last", "dilation_rate": dilation_rate}
    return with_bias(ops.conv(inputs, kernel, **options), bias)


def map_microbatches(function, rows, count: int):
    """Returns a function of `count` equal parts of the rows, one after another, in one array."""
    parts: Any = ops.split(rows, count)
    return ops.concatenate([function(part) for part in parts])
