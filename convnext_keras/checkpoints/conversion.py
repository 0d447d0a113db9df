"""Conversion of PyTorch checkpoints to `.safetensors`. Only this module opens pickles and needs PyTorch.

The pickle is opened with `weights_only=True`, which builds tensors and nothing else. Names stay the publisher's: the
layout is recognized when the file is loaded.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes

from convnext_keras.checkpoints.formats import WeightsError
from convnext_keras.checkpoints.saving import LazyTensor, write_safetensors

# Where publishers put the tensors, and how training wrappers call them; the moving average comes first.
STATE_DICT_KEYS = ("model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict")


def convert_checkpoint(checkpoint: str | os.PathLike, output: str | os.PathLike) -> dict[str, LazyTensor]:
    """Writes the tensors of a PyTorch checkpoint to a `.safetensors` file.

    Args:
        checkpoint: A `.pth`, `.pt` or `.bin` file.
        output: The file to write, which must not exist.

    Returns:
        The tensors by name.

    Raises:
        ImportError: If PyTorch is not installed.
        WeightsError: If the checkpoint cannot be read safely, holds no tensors, or the output exists.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    try:
        import torch
    except ImportError as error:
        raise ImportError("Opening a pickle needs PyTorch: pip install 'convnext-keras[torch]'.") from error
    if output.exists():
        raise WeightsError(f"{output} exists already. Choose another name or remove it.")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{checkpoint} cannot be read safely: {str(error).splitlines()[0]}") from error
    values = {name: value for name, value in _extract_state_dict(content, checkpoint).items() if torch.is_tensor(value)}
    tensors = {name: _tensor(value.detach().contiguous(), torch.int16) for name, value in values.items()}
    if not tensors:
        raise WeightsError(f"{checkpoint} holds no tensors.")
    write_safetensors(output, tensors, {})
    return tensors


def _extract_state_dict(content: Any, checkpoint: Path) -> dict[str, Any]:
    """Returns the named tensors in what PyTorch read, out of their wrappers."""
    while isinstance(content, dict):
        inner = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), dict)), None)
        if inner is None:
            return content
        content = inner
    raise WeightsError(f"{checkpoint} holds a {type(content).__name__}, not named tensors.")


def _tensor(value: Any, two_bytes: Any) -> LazyTensor:
    """Converts a PyTorch tensor; bfloat16, which NumPy lacks, is reinterpreted as another type of two bytes."""
    shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if dtype == "bfloat16":
        return LazyTensor(shape, dtype, lambda: value.view(two_bytes).numpy().view(ml_dtypes.bfloat16))
    return LazyTensor(shape, dtype, value.numpy)
