"""Training steps that PyTorch compiles."""

import keras
import numpy as np
import pytest
from backends import BACKEND, randomize

from convnext_keras.convnext import ConvNeXt


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="TensorFlow and JAX compile by XLA in other tests.")
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns about itself
@pytest.mark.parametrize("use_grn", [False, True], ids=["v1", "v2"])
def test_compiled_steps_equal_eager_ones(use_grn):
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "use_grn": use_grn}
    rng = np.random.default_rng(0)
    pixels, labels = rng.uniform(0, 255, (2, 64, 64, 3)).astype("float32"), rng.integers(0, 1000, 2)
    losses, weights = [], []
    for jit_compile in (True, False):
        model = randomize(ConvNeXt(**sizes, weights=None, input_shape=(64, 64, 3)))
        model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=jit_compile)
        losses.append([float(model.train_on_batch(pixels, labels)) for _ in range(2)])
        weights.append(model.get_weights())
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for compiled, eager in zip(*weights, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-3, atol=1e-4)
