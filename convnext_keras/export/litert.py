"""LiteRT (`.tflite`): writing, with float16 or int8 weights, and running."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_model(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a Keras model with one input as a `.tflite` file, in `metadata["precision"]`."""
    import tensorflow as tf

    from convnext_keras.export import saved_model

    with tempfile.TemporaryDirectory() as directory:
        saved_model.write_model(model, Path(directory), metadata)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        if (
            metadata["precision"] != "float32"
        ):  # int8: weights are stored, and matmuls quantize their inputs as they run
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if metadata["precision"] == "float16":
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def load_runtime(path: Path, outputs: Sequence[str]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads a `.tflite` file as a function from an array to the named outputs."""
    from ai_edge_litert.interpreter import Interpreter

    runner: Any = Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda inputs: [np.asarray(runner(**{name: inputs})[output]) for output in outputs]
