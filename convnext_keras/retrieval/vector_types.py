"""Types that vectors are stored and sent in: floats, eight bits a value, or one bit a value.

A cosine does not depend on the lengths of vectors, so each vector is scaled by its own largest value. Bits are packed
as Cohere, Voyage and Jina document it: the first value is the highest bit of the first byte, and `"binary"` is
`"ubinary"` minus 128, so that it fits signed bytes.
"""

import numpy as np

from convnext_keras.validation import format_choices

FLOAT_TYPES = ("float32", "float16")
INT8_TYPES = ("int8", "uint8")
BIT_TYPES = ("binary", "ubinary")
VECTOR_TYPES = (*FLOAT_TYPES, *INT8_TYPES, *BIT_TYPES)
INT8_MAX = 127
UNSIGNED_OFFSET = 128  # from signed to unsigned bytes


def quantize(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Converts vectors to a type of `VECTOR_TYPES`.

    Args:
        vectors: `(N, D)` float32.
        dtype: `"float32"` or `"float16"`; `"int8"`, each vector times 127 by its largest absolute value, rounded;
            `"uint8"`, the same plus 128; `"ubinary"`, one bit a value, 1 for what is above 0; `"binary"`, the same
            bytes minus 128.

    Returns:
        `(N, D)`, or `(N, ceil(D / 8))` of packed bits, of float32, float16, int8 or uint8.

    Raises:
        ValueError: If the type is unknown.

    Example:
        >>> from convnext_keras import retrieval
        >>> vectors = np.array([[0.5, -1.0, 0.25, 0, 0, 0, 0, 0.1]], "float32")
        >>> retrieval.quantize(vectors, "int8").tolist()
        [[64, -127, 32, 0, 0, 0, 0, 13]]
        >>> retrieval.quantize(vectors, "ubinary").tolist()
        [[161]]
    """
    check_vector_type(dtype)
    if dtype in FLOAT_TYPES:
        return vectors.astype(dtype)
    if dtype in BIT_TYPES:
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if dtype == "ubinary" else (bits.astype("int16") - UNSIGNED_OFFSET).astype("int8")
    largest = np.maximum(np.abs(vectors).max(axis=-1, keepdims=True, initial=0), np.finfo("float32").tiny)
    values = np.rint(vectors / largest * INT8_MAX).astype("int16")
    return (values + UNSIGNED_OFFSET).astype("uint8") if dtype == "uint8" else values.astype("int8")


def check_vector_type(dtype: str, known: tuple[str, ...] = VECTOR_TYPES) -> None:
    """Raises a ValueError if a type of vectors is not among those that an output has."""
    if dtype not in known:
        raise ValueError(f"dtype must be {format_choices(known)} for this output. Received: dtype={dtype!r}")


def vector_width(embed_dim: int, dtype: str) -> int:
    """Returns the number of values, or of bytes of packed bits, of a vector of `embed_dim` dimensions."""
    return -(-embed_dim // 8) if dtype in BIT_TYPES else embed_dim


def numpy_dtype(dtype: str) -> str:
    """Returns NumPy's name of the values of a type."""
    return {"binary": "int8", "ubinary": "uint8"}.get(dtype, dtype)
