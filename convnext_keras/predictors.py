"""Any model by its name: a ConvNeXt-CLIP, or a classifier with classes of its own, in Keras or exported."""

from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras import checkpoints, clip, hub
from convnext_keras.constructors import create_model
from convnext_keras.data.class_names import class_names
from convnext_keras.data.transforms import Recipe
from convnext_keras.export.clip import ExportedCLIP, exported_for, is_exported_clip
from convnext_keras.export.exported_model import Artefact, is_artefact
from convnext_keras.export.metadata import output_names
from convnext_keras.inference import Runner, filled_up, softmax
from convnext_keras.model import ModelWithProvenance


class Classifier:
    """A classifier behind the same queue as an image tower: pixels to probabilities of its own classes.

    Args:
        model: a classifier of this library, or an exported one.
        name: that clients call it by.

    Attributes:
        recipe: the evaluation transform.
        classes: each as `(identifier, name)`.
        streams: batches that may run at a time.

    Raises:
        ValueError: if the model is none.
    """

    streams = 1

    def __init__(self, model: ModelWithProvenance | Artefact, name: str) -> None:
        self.name, self.provenance = name, model.provenance
        known = self.provenance
        self.recipe = (known and known.recipe) or Recipe(224)
        if isinstance(model, Artefact):
            kind, self.run = model.outputs[0], model
        else:
            kind, run = output_names(model)[0], Runner(model)
            self.run = lambda pixels: run(pixels.astype("float32"), len(pixels))
        if kind not in ("probabilities", "logits"):
            raise ValueError(f"{name} gives {kind}. Name a classifier, or a ConvNeXt-CLIP.")
        self.is_logits = kind == "logits"
        self.output_width = self.run(np.zeros((1, *self.recipe.shape), "uint8")).shape[1]
        labels = known and known.labels
        found = class_names(labels) if isinstance(labels, str) else labels
        self.classes = tuple(found or ((str(number),) * 2 for number in range(self.output_width)))

    def encode_pixels(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """Probabilities `(N, classes)` of at most `batch_size` pictures."""
        scores = self.run(filled_up(pixels, batch_size))[: len(pixels)]
        return softmax(scores) if self.is_logits else scores


def opened(name: str, engine: str | None = None, streams: int = 1) -> clip.Embedder | Classifier:
    """A model by its name: a weight set, a `.keras` file, a repository or folder, or what `export` wrote.

    Args:
        name: of the model.
        engine: to run a ConvNeXt-CLIP by; see `create_app`.
        streams: of that engine; see `create_app`.

    Raises:
        ValueError: if there is no such model, or it cannot be run so.
    """
    if is_exported_clip(name):
        exported = ExportedCLIP(name, streams)
        if engine not in (None, exported.format):
            raise ValueError(f"{name} was written for {exported.format}. Received: engine={engine!r}")
        return exported
    if streams > 1 and not engine:
        raise ValueError(
            f"streams are of an engine, which runs a ConvNeXt-CLIP. Received: streams={streams} without one"
        )
    if is_clip(name):
        return ExportedCLIP(exported_for(name, engine), streams) if engine else clip.create_model(name)
    if engine:
        raise ValueError(f"engine is of a ConvNeXt-CLIP. Write {name} with `convnext-keras export`, and serve that.")
    model: Any = Artefact(name) if is_artefact(name) else create_model(name)
    return Classifier(model, Path(name).name)


def is_clip(name: str) -> bool:
    """Whether a name is of a ConvNeXt-CLIP; one that classifiers have too, such as `"convnext_base"`, is here."""
    if is_artefact(name) or Path(name).suffix == ".keras":
        return False
    known = checkpoints.named(name, checkpoints.CLIP) or checkpoints.default(name, checkpoints.CLIP)
    return bool(known) or hub.is_clip(name)
