"""PyTorch `ExportedProgram` (`.pt2`): writing and running."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def to_module(model: Any) -> tuple[Any, tuple[Any], dict[str, Any]]:
    """Wraps a Keras model for PyTorch's exporters.

    Returns:
        The module, its example inputs, and the dimensions that stay dynamic.
    """
    import keras
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs):
            return tuple(keras.tree.flatten(self.model(inputs, training=False)))

    shape = model.inputs[0].shape
    sizes = [shape[0] or 2, *(length or 8 for length in shape[1:])]
    example = torch.zeros(sizes, dtype=getattr(torch, model.inputs[0].dtype))
    names = ("batch", "length")
    dynamic = {axis: torch.export.Dim(names[axis]) for axis, length in enumerate(shape) if not length}
    return Module().eval(), (example,), {"inputs": dynamic}


def write_model(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a Keras model with one input as an `ExportedProgram`."""
    import torch

    module, example, dynamic_shapes = to_module(model)
    program = torch.export.export(module, example, dynamic_shapes=dynamic_shapes)
    torch.export.save(program, str(path), extra_files={"convnext_keras.json": json.dumps(metadata)})


def load_runtime(path: Path, outputs: Sequence[str]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Loads an `ExportedProgram` as a function from an array to all outputs, in order."""
    import torch

    module = torch.export.load(str(path)).module()

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(inputs))]

    return run
