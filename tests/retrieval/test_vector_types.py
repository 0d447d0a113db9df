"""Vectors in eight bits or one bit a value: as the vendors document them, and with the order of their cosines."""

import numpy as np
import pytest

from convnext_keras.inference import l2_normalize
from convnext_keras.retrieval.vector_files import VECTOR_FILES, write_vectors
from convnext_keras.retrieval.vector_types import VECTOR_TYPES, numpy_dtype, quantize, vector_width

pytestmark = pytest.mark.any_backend


@pytest.fixture
def vectors():
    return l2_normalize(np.random.default_rng(0).normal(size=(200, 96))).astype("float32")


@pytest.mark.parametrize("dtype", VECTOR_TYPES)
def test_shape_and_type(dtype, vectors):
    found = quantize(vectors, dtype)
    assert found.shape == (200, vector_width(96, dtype))
    assert found.dtype == numpy_dtype(dtype)
    assert quantize(vectors[:0], dtype).shape == (0, vector_width(96, dtype))


def test_cosines_of_int8_are_those_of_float(vectors):
    values = quantize(vectors, "int8").astype("float32")
    assert np.abs(values).max(axis=1).min() == 127
    np.testing.assert_allclose(l2_normalize(values) @ l2_normalize(values).T, vectors @ vectors.T, atol=0.01)
    np.testing.assert_array_equal(quantize(vectors, "uint8").astype(int) - 128, quantize(vectors, "int8"))
    np.testing.assert_array_equal(quantize(7 * vectors, "int8"), quantize(vectors, "int8"))


def test_bits_are_packed_from_the_highest(vectors):
    packed = quantize(vectors, "ubinary")
    for row, vector in zip(packed, vectors, strict=True):
        bits = "".join(f"{byte:08b}" for byte in row.tolist())
        assert bits == "".join("1" if value > 0 else "0" for value in vector.tolist())
    np.testing.assert_array_equal(quantize(vectors, "binary").astype(int) + 128, packed)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_zeros_and_odd_widths(dtype):
    assert quantize(np.zeros((1, 8), "float32"), dtype).tolist() in ([[0]], [[-128]], [[0] * 8], [[128] * 8])
    assert quantize(np.ones((1, 13), "float32"), "ubinary").tolist() == [[255, 248]]


def test_unknown_types_are_an_error(vectors):
    with pytest.raises(ValueError, match="dtype must be"):
        quantize(vectors, "int4")


@pytest.mark.parametrize("name", VECTOR_FILES)
def test_unknown_types_are_refused_before_anything_is_computed(name, tmp_path):
    with pytest.raises(ValueError, match="dtype must be 'float32'"):
        write_vectors(tmp_path / f"vectors{name}", never(), None, "int4")
    assert not [*tmp_path.iterdir()]


def never():
    """Batches that are not asked for."""
    raise AssertionError("computed")
    yield
