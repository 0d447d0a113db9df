"""Initial values are normal, and the same for a seed."""

import keras
import numpy as np
import pytest
from backends import to_numpy

from convnext_keras.initializers import Normal


def test_numbers_are_normal_and_each_initializers_own():
    one, other = (to_numpy(Normal()((200, 300))) for _ in range(2))
    assert one.dtype == np.float32
    assert one.mean() == pytest.approx(0, abs=5e-4)
    assert one.std() == pytest.approx(0.02, rel=0.02)
    assert np.mean(np.abs(one) < 0.02) == pytest.approx(0.6827, abs=0.01)
    assert np.abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_a_seed_gives_the_same_again_also_from_a_configuration():
    first = Normal(mean=1.0, stddev=0.5, seed=3)
    again = keras.initializers.deserialize(keras.initializers.serialize(first))
    np.testing.assert_array_equal(to_numpy(again((4, 5))), to_numpy(first((4, 5))))
    assert keras.backend.standardize_dtype(first((2,), "bfloat16").dtype) == "bfloat16"
    keras.utils.set_random_seed(1)
    before = to_numpy(Normal()((3,)))
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(to_numpy(Normal()((3,))), before)
