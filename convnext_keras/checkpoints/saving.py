"""Saving of weights in the library's own layout: one tensor per variable, named by layer and variable."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import ml_dtypes  # noqa: F401 - teaches NumPy the type bfloat16
import numpy as np

from convnext_keras.checkpoints.loading import variable_slots
from convnext_keras.files import atomic_path

# NumPy's names of types, and those of .safetensors.
SAFETENSORS_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


class LazyTensor(NamedTuple):
    """Tensor to write: its shape, type name, and the function that returns its values."""

    shape: tuple[int, ...]
    dtype: str
    values: Callable[[], np.ndarray]


def save_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a model's weights to a `.safetensors` file that `load_weights` reads, atomically.

    A tensor is named by its layer, without the model's name, and its variable: `stage_0_block_0_depthwise_conv/kernel`.
    Numbers are stored as the variables have them; what an optimizer or a random generator keeps is left out.

    Args:
        model: A model of this library, or one built on it.
        path: The file, which must end in `.safetensors`; one that exists is replaced.

    Raises:
        ValueError: If the path ends otherwise.

    Example:
        >>> from convnext_keras import create_model, load_weights, save_weights
        >>> model = create_model("convnext_mini.digits")
        >>> save_weights(model, "mine.safetensors")
        >>> load_weights(model, "mine.safetensors")
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"path must end in .safetensors. Received: {path}. Keras' model.save_weights writes .weights.h5."
        )
    write_safetensors(
        path, {str(key): to_lazy_tensor(slot.variable) for key, slot in variable_slots(model).items()}, {}
    )


def to_lazy_tensor(variable: keras.Variable) -> LazyTensor:
    """Returns a variable as a tensor to be written."""
    return LazyTensor(tuple(variable.shape), variable.dtype, lambda: np.asarray(keras.ops.convert_to_numpy(variable)))


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors one after the other, so that no more than one is in memory.

    Args:
        path: The file, replaced once all is written.
        tensors: Tensors by their names.
        metadata: Texts for the file's header.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        end = start + int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_path(path) as partial, partial.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            stream.write(np.ascontiguousarray(tensor.values()).tobytes())
