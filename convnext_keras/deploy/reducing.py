"""Artefacts made smaller: weights in half precision, or weights and products in eight-bit integers by calibration.

Quantization is NNCF's (https://github.com/openvinotoolkit/nncf), with its preset for transformers, whose blocks of
norm, two dense layers and GELU are those of ConvNeXt. The file is a program of its own, since NNCF imports every
framework that it finds:

    python reducing.py FORMAT PRECISION ARTEFACT ROWS.npz
"""

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _quantized(model: Any, rows: Any, only_weights: bool = False) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    if only_weights:
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    options: Any = {"preset": nncf.QuantizationPreset.MIXED, "model_type": nncf.ModelType.TRANSFORMER}
    return nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), **options)


def _openvino_int8(path: Path, rows: np.ndarray, only_weights: bool = False) -> None:
    import openvino
    from openvino import passes

    model = openvino.Core().read_model(path)
    # Kernels of convolutions stand behind transpositions, where NNCF would not know them for weights.
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    _save_openvino(_quantized(model, list(rows), only_weights), path, half=False)


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
    _save_onnx(_quantized(model, [{name: row} for row in rows]), model, path)


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


REDUCERS: dict[tuple[str, str], Callable[[Path, np.ndarray], None]] = {
    ("openvino", "float16"): _openvino_float16,
    ("openvino", "int8_weights"): functools.partial(_openvino_int8, only_weights=True),
    ("openvino", "int8"): _openvino_int8,
    ("onnx", "float16"): _onnx_float16,
    ("onnx", "int8_weights"): _onnx_int8_weights,
    ("onnx", "int8"): _onnx_int8,
}


def main(format: str, precision: str, artefact: str, rows: str) -> None:
    """Puts an artefact of a lower precision in the place of one in float32.

    Args:
        format: of the artefact.
        precision: to lower it to.
        artefact: its path.
        rows: path of an `.npz` file with the array `rows` `(batches, batch, ...)` to calibrate with.
    """
    with np.load(rows) as arrays:
        REDUCERS[format, precision](Path(artefact), arrays["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
