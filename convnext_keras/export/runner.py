"""Program that runs or quantizes an exported model in its own process, without Keras and without this library.

    python -P runner.py run ARTIFACT INPUTS.npz OUTPUTS.npz
    python -P runner.py quantize FORMAT PRECISION ARTIFACT BATCHES.npz

A check then has only the runtime of the format in its process. NNCF imports every framework that is installed. The
modules of the formats are imported from this directory as the package `exported_formats`; `-P` keeps the directory off
the path, because `onnx.py`, `openvino.py` and `torch.py` have the names of the packages that they import.
"""

import importlib
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

TIMING_RUNS = 5


def import_module(name: str) -> Any:
    """Imports a module of this directory."""
    package = types.ModuleType("exported_formats")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.{name}")


def run(artifact: str, inputs: str, outputs: str) -> None:
    """Runs all arrays of a file; writes their outputs and the seconds of the fastest run."""
    function = import_module("runtimes").load_runtime(Path(artifact))
    results = {}
    with np.load(inputs) as arrays:
        for name, array in arrays.items():
            results |= {f"{name} {index}": output for index, output in enumerate(function(array))}
            seconds = []
            for _ in range(TIMING_RUNS):
                start = time.perf_counter()
                function(array)
                seconds.append(time.perf_counter() - start)
            results[f"{name} seconds"] = np.array(min(seconds))
    np.savez(outputs, **results)


def quantize(format: str, precision: str, artifact: str, batches: str) -> None:
    """Replaces a float32 model by one of a lower precision; `batches` is a file with the array `batches`."""
    with np.load(batches) as arrays:
        import_module(format).quantize(Path(artifact), precision, arrays["batches"])


if __name__ == "__main__":
    {"run": run, "quantize": quantize}[sys.argv[1]](*sys.argv[2:])
