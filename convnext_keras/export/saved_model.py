"""TensorFlow SavedModel: writing and running."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_model(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a Keras model with one input as a SavedModel with the signature `serve`."""
    import keras
    import tensorflow as tf

    inputs, names = model.inputs[0], metadata["outputs"]
    signature = [tf.TensorSpec(inputs.shape, inputs.dtype, name=metadata["input"])]

    def serve(pixels: Any) -> dict[str, Any]:
        return dict(zip(names, keras.tree.flatten(model(pixels, training=False)), strict=True))

    archive: Any = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=signature)
    archive.write_out(str(path), verbose=False)


def load_runtime(path: Path, outputs: Sequence[str]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads a SavedModel as a function from an array to the named outputs."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]
    (name,) = function.structured_input_signature[1]

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        results = function(**{name: tf.constant(inputs)})
        return [results[output].numpy() for output in outputs]

    run.model = loaded  # pyright: ignore[reportFunctionMemberAccess] - keeps the functions of the model alive
    return run
