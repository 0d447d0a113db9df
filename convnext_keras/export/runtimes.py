"""Running of exported models by the runtime of their format, without Keras."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MULTI_STREAM_FORMATS = ("openvino", "onnx")  # formats whose runtimes several threads may call at the same time
METADATA_SUFFIX = ".json"  # appended to the name of an exported model


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads the metadata file of an exported model.

    Raises:
        ValueError: If there is no metadata file, or it cannot be read.
    """
    metadata = path.with_name(path.name + METADATA_SUFFIX)
    try:
        return json.loads(metadata.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} has no metadata file {metadata.name}, which `export` writes next to it.") from error


def load_runtime(path: Path, streams: int = 1) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads an exported model as a function from an array to its outputs, in the order of the metadata.

    Args:
        path: The exported file or directory.
        streams: Number of threads that may call the function at the same time. More than 1 for OpenVINO and ONNX only.

    Raises:
        ValueError: If there is no metadata, or the format does not support this number of streams.
        ImportError: If the runtime of the format is not installed.
    """
    metadata = read_metadata(path)
    name = metadata["format"]
    if streams < 1 or (streams > 1 and name not in MULTI_STREAM_FORMATS):
        formats = " and ".join(MULTI_STREAM_FORMATS)
        raise ValueError(f"streams must be 1, or more for {formats}. Received: streams={streams} for {name}")
    module = importlib.import_module(f"{__package__}.{name}")
    options = {"streams": streams} if name in MULTI_STREAM_FORMATS else {}
    return module.load_runtime(path, metadata["outputs"], **options)
