"""Repositories of timm, transformers, OpenCLIP and this library: reading and writing."""

from convnext_keras.hub.model_info import ModelInfo
from convnext_keras.hub.resolution import complete_weight_set, is_clip_repo, load_model_info, resolve_weights
from convnext_keras.hub.saving import push_to_hub, save_pretrained

__all__ = [
    "ModelInfo",
    "complete_weight_set",
    "is_clip_repo",
    "load_model_info",
    "push_to_hub",
    "resolve_weights",
    "save_pretrained",
]
