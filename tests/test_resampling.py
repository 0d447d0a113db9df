"""Resampling of maps against definitions written out, in float64, at fixed and free sizes, forward and gradient."""

import keras
import numpy as np
import pytest
from backends import BACKEND, needs_training, outputs, to_numpy

from convnext_keras.resampling import AdaptiveAveragePooling2D, MultiscaleConv2D, ResizeLike

pytestmark = pytest.mark.cross_backend
RANDOM = np.random.default_rng(3)


def pooled(x, cells):
    """The definition: the mean of rows and columns floor(i H / s) to ceil((i + 1) H / s)."""
    height, width = x.shape[1:3]
    bounds = [[(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)] for size in (height, width)]
    rows = [[x[:, a:b, c:d].mean(axis=(1, 2)) for c, d in bounds[1]] for a, b in bounds[0]]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def resized(x, size):
    """Bilinear interpolation of pixel centers, axis by axis."""
    x = x.astype("float64")
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        centers = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(centers).astype(int)
        high, part = np.minimum(low + 1, old - 1), centers - low
        part = part.reshape([-1 if index == axis else 1 for index in range(4)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


def convolved(x, kernel):
    """A convolution with zero padding."""
    half, (height, width) = kernel.shape[0] // 2, x.shape[1:3]
    padded = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)])
    taps = np.ndindex(*kernel.shape[:2])
    return sum(padded[:, a : a + height, b : b + width] @ kernel[a, b].astype("float64") for a, b in taps)


@pytest.mark.parametrize("cells", [1, 2, 3, 6, 7, 20])
def test_adaptive_pooling_equals_its_definition(cells):
    x = RANDOM.normal(size=(2, 13, 17, 5)).astype("float32")
    np.testing.assert_allclose(outputs(AdaptiveAveragePooling2D(cells), x), pooled(x, cells), atol=1e-6)


@pytest.mark.parametrize("size", [(26, 34), (13, 17), (29, 40), (7, 5), (1, 1)])
def test_resize_equals_its_definition(size):
    x, reference = RANDOM.normal(size=(2, 13, 17, 5)).astype("float32"), np.zeros((2, *size, 3), "float32")
    np.testing.assert_allclose(to_numpy(ResizeLike()([x, reference])), resized(x, size), atol=1e-5)


MAPS = [((25, 30), 4), ((12, 15), 5), ((6, 7), 3), ((1, 1), 6)]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_multiscale_convolution_equals_the_one_of_resized_maps(kernel_size):
    maps = [RANDOM.normal(size=(2, *size, channels)).astype("float32") for size, channels in MAPS]
    layer = MultiscaleConv2D(7, kernel_size)
    found = to_numpy(layer(maps))
    whole = np.concatenate([resized(x, MAPS[0][0]) for x in maps], axis=-1)
    expected = convolved(whole, to_numpy(layer.kernel))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@needs_training
def test_gradients_equal_finite_differences():
    maps = [RANDOM.normal(size=(1, *size, channels)).astype("float32") for size, channels in MAPS[:3]]
    inputs = [keras.Input(x.shape[1:]) for x in maps]
    layer = MultiscaleConv2D(3, 3)
    model = keras.Model(inputs, layer(inputs))
    target = RANDOM.normal(size=(1, 25, 30, 3)).astype("float32")
    before = to_numpy(layer.kernel).astype("float64")
    model.compile(keras.optimizers.SGD(1.0), "mean_squared_error")
    model.fit(maps, target, verbose=0)
    gradient = before - to_numpy(layer.kernel)
    whole = np.concatenate([resized(x, MAPS[0][0]) for x in maps], axis=-1)
    error = convolved(whole, before) - target
    for index in [(0, 0, 0, 0), (1, 1, 5, 2), (2, 0, 11, 1)]:
        tap = np.zeros_like(before)
        tap[index] = 1
        assert gradient[index] == pytest.approx(2 * (error * convolved(whole, tap)).mean(), rel=1e-3, abs=1e-5)


def test_free_sizes_give_the_same():
    inputs = keras.Input((None, None, 3))
    low = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    pooled_low = AdaptiveAveragePooling2D(3)(low)
    ends = [ResizeLike()([pooled_low, inputs]), MultiscaleConv2D(5, 3)([inputs, low, pooled_low])]
    free, x = keras.Model(inputs, ends), RANDOM.normal(size=(1, 31, 37, 3)).astype("float32")
    tolerance = 0.05 if BACKEND == "openvino" else 1e-5  # whose `predict` may compute in bfloat16
    for predicted, called in zip(free.predict(x, verbose=0), free(x), strict=True):
        called = to_numpy(called)
        assert np.abs(predicted - called).max() <= tolerance * np.abs(called).max()


@pytest.mark.any_backend
def test_layers_survive_serialization():
    policy = keras.DTypePolicy("mixed_bfloat16")
    for layer in (
        AdaptiveAveragePooling2D(3, dtype=policy),
        ResizeLike(dtype=policy),
        MultiscaleConv2D(4, 3, dtype=policy),
    ):
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
