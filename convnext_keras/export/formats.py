"""The formats that models are exported to: who writes them, who runs them, and what they can say."""

from pathlib import Path
from typing import NamedTuple

from convnext_keras.validation import format_choices, suggestion


class Format(NamedTuple):
    """One format.

    Attributes:
        suffix: of its files; empty for a folder.
        backend: of Keras that writes it best, whichever is active.
        packages: that must be there to write and to check it.
        extra: of this package that brings them.
        supports_dynamic_size: whether height and width may be left open.
        supports_dynamic_length: whether the number of tokens of a text may be left open.
        precisions: of the weights and products.
    """

    suffix: str
    backend: str
    packages: tuple[str, ...]
    extra: str
    supports_dynamic_size: bool = False
    supports_dynamic_length: bool = False
    precisions: tuple[str, ...] = ("float32",)


PRECISIONS = ("float32", "float16", "bfloat16", "int8_weights", "int8")
POST_TRAINING_PRECISIONS = tuple(
    name for name in PRECISIONS if name != "bfloat16"
)  # what tools make of a file in float32
NATIVE_PRECISIONS = ("float32", "bfloat16")  # what Keras computes in itself


FORMATS = {
    "saved_model": Format("", "tensorflow", ("tensorflow",), "tensorflow", True, precisions=NATIVE_PRECISIONS),
    "litert": Format(
        ".tflite", "tensorflow", ("tensorflow", "ai_edge_litert"), "litert", precisions=POST_TRAINING_PRECISIONS[:3]
    ),
    "onnx": Format(
        ".onnx",
        "torch",
        ("torch", "onnx", "onnxscript", "onnxruntime"),
        "onnx",
        supports_dynamic_length=True,
        precisions=POST_TRAINING_PRECISIONS,
    ),
    "torch": Format(".pt2", "torch", ("torch",), "torch", precisions=NATIVE_PRECISIONS),
    "openvino": Format(
        ".xml", "openvino", ("openvino",), "openvino", supports_dynamic_length=True, precisions=POST_TRAINING_PRECISIONS
    ),
    "stablehlo": Format(".stablehlo", "jax", ("jax",), "jax", precisions=NATIVE_PRECISIONS),
}


def resolve_format(name: str | None, path: Path) -> str:
    """The name of a format, by default the one whose files end like the path.

    Raises:
        ValueError: if there is none of that name, or the path ends in none's way.

    Example:
        >>> resolve_format(None, Path("tiny.onnx"))
        'onnx'
    """
    if name is None:
        name = next((known for known, row in FORMATS.items() if row.suffix == path.suffix), None)
        if name is None:
            suffixes = format_choices(row.suffix for row in FORMATS.values() if row.suffix)
            raise ValueError(f"{path.name} must end in {suffixes}, or the format be named: {format_choices(FORMATS)}.")
    if name not in FORMATS:
        raise ValueError(
            f"format must be {format_choices(FORMATS)}. Received: format={name!r}.{suggestion(name, FORMATS)}"
        )
    return name
