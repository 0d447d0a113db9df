"""StableHLO by `jax.export`, for CPUs, CUDA and TPUs: writing and running."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PLATFORMS = ("cpu", "cuda", "tpu")


def write_model(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a Keras model with one input as serialized StableHLO."""
    import jax
    import keras
    from jax import export

    batch, *others = model.inputs[0].shape
    rows = batch or export.symbolic_shape("batch")[0]
    shape = jax.ShapeDtypeStruct((rows, *others), model.inputs[0].dtype)
    function = jax.jit(lambda inputs: keras.tree.flatten(model(inputs, training=False)))
    path.write_bytes(export.export(function, platforms=PLATFORMS)(shape).serialize())


def load_runtime(path: Path, outputs: Sequence[str]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads serialized StableHLO as a function from an array to all outputs, in order."""
    from jax import export

    call = export.deserialize(bytearray(path.read_bytes())).call
    return lambda inputs: [np.array(output) for output in call(inputs)]
