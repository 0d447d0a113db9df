"""Turns a PyTorch checkpoint into a .safetensors file that this library loads; needs PyTorch, once.

    python scripts/convert_checkpoint.py convnext_base_1k_384.pth convnext_base_1k_384.safetensors

The pickle is opened with `weights_only=True`, which builds tensors and nothing else. Names stay the publisher's: the
layout is recognised when the file is loaded.
"""

import argparse
import pickle
from pathlib import Path

import safetensors.torch
import torch

# Where publishers put the tensors, and how training wrappers call them; the moving average comes first.
WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict")


def tensors_of(checkpoint: object) -> dict[str, torch.Tensor]:
    """The named tensors in what `torch.load` gave, out of their wrappers."""
    while isinstance(checkpoint, dict):
        inner = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), dict)), None)
        if inner is None:
            return {name: value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)}
        checkpoint = inner
    raise SystemExit(f"The checkpoint holds a {type(checkpoint).__name__}, not named tensors.")


def main() -> None:
    """Reads, prints what it found, and writes the new file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a .pth, .pt or .bin file")
    parser.add_argument("output", type=Path, help="the .safetensors file to write; must not exist")
    options = parser.parse_args()
    if options.output.exists():
        raise SystemExit(f"{options.output} exists already. Choose another name or remove it.")
    try:
        checkpoint = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise SystemExit(f"{options.checkpoint} cannot be read safely: {str(error).splitlines()[0]}") from error
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors_of(checkpoint).items()}
    if not tensors:
        raise SystemExit(f"{options.checkpoint} holds no tensors.")
    partial = options.output.with_name(f"{options.output.name}.partial")
    safetensors.torch.save_file(tensors, partial)
    partial.rename(options.output)
    values = sum(tensor.numel() for tensor in tensors.values())
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    print(f"{options.output}: {len(tensors)} tensors, {values:,} values of {', '.join(types)}")
    for name, tensor in list(tensors.items())[:3]:
        print(f"  {name} {tuple(tensor.shape)}")


if __name__ == "__main__":
    main()
