"""Artifacts made smaller: weights in half precision, or weights and products in eight-bit integers by calibration.

Quantization is NNCF's (https://github.com/openvinotoolkit/nncf), with its preset for transformers, whose blocks of
norm, two dense layers and GELU are those of ConvNeXt. Depthwise convolutions stay floats: their inputs, the sums of all
blocks before, are too uneven for 256 levels. In a ConvNeXt-Tiny with random weights the cosine to the logits in float32
is 0.985 without them and 0.84 with them, and OpenVINO computes them in floats anyway.

The file is a program of its own, since NNCF imports every framework that it finds:

    python reducing.py FORMAT PRECISION ARTEFACT ROWS.npz
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EPSILON = 1e-12  # beside sums about 1


def _quantized(model: Any, rows: Any, **depthwise: Any) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    options: Any = {"preset": nncf.QuantizationPreset.MIXED, "model_type": nncf.ModelType.TRANSFORMER}
    scope = nncf.IgnoredScope(**depthwise)
    return nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), ignored_scope=scope, **options)


def _openvino_int8(path: Path, rows: np.ndarray) -> None:
    from openvino import opset15

    model = _fold_constants(path)
    _replace_zero_biases(model)
    model = _quantized(model, list(rows), types=["GroupConvolution"])
    # The kernels that stay are halved here: `compress_to_fp16` leaves them alone where others are integers.
    for operation in model.get_ops():
        if operation.get_type_name() == "GroupConvolution":
            kernel = operation.input_value(1).get_node().data.astype("float16")
            widened = opset15.convert(opset15.constant(kernel), "f32")
            operation.input(1).replace_source_output(widened.output(0))
    _save_openvino(model, path, half=False)


def _replace_zero_biases(model: Any) -> None:
    """Makes biases of zeros a little more, since OpenVINO 2026.4 leaves sums with zeros out, and then scales a product
    of eight-bit integers before the residual is added, not after it, where the number of rows is free.
    """
    from openvino import opset15

    for operation in model.get_ops():
        bias = operation.input_value(1).get_node() if operation.get_type_name() == "Add" else None
        if bias and bias.get_type_name() == "Constant" and not bias.data.any():
            little = opset15.constant(np.full_like(bias.data, EPSILON))
            operation.input(1).replace_source_output(little.output(0))


def _openvino_int8_weights(path: Path, rows: np.ndarray) -> None:
    import nncf

    compressed = nncf.compress_weights(_fold_constants(path), mode=nncf.CompressWeightsMode.INT8_SYM)
    _save_openvino(compressed, path, half=False)


def _fold_constants(path: Path) -> Any:
    """A model in which no kernel of a convolution stands behind a transposition, where NNCF would not know it."""
    import openvino
    from openvino import passes

    model = openvino.Core().read_model(path)
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def _openvino_float16(path: Path, rows: np.ndarray) -> None:
    import openvino

    _save_openvino(openvino.Core().read_model(path), path, half=True)


def _save_openvino(model: Any, path: Path, half: bool) -> None:
    """Writes a model in the place of the one that it was read from, whose file may still be in use."""
    import openvino

    partial = path.with_name(f"reduced-{path.name}")
    openvino.save_model(model, partial, compress_to_fp16=half)
    for suffix in (".xml", ".bin"):
        partial.with_suffix(suffix).replace(path.with_suffix(suffix))


def _onnx_int8_weights(path: Path, rows: np.ndarray) -> None:
    """By ONNX Runtime itself: it cannot read what NNCF makes of weights that are used in two layouts."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, partial = onnx.load(path), path.with_name(f"reduced-{path.name}")
    quantize_dynamic(path, partial, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    _save_onnx(onnx.load(partial), model, path)
    partial.unlink()


def _onnx_int8(path: Path, rows: np.ndarray) -> None:
    import onnx

    model = onnx.load(path)
    name = model.graph.input[0].name
    depthwise = [node.name for node in model.graph.node if any(a.name == "group" and a.i > 1 for a in node.attribute)]
    _save_onnx(_quantized(model, [{name: row} for row in rows], names=depthwise), model, path)


def _onnx_float16(path: Path, rows: np.ndarray) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(path)
    _save_onnx(convert_float_to_float16(model, keep_io_types=True), model, path)


def _save_onnx(reduced: Any, model: Any, path: Path) -> None:
    """Writes a model with the description that the one it was made of has."""
    import onnx

    onnx.helper.set_model_props(reduced, {row.key: row.value for row in model.metadata_props})
    onnx.save(reduced, path)


QUANTIZERS: dict[tuple[str, str], Callable[[Path, np.ndarray], None]] = {
    ("openvino", "float16"): _openvino_float16,
    ("openvino", "int8_weights"): _openvino_int8_weights,
    ("openvino", "int8"): _openvino_int8,
    ("onnx", "float16"): _onnx_float16,
    ("onnx", "int8_weights"): _onnx_int8_weights,
    ("onnx", "int8"): _onnx_int8,
}
NNCF_QUANTIZED = {("openvino", "int8_weights"), ("openvino", "int8"), ("onnx", "int8")}


def main(format: str, precision: str, artifact: str, rows: str) -> None:
    """Puts an artifact of a lower precision in the place of one in float32.

    Args:
        format: of the artifact.
        precision: to lower it to.
        artifact: its path.
        rows: path of an `.npz` file with the array `rows` `(batches, batch, ...)` to calibrate with.
    """
    with np.load(rows) as arrays:
        QUANTIZERS[format, precision](Path(artifact), arrays["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
