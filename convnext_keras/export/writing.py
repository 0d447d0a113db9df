"""Writing a model in a format by the backend that writes it best, in a process of that backend if need be.

python -m convnext_keras.export.writing FORMAT SAVED.keras PATH DESCRIPTION
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from convnext_keras.export.formats import FORMATS
from convnext_keras.fast_import import FAST_IMPORT_ENV

DEFAULT_OPSET = 20  # of ONNX, if none is asked for: the first with GELU as one operation
PLATFORMS = ("cpu", "cuda", "tpu")
MAX_ONNX_BYTES = 2**31 - 2**24  # bytes of weights beyond which they go into a file of their own


def write(format: str, model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    """Writes a model with one input; in a process of another backend, where the active one is not the format's.

    Raises:
        RuntimeError: if the format's backend cannot write the model; with the last line of what it said.
    """
    if keras.backend.backend() == FORMATS[format].backend:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of what the backends will change in their own exporters.
            WRITERS[format](model, path, description)
        return
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        words = ["-m", "convnext_keras.export.writing", format, str(saved), str(path), json.dumps(description)]
        run_subprocess(words, KERAS_BACKEND=FORMATS[format].backend)


def run_subprocess(words: Sequence[str], **environment: str) -> None:
    """Runs Python with these arguments in a process of its own.

    Raises:
        RuntimeError: if it fails; with the last line of what it said.
    """
    environment = {**os.environ, **FAST_IMPORT_ENV, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(said[-1] if said else f"The process ended with {done.returncode}.")


def _shape(model: keras.Model, batch: int | None = None) -> list[int | None]:
    """Of the input; with so many rows, if their number is free."""
    first, *others = model.inputs[0].shape
    return [first or batch, *others]


def _outputs(model: keras.Model, inputs: Any) -> list[Any]:
    return keras.tree.flatten(model(inputs, training=False))


def _saved_model(model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    import tensorflow as tf

    row = model.inputs[0]
    names = description["outputs"]
    signature = [tf.TensorSpec(_shape(model), row.dtype, name=description["input"])]
    archive: Any = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve", lambda inputs: dict(zip(names, _outputs(model, inputs), strict=True)), input_signature=signature
    )
    archive.write_out(str(path), verbose=False)


def _litert(model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _saved_model(model, Path(folder), description)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if description["precision"] != "float32":  # Of int8, the weights, and the products by what each input holds.
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if description["precision"] == "float16":
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def _module(model: keras.Model) -> Any:
    """A Keras model as PyTorch's exporters take it, with example inputs and its free dimension."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs):
            return tuple(_outputs(model, inputs))

    shape: Any = [length or 8 for length in _shape(model, 2)]
    example = torch.zeros(shape, dtype=getattr(torch, model.inputs[0].dtype))
    names = ("batch", "length")
    free = {place: torch.export.Dim(names[place]) for place, side in enumerate(model.inputs[0].shape) if not side}
    return Module().eval(), (example,), {"inputs": free}


def _torch(model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    import torch

    module, example, free = _module(model)
    program = torch.export.export(module, example, dynamic_shapes=free)
    torch.export.save(program, str(path), extra_files={"convnext_keras.json": json.dumps(description)})


def _onnx(model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    import onnx
    import torch

    module, example, free = _module(model)
    large = sum(weight.numpy().nbytes for weight in model.weights) > MAX_ONNX_BYTES
    options: Any = {"dynamo": True, "dynamic_shapes": free, "opset_version": description["opset"], "verbose": False}
    options |= {"input_names": [description["input"]], "output_names": description["outputs"]}
    torch.onnx.export(module, example, str(path), external_data=large, **options)
    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(graph, {"convnext_keras": json.dumps(description)})
    onnx.save(graph, path)


def _openvino(model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    import openvino

    from convnext_keras.backend.openvino import to_openvino_graph

    graph = to_openvino_graph(model)
    for port, name in zip(
        [*graph.inputs, *graph.outputs], [description["input"], *description["outputs"]], strict=True
    ):
        port.get_tensor().set_names({name})
    graph.set_rt_info(json.dumps(description), "convnext_keras")
    openvino.save_model(graph, path, compress_to_fp16=False)


def _stablehlo(model: keras.Model, path: Path, description: dict[str, Any]) -> None:
    import jax
    from jax import export

    first, *others = model.inputs[0].shape
    rows = first or export.symbolic_shape("batch")[0]
    shape = jax.ShapeDtypeStruct((rows, *others), model.inputs[0].dtype)
    exported = export.export(jax.jit(lambda inputs: _outputs(model, inputs)), platforms=PLATFORMS)(shape)
    path.write_bytes(exported.serialize())


WRITERS: dict[str, Callable[[keras.Model, Path, dict[str, Any]], None]] = {
    "saved_model": _saved_model,
    "litert": _litert,
    "onnx": _onnx,
    "torch": _torch,
    "openvino": _openvino,
    "stablehlo": _stablehlo,
}


def main(format: str, saved: str, path: str, description: str) -> None:
    """Writes a model that another process saved."""
    import convnext_keras  # noqa: F401 - its layers have to be known

    model: Any = keras.saving.load_model(saved, compile=False)
    WRITERS[format](model, Path(path), json.loads(description))


if __name__ == "__main__":
    main(*sys.argv[1:])
