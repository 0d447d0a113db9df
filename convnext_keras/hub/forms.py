"""The formats that models are written in, one row each."""

from collections.abc import Callable
from typing import NamedTuple

from convnext_keras.checkpoints.saving import Tensor
from convnext_keras.hub import tensors, writing
from convnext_keras.hub.descriptions import SINGLE, Description


class Form(NamedTuple):
    """A format: the weight file's name, whether it may be cut into shards, and what makes files and names."""

    weights: str
    shards: bool
    files: Callable[[Description], writing.Files]
    names: Callable[[Description, tensors.Tensors], dict[str, Tensor]]


FORMS = {
    "timm": Form(SINGLE, False, writing.timm_files, tensors.timm_tensors),
    "transformers": Form(SINGLE, True, writing.transformers_files, tensors.transformers_tensors),
    "open_clip": Form("open_clip_model.safetensors", False, writing.open_clip_files, tensors.open_clip_tensors),
    "keras": Form(SINGLE, True, writing.own_files, tensors.own_tensors),
}
