"""JAX: operations chosen by the platform that XLA compiles for, and compiled also in direct calls."""

import functools
import os
from pathlib import Path

import jax
import numpy as np

from convnext_keras.backend.common import depthwise_native, shifted_depthwise, with_bias


@functools.cache
def _compiled_depthwise(dilation_rate: int):
    """Returns the depthwise function, compiled also in direct calls of a model."""

    def convolve(inputs, kernel):
        return jax.lax.platform_dependent(
            inputs,
            kernel,
            cpu=functools.partial(shifted_depthwise, dilation_rate=dilation_rate),
            default=functools.partial(depthwise_native, bias=None, dilation_rate=dilation_rate),
        )

    return jax.jit(convolve)


def depthwise(inputs, kernel, bias, dilation_rate: int):
    """Computes shifted multiply-adds on CPUs, which XLA fuses into one pass; the native convolution elsewhere."""
    return with_bias(_compiled_depthwise(dilation_rate)(inputs, kernel), bias)


@jax.custom_vjp
def _matmul_f32_accumulate(rows, kernel):
    """Returns the product of bfloat16 matrices in float32, and gradients by products of bfloat16 again.

    XLA for CPUs hands such products to the processor's instructions. It converts the matrices of others to float32.
    """
    return jax.lax.dot(rows, kernel, preferred_element_type=np.float32)


def _matmul_gradients(matrices, upstream):
    rows, kernel = matrices
    upstream = upstream.astype(rows.dtype)
    of_rows, of_kernel = _matmul_f32_accumulate(upstream, kernel.T), _matmul_f32_accumulate(rows.T, upstream)
    return of_rows.astype(rows.dtype), of_kernel.astype(kernel.dtype)


_matmul_f32_accumulate.defvjp(
    lambda rows, kernel: (_matmul_f32_accumulate(rows, kernel), (rows, kernel)), _matmul_gradients
)


@functools.lru_cache(maxsize=64)
def _compiled_dense(activation):
    """Returns a function of inputs, kernel and bias, as `_compiled_depthwise` is one."""

    def plain(rows, kernel, bias):
        return activation(rows @ kernel + bias)

    def to_float32(rows, kernel, bias):
        return activation(_matmul_f32_accumulate(rows, kernel) + bias).astype(rows.dtype)

    def on_rows(inputs, kernel, bias):
        rows = inputs.reshape(-1, kernel.shape[0])
        if inputs.dtype == kernel.dtype == "bfloat16":
            outputs = jax.lax.platform_dependent(rows, kernel, bias, cpu=to_float32, default=plain)
        else:
            outputs = plain(rows, kernel, bias)
        return outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])

    return jax.jit(on_rows)


def dense(inputs, kernel, bias, activation):
    """Computes a dense layer on rows: XLA's gradients of 4-D matmuls take two to three times as long on CPUs."""
    return _compiled_dense(activation)(inputs, kernel, bias)


def enable_compilation_cache(folder: Path) -> None:
    """Programs that took a while to compile are read from the folder, unless JAX was given another one."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def map_microbatches(function, rows, count: int):
    """Applies a function to equal parts of the rows in a loop, which XLA compiles once for all parts."""
    outputs = jax.lax.map(function, rows.reshape(count, -1, *rows.shape[1:]))
    return outputs.reshape(-1, *outputs.shape[2:])


def gradient(function, array):
    """Returns the gradient of a scalar function at an array."""
    return np.asarray(jax.grad(function)(array))
