"""Writing of a model by the Keras backend of its format, in another process if that backend is not active.

python -m convnext_keras.export.writer FORMAT SAVED.keras PATH METADATA
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from convnext_keras.export.formats import FORMATS
from convnext_keras.fast_import import FAST_IMPORT_ENV


def write_model(format: str, model: keras.Model, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a model with one input, in the process of the format's backend.

    Args:
        format: A key of `FORMATS`.
        model: The model, prepared by `prepare_for_export`.
        path: The file or directory to write.
        metadata: The result of `build_metadata`.

    Raises:
        RuntimeError: If the backend cannot write the model; the message is the last line of its output.
    """
    if keras.backend.backend() == FORMATS[format].backend:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations within the backends' own exporters
            importlib.import_module(f"convnext_keras.export.{format}").write_model(model, path, metadata)
        return
    with tempfile.TemporaryDirectory() as directory:
        saved = Path(directory) / "model.keras"
        model.save(saved)
        arguments = ["-m", "convnext_keras.export.writer", format, str(saved), str(path), json.dumps(metadata)]
        run_subprocess(arguments, KERAS_BACKEND=FORMATS[format].backend)


def run_subprocess(arguments: Sequence[str], **environment: str) -> None:
    """Runs Python with these arguments in another process.

    Raises:
        RuntimeError: If the process fails; the message is the last line of its standard error.
    """
    environment = {**os.environ, **FAST_IMPORT_ENV, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"The process ended with status {done.returncode}.")


def main(format: str, saved: str, path: str, metadata: str) -> None:
    """Writes a model that another process saved."""
    importlib.import_module("convnext_keras")  # registers its layers with Keras
    model: Any = keras.saving.load_model(saved, compile=False)
    importlib.import_module(f"convnext_keras.export.{format}").write_model(model, Path(path), json.loads(metadata))


if __name__ == "__main__":
    main(*sys.argv[1:])
