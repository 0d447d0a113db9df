"""The export formats: one row per format, and one module of the same name that writes, quantizes and runs it."""

from pathlib import Path
from typing import NamedTuple

from convnext_keras.validation import format_choices, suggestion


class Format(NamedTuple):
    """One export format.

    Attributes:
        suffix: Suffix of its files; empty for a directory.
        backend: Keras backend that writes it.
        packages: Packages that writing and verification import.
        extra: Extra of this package that installs them.
        supports_dynamic_size: Whether the height and width of images may stay dynamic.
        supports_dynamic_length: Whether the number of tokens of a text may stay dynamic.
        precisions: Supported precisions of weights and activations.
    """

    suffix: str
    backend: str
    packages: tuple[str, ...]
    extra: str
    supports_dynamic_size: bool = False
    supports_dynamic_length: bool = False
    precisions: tuple[str, ...] = ("float32",)


PRECISIONS = ("float32", "float16", "bfloat16", "int8_weights", "int8")
NATIVE_PRECISIONS = ("float32", "bfloat16")  # Keras computes in them
POST_TRAINING_PRECISIONS = ("float16", "int8_weights", "int8")  # `quantize` of the format's module makes them
NNCF_QUANTIZED = {("openvino", "int8_weights"), ("openvino", "int8"), ("onnx", "int8")}
TF, TORCH = "tensorflow", "torch"
FORMATS = {
    "saved_model": Format("", TF, (TF,), TF, True, precisions=NATIVE_PRECISIONS),
    "litert": Format(
        ".tflite", TF, (TF, "ai_edge_litert"), "litert", precisions=("float32", "float16", "int8_weights")
    ),
    "onnx": Format(
        ".onnx",
        TORCH,
        (TORCH, "onnx", "onnxscript", "onnxruntime"),
        "onnx",
        supports_dynamic_length=True,
        precisions=("float32", *POST_TRAINING_PRECISIONS),
    ),
    "torch": Format(".pt2", TORCH, (TORCH,), TORCH, precisions=NATIVE_PRECISIONS),
    "openvino": Format(
        ".xml",
        "openvino",
        ("openvino",),
        "openvino",
        supports_dynamic_length=True,
        precisions=("float32", *POST_TRAINING_PRECISIONS),
    ),
    "stablehlo": Format(".stablehlo", "jax", ("jax",), "jax", precisions=NATIVE_PRECISIONS),
}
WRITTEN_QUANTIZED = ("litert",)  # formats whose `write_model` applies the precision itself


def resolve_format(name: str | None, path: Path) -> str:
    """Returns the name of a format, by default the one of the path's suffix.

    Args:
        name: A key of `FORMATS`, or None.
        path: The path to write.

    Raises:
        ValueError: If the name is unknown, or no format has this suffix.

    Example:
        >>> resolve_format(None, Path("tiny.onnx"))
        'onnx'
    """
    if name is None:
        name = next((known for known, row in FORMATS.items() if row.suffix == path.suffix), None)
        if name is None:
            suffixes = format_choices(row.suffix for row in FORMATS.values() if row.suffix)
            raise ValueError(f"{path.name} must end in {suffixes}, or format must be {format_choices(FORMATS)}.")
    if name not in FORMATS:
        hint = suggestion(name, FORMATS)
        raise ValueError(f"format must be {format_choices(FORMATS)}. Received: format={name!r}.{hint}")
    return name
