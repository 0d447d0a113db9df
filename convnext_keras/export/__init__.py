"""Models on their way to where they run: folded for inference, and exported to the formats of other programs."""

from convnext_keras.export.api import Export, export
from convnext_keras.export.clip import ENGINES, ExportedCLIP, export_clip, exported_for, is_exported_clip
from convnext_keras.export.exported_model import Artefact, is_artefact
from convnext_keras.export.formats import FORMATS, PRECISIONS, format_named
from convnext_keras.export.metadata import output_names
from convnext_keras.surgery import fold_for_inference

__all__ = [
    "ENGINES",
    "FORMATS",
    "PRECISIONS",
    "Artefact",
    "Export",
    "ExportedCLIP",
    "export",
    "export_clip",
    "exported_for",
    "fold_for_inference",
    "format_named",
    "is_artefact",
    "is_exported_clip",
    "output_names",
]
