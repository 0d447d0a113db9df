"""Weights: the registry of published files, download, reading, loading and saving."""

from convnext_keras.checkpoints.conversion import convert_checkpoint
from convnext_keras.checkpoints.formats import WeightsError
from convnext_keras.checkpoints.loading import load_pretrained, load_weights
from convnext_keras.checkpoints.registry import (
    BUNDLED_WEIGHTS_DIR,
    CLASSIFIER_REGISTRY,
    CLIP_REGISTRY,
    RESTRICTED_LICENSES,
    SEGMENTATION_REGISTRY,
    WeightSet,
    WeightsSource,
    default_weight_set,
    fetch_weights,
    find_weight_set,
    list_weights,
    load_registry,
    resolve_weights,
)
from convnext_keras.checkpoints.saving import save_weights

__all__ = [
    "BUNDLED_WEIGHTS_DIR",
    "CLASSIFIER_REGISTRY",
    "CLIP_REGISTRY",
    "RESTRICTED_LICENSES",
    "SEGMENTATION_REGISTRY",
    "WeightSet",
    "WeightsError",
    "WeightsSource",
    "convert_checkpoint",
    "default_weight_set",
    "fetch_weights",
    "find_weight_set",
    "list_weights",
    "load_pretrained",
    "load_registry",
    "load_weights",
    "resolve_weights",
    "save_weights",
]
