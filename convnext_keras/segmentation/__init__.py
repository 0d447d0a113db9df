"""Semantic segmentation: models on any ConvNeXt, label maps of images, and overlays."""

from convnext_keras.configs import SegmentationConfig
from convnext_keras.segmentation.inference import SegmentationMap, Segmenter, is_segmentation_model, segment
from convnext_keras.segmentation.models import UPerNet
from convnext_keras.segmentation.overlay import label_image, overlay, palette

__all__ = [
    "SegmentationConfig",
    "SegmentationMap",
    "Segmenter",
    "UPerNet",
    "is_segmentation_model",
    "label_image",
    "overlay",
    "palette",
    "segment",
]
