"""Layers that resample feature maps by matrix products: one matrix for the rows, one for the columns.

The sizes may be dynamic. Adaptive pooling and bilinear interpolation (without aligned corners) are those of PyTorch.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from convnext_keras.layers import register


def map_shape(inputs: Any) -> Any:
    """Returns the shape of a map: numbers, or tensors for what is dynamic."""
    return ops.shape(inputs)


def _array_module(*sizes: Any) -> Any:
    """Returns NumPy for sizes that are known, and `keras.ops` for dynamic ones."""
    return np if all(isinstance(size, int) for size in sizes) else ops


def _positions(module: Any, size: Any) -> Any:
    return module.cast(module.arange(size), "float32") if module is ops else np.arange(size, dtype="float64")


def pooling_matrix(size: Any, cells: int) -> Any:
    """Returns the matrix `(cells, size)` of adaptive average pooling.

    Cell `i` is the mean of the positions from `floor(i size / cells)` to `ceil((i + 1) size / cells)`, so cells may
    overlap.

    Example:
        >>> pooling_matrix(3, 2).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    module = _array_module(size)
    positions = _positions(module, size)[None]
    numbers: Any = np.arange(cells, dtype="float32")[:, None]
    if module is ops:
        size, numbers = ops.cast(size, "float32"), ops.convert_to_tensor(numbers)
    first, last = module.floor(numbers * size / cells), module.ceil((numbers + 1) * size / cells)
    inside = module.logical_and(positions >= first, positions < last)
    return (ops.cast(inside, "float32") if module is ops else inside) / (last - first)


def bilinear_matrix(size: Any, new_size: Any, shift: int = 0) -> Any:
    """Returns the matrix `(new_size, size)` of bilinear interpolation.

    Args:
        size: Number of positions before.
        new_size: Number of positions after.
        shift: Row `i` is the one of position `i + shift`, zeros if there is no such position.

    Example:
        >>> bilinear_matrix(2, 4).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    module = _array_module(size, new_size)
    positions: Any = _positions(module, new_size) + shift
    sources: Any = _positions(module, size)
    if module is ops:
        size, new_size = ops.cast(size, "float32"), ops.cast(new_size, "float32")
    centers = module.clip((positions + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    matrix = module.maximum(1 - module.abs(centers[:, None] - sources[None]), 0)
    if not shift:
        return matrix
    valid = module.logical_and(positions >= 0, positions < new_size)[:, None]
    return module.where(valid, matrix, module.zeros_like(matrix))


def apply_matrices(inputs: Any, rows: Any, columns: Any) -> Any:
    """Multiplies the rows and columns of maps by matrices: `(N, h, w, C)` -> `(N, H, W, C)`.

    Args:
        inputs: Feature maps.
        rows: `(H, h)`.
        columns: `(W, w)`.
    """
    rows, columns = (ops.cast(ops.convert_to_tensor(matrix), inputs.dtype) for matrix in (rows, columns))
    # Transposed and not reshaped: OpenVINO 2026.4 computes two reshaped views of one map in the memory of one.
    x = ops.transpose(ops.matmul(columns, inputs), (0, 2, 1, 3))
    return ops.transpose(ops.matmul(rows, x), (0, 2, 1, 3))


@register
class AdaptiveAveragePooling2D(layers.Layer):
    """Means over a grid of cells: `(N, H, W, C)` -> `(N, cells, cells, C)`, also for dynamic `H` and `W`.

    Args:
        cells: Number of cells in each direction.
    """

    def __init__(self, cells: int, **kwargs):
        super().__init__(**kwargs)
        self.cells = cells

    def call(self, inputs):
        _, height, width, _ = map_shape(inputs)
        return apply_matrices(inputs, pooling_matrix(height, self.cells), pooling_matrix(width, self.cells))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.cells, self.cells, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "cells": self.cells}


@register
class ResizeLike(layers.Layer):
    """Bilinear resize of the first map to the size of the second: `[(N, h, w, C), (N, H, W, D)]` -> `(N, H, W, C)`."""

    def call(self, inputs):
        x, reference = inputs
        before, after = ops.shape(x)[1:3], ops.shape(reference)[1:3]
        if _array_module(*before, *after) is ops:  # Keras' own resize takes known sizes only.
            return apply_matrices(x, *(bilinear_matrix(*pair) for pair in zip(before, after, strict=True)))
        if tuple(before) == tuple(after):
            return x
        return ops.image.resize(x, after, interpolation="bilinear", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (*reference[:3], x[-1])

    def get_config(self):
        return {**super().get_config()}  # Keras' own way does not store a policy.


@register
class MultiscaleConv2D(layers.Layer):
    """Convolution over maps of several sizes, resized to the first and concatenated: `[(N, H, W, C), ...]`.

    The kernel and the outputs `(N, H, W, filters)` are those of `keras.layers.Conv2D(filters, kernel_size,
    padding="same", use_bias=False)` on the concatenated maps. Since the channels' products and a bilinear resize work
    on different axes, smaller maps are multiplied by the kernel at their own size and resized afterwards, which needs
    a small part of the operations.

    Args:
        filters: Number of output channels.
        kernel_size: Odd height and width in pixels.
        kernel_initializer: Initializer of the kernel.
    """

    def __init__(self, filters: int, kernel_size: int, kernel_initializer: Any = "glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        shape = (self.kernel_size, self.kernel_size, sum(shape[-1] for shape in input_shape), self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)

    def call(self, inputs):
        first, *others = inputs
        kernel: Any = ops.convert_to_tensor(self.kernel)
        start = first.shape[-1]
        x: Any = ops.conv(first, kernel[:, :, :start], padding="same", data_format="channels_last")
        for other in others:
            x = x + self._resized(other, kernel[:, :, start : start + other.shape[-1]], map_shape(first)[1:3])
            start += other.shape[-1]
        return x

    def _resized(self, inputs: Any, kernel: Any, size: Any) -> Any:
        """Returns the convolution of a map that is resized: products, then columns, then rows."""
        (height, width), (_, low_height, low_width, _) = size, map_shape(inputs)
        half = self.kernel_size // 2
        rows, columns = (
            _side_by_side([bilinear_matrix(before, after, shift) for shift in range(-half, half + 1)], inputs.dtype)
            for before, after in ((low_height, height), (low_width, width))
        )
        parts = []
        for kernel_row in range(self.kernel_size):
            products = [ops.matmul(inputs, kernel[kernel_row, column]) for column in range(self.kernel_size)]
            parts.append(ops.matmul(columns, ops.concatenate(products, axis=2)))  # (N, h, W, filters)
        x = ops.reshape(ops.concatenate(parts, axis=1), (-1, self.kernel_size * low_height, width * self.filters))
        x = ops.matmul(rows, x)
        return ops.reshape(x, (-1, height, width, self.filters))

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:3], self.filters)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        own = {"filters": self.filters, "kernel_size": self.kernel_size, "kernel_initializer": initializer}
        return {**super().get_config(), **own}


def _side_by_side(matrices: list[Any], dtype: Any) -> Any:
    module = np if isinstance(matrices[0], np.ndarray) else ops
    return ops.cast(ops.convert_to_tensor(module.concatenate(matrices, axis=1)), dtype)
