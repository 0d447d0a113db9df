"""Exported models with the interface of Keras models, run by their format's runtime."""

import os
from pathlib import Path

import numpy as np

from convnext_keras.data.transforms import NormalizationStats, normalize
from convnext_keras.export.runtimes import METADATA_SUFFIX, load_runtime, read_metadata
from convnext_keras.pretrained_info import PretrainedInfo


class ExportedModel:
    """Exported model as a function from pixels to outputs.

    Args:
        path: Path of the exported file or directory; its metadata file is next to it.
        streams: Threads that may call it at a time, each with its share of the processors; of OpenVINO and ONNX.

    Attributes:
        pretrained_info: Where the weights come from, with the transform and the classes.
        outputs: Names of the outputs.
        is_segmentation: Whether the outputs are of each pixel.

    Raises:
        ValueError: If there is no metadata file, or the format does not support this number of streams.
        ImportError: If the format's own program is not installed.

    Example:
        >>> from convnext_keras import create_model, export
        >>> model = create_model("convnext_mini.digits")
        >>> written = export.export(model, "read.xml")
        >>> export.ExportedModel("read.xml")(np.zeros((2, 32, 32, 3))).shape
        (2, 10)
    """

    def __init__(self, path: str | os.PathLike, streams: int = 1) -> None:
        self.path = path = Path(path)
        description = read_metadata(path)
        self.pretrained_info = PretrainedInfo.from_config(description)
        self.outputs: list[str] = description["outputs"]
        self.is_segmentation: bool = description.get("is_segmentation", False)
        self.shape, self.dtype, self.layout = description["shape"], description["dtype"], description["layout"]
        self.statistics = description["statistics"] and NormalizationStats(*map(tuple, description["statistics"]))
        self.run_raw = load_runtime(path, streams)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r}: {self.shape} -> {', '.join(self.outputs)}>"

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Returns height and width of the images in pixels; None for any."""
        height, width = self.shape[1:3] if self.layout == "nhwc" else self.shape[2:4]
        return None if None in (height, width) else (height, width)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the first output for pixels `(N, H, W, C)` in 0..255, or token ids `(N, L)`."""
        if self.statistics:
            inputs = np.asarray(normalize(inputs, self.statistics))
        if self.layout == "nchw":
            inputs = np.transpose(inputs, (0, 3, 1, 2))
        if self.dtype == "uint8" and inputs.dtype != "uint8":
            inputs = np.clip(np.rint(inputs), 0, 255)
        inputs = np.ascontiguousarray(inputs, self.dtype)
        rows = self.shape[0]
        if rows is None:
            return self.run_raw(inputs)[0]
        filled = np.concatenate([inputs, np.zeros((-len(inputs) % rows, *inputs.shape[1:]), self.dtype)])
        parts = [self.run_raw(filled[start : start + rows])[0] for start in range(0, len(filled), rows)]
        return np.concatenate(parts)[: len(inputs)]


def is_exported_model(path: str | os.PathLike) -> bool:
    """Returns whether there is a file or folder with a description beside it, as `export` writes both."""
    path = Path(path)
    return path.exists() and path.with_name(path.name + METADATA_SUFFIX).is_file()
