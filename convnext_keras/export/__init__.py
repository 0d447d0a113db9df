"""Models on their way to where they run: folded for inference, and exported to the formats of other programs."""

from convnext_keras.export.api import ExportResult, export
from convnext_keras.export.clip import CLIP_FORMATS, ExportedCLIP, export_clip, get_or_export_clip, is_exported_clip
from convnext_keras.export.exported_model import ExportedModel, is_exported_model
from convnext_keras.export.formats import FORMATS, PRECISIONS, resolve_format
from convnext_keras.export.immich import export_immich
from convnext_keras.export.metadata import output_names
from convnext_keras.export.onnx_web import export_onnx_web
from convnext_keras.surgery import fold_for_inference

__all__ = [
    "CLIP_FORMATS",
    "FORMATS",
    "PRECISIONS",
    "ExportResult",
    "ExportedCLIP",
    "ExportedModel",
    "export",
    "export_clip",
    "export_immich",
    "export_onnx_web",
    "fold_for_inference",
    "get_or_export_clip",
    "is_exported_clip",
    "is_exported_model",
    "output_names",
    "resolve_format",
]
