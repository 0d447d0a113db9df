"""Initial values of the weights."""

from typing import Any

import keras
import numpy as np

from convnext_keras import backend


@keras.saving.register_keras_serializable("convnext_keras")
class Normal(keras.initializers.RandomNormal):
    """Keras' `RandomNormal`, drawn by NumPy if the backend would compile each shape.

    Under JAX this is half of the time that a small model takes to start. The usual deviation is the paper's, whose
    truncation at -2 and 2 is a hundred deviations away.

    Example:
        >>> tuple(Normal()((2, 3)).shape)
        (2, 3)
    """

    def __init__(self, mean: float = 0.0, stddev: float = 0.02, seed: Any = None) -> None:
        super().__init__(mean, stddev, seed)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Returns values of a shape: the same for a seed on any number of devices."""
        seed: Any = self.seed
        if not (backend.random_ops_recompile and isinstance(seed, int)):
            return super().__call__(shape, dtype)
        values = np.random.default_rng(seed).standard_normal(shape, "float32")
        return keras.ops.convert_to_tensor(self.mean + self.stddev * values, dtype or keras.config.floatx())
