"""Repositories that describe a ConvNeXt, read and written: of timm, transformers, OpenCLIP and this library."""

from convnext_keras.hub.model_info import Description
from convnext_keras.hub.resolution import described, is_clip, resolve
from convnext_keras.hub.saving import push_to_hub, save_pretrained

__all__ = ["Description", "described", "is_clip", "push_to_hub", "resolve", "save_pretrained"]
