"""Models on their way to where they run: folded for inference, and exported to the formats of other programs."""

from convnext_keras.deploy.artefacts import Artefact, is_artefact
from convnext_keras.deploy.describing import output_names
from convnext_keras.deploy.exporting import Export, export
from convnext_keras.deploy.folding import fold_for_inference
from convnext_keras.deploy.formats import FORMATS, PRECISIONS, format_named
from convnext_keras.deploy.towers import ENGINES, ExportedCLIP, export_clip, exported_for, is_exported_clip

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
