"""OpenVINO (`.xml` and `.bin`): writing, quantization and running."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

EPSILON = 1e-12  # replaces zero biases; activations are of the order of 1


def write_model(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a Keras model with one input as OpenVINO IR."""
    import openvino

    from convnext_keras.backend.openvino import to_openvino_graph

    graph = to_openvino_graph(model)
    names = [metadata["input"], *metadata["outputs"]]
    for port, name in zip([*graph.inputs, *graph.outputs], names, strict=True):
        port.get_tensor().set_names({name})
    graph.set_rt_info(json.dumps(metadata), "convnext_keras")
    openvino.save_model(graph, path, compress_to_fp16=False)


def quantize(path: Path, precision: str, batches: np.ndarray) -> None:
    """Replaces a float32 model by one of a lower precision.

    Args:
        path: The `.xml` file.
        precision: `"float16"`, `"int8_weights"` or `"int8"`.
        batches: Inputs to calibrate int8 with, `(batches, batch, ...)`; not used otherwise.
    """
    if precision == "float16":
        import openvino

        _save(openvino.Core().read_model(path), path, half=True)
        return
    from .nncf_quantization import compress_weights, quantize_activations

    model = _fold_constants(path)
    if precision == "int8_weights":
        _save(compress_weights(model), path, half=False)
        return
    _replace_zero_biases(model)
    model = quantize_activations(model, list(batches), types=["GroupConvolution"])
    _halve_depthwise_kernels(model)
    _save(model, path, half=False)


def _replace_zero_biases(model: Any) -> None:
    """Replaces all-zero biases with 1e-12 so that OpenVINO 2026.4 keeps the Add node.

    Without the node, OpenVINO scales an int8 matmul before the residual is added if the batch size is dynamic.
    """
    from openvino import opset15

    for operation in model.get_ops():
        bias = operation.input_value(1).get_node() if operation.get_type_name() == "Add" else None
        if bias and bias.get_type_name() == "Constant" and not bias.data.any():
            constant = opset15.constant(np.full_like(bias.data, EPSILON))
            operation.input(1).replace_source_output(constant.output(0))


def _halve_depthwise_kernels(model: Any) -> None:
    """Stores the kernels that stay float in float16: `compress_to_fp16` skips them if others are integers."""
    from openvino import opset15

    for operation in model.get_ops():
        if operation.get_type_name() == "GroupConvolution":
            kernel = operation.input_value(1).get_node().data.astype("float16")
            converted = opset15.convert(opset15.constant(kernel), "f32")
            operation.input(1).replace_source_output(converted.output(0))


def _fold_constants(path: Path) -> Any:
    """Reads a model and folds transposed kernels into constants, which NNCF recognizes."""
    import openvino
    from openvino import passes

    model = openvino.Core().read_model(path)
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def _save(model: Any, path: Path, half: bool) -> None:
    """Replaces the files of a model, which may still be open."""
    import openvino

    partial = path.with_name(f"quantized-{path.name}")
    openvino.save_model(model, partial, compress_to_fp16=half)
    for suffix in (".xml", ".bin"):
        partial.with_suffix(suffix).replace(path.with_suffix(suffix))


def load_runtime(path: Path, outputs: Sequence[str], streams: int = 1) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads OpenVINO IR as a function from an array to the named outputs, computed in float32.

    Args:
        path: The `.xml` file.
        outputs: Names of the outputs.
        streams: Number of threads that may call the function at the same time; each uses a share of the CPU cores.
    """
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if streams > 1:  # With pinning, one stream waits for its core while another core is idle.
        settings |= {"NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
    compiled = openvino.compile_model(str(path), "CPU", settings)
    local = threading.local()

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        if not hasattr(local, "request"):  # an inference request belongs to one thread
            local.request = compiled.create_infer_request()
        results = local.request.infer(inputs, share_inputs=True)
        return [np.array(results[output]) for output in outputs]

    return run
