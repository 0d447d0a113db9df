"""The public names of the package; `convnext_keras/__init__.py` exports them."""

from convnext_keras import clip, segmentation, training
from convnext_keras.checkpoints import WeightsError, list_weights, load_weights, save_weights
from convnext_keras.constructors import (
    ConvNeXtAtto,
    ConvNeXtFemto,
    ConvNeXtNano,
    ConvNeXtPico,
    ConvNeXtV2Atto,
    ConvNeXtV2Base,
    ConvNeXtV2Femto,
    ConvNeXtV2Huge,
    ConvNeXtV2Large,
    ConvNeXtV2Nano,
    ConvNeXtV2Pico,
    ConvNeXtV2Tiny,
    ConvNeXtXXLarge,
    create_model,
    list_models,
)
from convnext_keras.convnext import ConvNeXt, ConvNeXtBase, ConvNeXtLarge, ConvNeXtSmall, ConvNeXtTiny, ConvNeXtXLarge
from convnext_keras.data.class_names import decode_predictions
from convnext_keras.data.images import ImageError
from convnext_keras.data.transforms import preprocess_input
from convnext_keras.export import fold_for_inference
from convnext_keras.feature_extraction import feature_extractor, feature_info, pyramid_outputs, reset_classifier
from convnext_keras.hub import push_to_hub, save_pretrained
from convnext_keras.malloc import reuse_allocator_memory

__all__ = [
    "ConvNeXt",
    "ConvNeXtAtto",
    "ConvNeXtBase",
    "ConvNeXtFemto",
    "ConvNeXtLarge",
    "ConvNeXtNano",
    "ConvNeXtPico",
    "ConvNeXtSmall",
    "ConvNeXtTiny",
    "ConvNeXtV2Atto",
    "ConvNeXtV2Base",
    "ConvNeXtV2Femto",
    "ConvNeXtV2Huge",
    "ConvNeXtV2Large",
    "ConvNeXtV2Nano",
    "ConvNeXtV2Pico",
    "ConvNeXtV2Tiny",
    "ConvNeXtXLarge",
    "ConvNeXtXXLarge",
    "ImageError",
    "WeightsError",
    "clip",
    "create_model",
    "decode_predictions",
    "feature_extractor",
    "feature_info",
    "fold_for_inference",
    "list_models",
    "list_weights",
    "load_weights",
    "preprocess_input",
    "push_to_hub",
    "pyramid_outputs",
    "reset_classifier",
    "reuse_allocator_memory",
    "save_pretrained",
    "save_weights",
    "segmentation",
    "training",
]
