"""Exported models, run by the program that each format is for, without Keras and without this library.

The file is a program of its own too, so that a check has nothing but the format's runtime in its process:

    python runtimes.py ARTEFACT INPUTS.npz OUTPUTS.npz
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], list[np.ndarray]]
TIMING_RUNS = 5  # of which the fastest is told
MULTI_STREAM_FORMATS = ("openvino", "onnx")  # formats whose programs several threads may run at a time
METADATA_SUFFIX = ".json"  # appended to the name of an artifact for the name of its description


def _saved_model(path: Path, names: Sequence[str]) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]
    (name,) = function.structured_input_signature[1]

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        results = function(**{name: tf.constant(inputs)})
        return [results[row].numpy() for row in names]

    run.model = loaded  # pyright: ignore[reportFunctionMemberAccess] - its functions end with it
    return run


def _litert(path: Path, names: Sequence[str]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    runner: Any = Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda inputs: [np.asarray(runner(**{name: inputs})[row]) for row in names]


def _onnx(path: Path, names: Sequence[str], streams: int = 1) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if streams > 1:
        options.intra_op_num_threads = max(1, (os.cpu_count() or 1) // streams)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: [np.asarray(row) for row in session.run([*names], {name: inputs})]


def _torch(path: Path, names: Sequence[str]) -> Run:
    import torch

    module = torch.export.load(str(path)).module()

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [row.numpy() for row in module(torch.from_numpy(inputs))]

    return run


def _openvino(path: Path, names: Sequence[str], streams: int = 1) -> Run:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if streams > 1:  # Bound to a processor each, one would wait while another's was free.
        settings |= {"NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
    program = openvino.compile_model(str(path), "CPU", settings)
    own = threading.local()

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        if not hasattr(own, "request"):  # that no other thread may use meanwhile
            own.request = program.create_infer_request()
        results = own.request.infer(inputs, share_inputs=True)
        return [np.array(results[row]) for row in names]

    return run


def _stablehlo(path: Path, names: Sequence[str]) -> Run:
    from jax import export

    call = export.deserialize(bytearray(path.read_bytes())).call
    return lambda inputs: [np.array(row) for row in call(inputs)]


RUNTIMES: dict[str, Callable[..., Run]] = {
    "saved_model": _saved_model,
    "litert": _litert,
    "onnx": _onnx,
    "torch": _torch,
    "openvino": _openvino,
    "stablehlo": _stablehlo,
}


def read_metadata(path: Path) -> dict[str, Any]:
    """What `export` wrote beside an artifact.

    Raises:
        ValueError: if there is no description.
    """
    beside = path.with_name(path.name + METADATA_SUFFIX)
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} has no description {beside.name} beside it, as `export` writes it.") from error


def load_runtime(path: Path, streams: int = 1) -> Run:
    """An artifact as a function from an array to its outputs, in the order of the description.

    Args:
        path: of the artifact.
        streams: threads that may call it at a time, each with its share of the processors; of OpenVINO and ONNX.

    Raises:
        ValueError: if there is no description, or the format cannot run so many streams.
        ImportError: if the format's own program is not installed.
    """
    description = read_metadata(path)
    name = description["format"]
    if streams < 1 or (streams > 1 and name not in MULTI_STREAM_FORMATS):
        raise ValueError(
            f"streams must be 1, or more for {' and '.join(MULTI_STREAM_FORMATS)}. Received: streams={streams} for {name}"
        )
    options = {"streams": streams} if name in MULTI_STREAM_FORMATS else {}
    return RUNTIMES[name](path, description["outputs"], **options)


def main(artifact: str, inputs: str, outputs: str) -> None:
    """Runs all arrays of one file, and writes the results of each and the seconds of its fastest run."""
    run = load_runtime(Path(artifact))
    results = {}
    with np.load(inputs) as arrays:
        for name, array in arrays.items():
            results |= {f"{name} {number}": row for number, row in enumerate(run(array))}
            seconds = []
            for _ in range(TIMING_RUNS):
                start = time.perf_counter()
                run(array)
                seconds.append(time.perf_counter() - start)
            results[f"{name} seconds"] = np.array(min(seconds))
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
