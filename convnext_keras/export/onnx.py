"""ONNX: writing by PyTorch's exporter, quantization, and running by ONNX Runtime."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DEFAULT_OPSET = 20  # the first opset with GELU as one operation
MIN_OPSET = 18  # the lowest opset that PyTorch's exporter writes
MAX_ONNX_BYTES = 2**31 - 2**24  # larger weights are stored in a second file, because protobuf is limited to 2 GiB


def write_model(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a Keras model with one input as an ONNX file of opset `metadata["opset"]`."""
    import onnx
    import torch

    from convnext_keras.export.torch import to_module

    module, example, dynamic_shapes = to_module(model)
    is_large = sum(weight.numpy().nbytes for weight in model.weights) > MAX_ONNX_BYTES
    options: Any = {"dynamo": True, "dynamic_shapes": dynamic_shapes, "opset_version": metadata["opset"]}
    options |= {"input_names": [metadata["input"]], "output_names": metadata["outputs"], "verbose": False}
    with _quiet_logger("torch.onnx"):  # warns that torchvision, which is not used, is missing
        torch.onnx.export(module, example, str(path), external_data=is_large, **options)
    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(graph, {"convnext_keras": json.dumps(metadata)})
    onnx.save(graph, path)


@contextlib.contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    """Hides the warnings of a logger, and of those below it."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def quantize(path: Path, precision: str, batches: np.ndarray) -> None:
    """Replaces a float32 ONNX file by one of a lower precision.

    Args:
        path: The ONNX file.
        precision: `"float16"`, `"int8_weights"` or `"int8"`.
        batches: Inputs to calibrate int8 with, `(batches, batch, ...)`; not used otherwise.
    """
    import onnx

    model = onnx.load(path)
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        quantized = convert_float_to_float16(model, keep_io_types=True)
    elif precision == "int8_weights":
        quantized = _quantize_weights(path)
    else:
        from .nncf_quantization import quantize_activations

        if any(node.op_type == "Resize" for node in model.graph.node):  # of a segmentation model
            model = _fold_constants(path)
        name = model.graph.input[0].name
        depthwise = [
            node.name for node in model.graph.node if any(a.name == "group" and a.i > 1 for a in node.attribute)
        ]
        quantized = quantize_activations(model, [{name: batch} for batch in batches], names=depthwise)
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in model.metadata_props})
    onnx.save(quantized, path)


def _fold_constants(path: Path) -> Any:
    """Returns the model with what is computed of weights alone computed, such as parts of a kernel: NNCF needs it."""
    import onnx
    import onnxruntime

    folded = path.with_name(f"folded-{path.name}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(folded)
    folded.unlink()
    return model


def _quantize_weights(path: Path) -> Any:
    """Quantizes weights with ONNX Runtime: it cannot load NNCF's result if a weight is used in two layouts."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    partial = path.with_name(f"quantized-{path.name}")
    quantize_dynamic(path, partial, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    quantized = onnx.load(partial)
    partial.unlink()
    return quantized


def rename_input(path: Path, name: str) -> None:
    """Renames the only input of an ONNX file."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    (row,) = model.graph.input
    for node in model.graph.node:
        node.input[:] = [name if known == row.name else known for known in node.input]
    row.name = name
    onnx.save(model, path)


def load_runtime(path: Path, outputs: Sequence[str], streams: int = 1) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads an ONNX file as a function from an array to the named outputs.

    Args:
        path: The ONNX file.
        outputs: Names of the outputs.
        streams: Number of threads that may call the function at the same time; each uses a share of the CPU cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if streams > 1:
        options.intra_op_num_threads = max(1, (os.cpu_count() or 1) // streams)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: [np.asarray(output) for output in session.run([*outputs], {name: inputs})]
