"""Weights: where they are published, how their files are read and written, and how they get into models."""

from convnext_keras.checkpoints.conversion import convert_checkpoint
from convnext_keras.checkpoints.formats import WeightsError
from convnext_keras.checkpoints.loading import load_source, load_weights
from convnext_keras.checkpoints.registry import (
    BUNDLED,
    CLASSIFIERS,
    CLIP,
    RESTRICTED,
    Published,
    WeightSet,
    default,
    fetch,
    list_weights,
    named,
    resolve,
    weight_sets,
)
from convnext_keras.checkpoints.saving import save_weights

__all__ = [
    "BUNDLED",
    "CLASSIFIERS",
    "CLIP",
    "RESTRICTED",
    "Published",
    "WeightSet",
    "WeightsError",
    "convert_checkpoint",
    "default",
    "fetch",
    "list_weights",
    "load_source",
    "load_weights",
    "named",
    "resolve",
    "save_weights",
    "weight_sets",
]
