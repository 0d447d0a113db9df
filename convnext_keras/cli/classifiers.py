"""The commands of classifiers: `classify` and `export`."""

import itertools
import json
from typing import Annotated, Any

import keras
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from convnext_keras import create_model, decode_predictions, fold_for_inference
from convnext_keras.batches import in_batches
from convnext_keras.checkpoints import WeightSet
from convnext_keras.cli.options import (
    WHICH,
    AsJson,
    Pictures,
    Top,
    WeightSetName,
    chosen_pictures,
    saved_model,
    weights_named,
)
from convnext_keras.hub import Description
from convnext_keras.preprocessing import Recipe
from convnext_keras.provenance import ModelWithProvenance, Provenance


def classify(
    images: Pictures,
    weights: WeightSetName = "convnext_tiny.imagenet",
    top: Top = 5,
    as_json: AsJson = False,
) -> None:
    """Names what is in pictures.

    [dim]convnext-keras classify cat.jpg dog.jpg --weights convnext_base --top 3[/]
    """
    images, source = chosen_pictures(images), saved_model(weights) or weights_named(weights)
    recipe, labels = _transform_and_labels(source)
    if not labels:
        raise ValueError(f"{weights} has no classes. Choose a weight set with a classifier.")
    batches = in_batches(images, recipe, batch_size=32)
    first = next(batches)  # Before anything is fetched.
    model = source if isinstance(source, keras.Model) else create_model(source)
    scores = np.concatenate([model.predict_on_batch(pixels) for _, pixels in itertools.chain([first], batches)])
    decoded = decode_predictions(scores, top=top, labels=labels)
    if as_json:
        keys = ("id", "name", "score")
        rows = [[dict(zip(keys, row, strict=True)) for row in rows] for rows in decoded]
        results = [{"image": str(image), "predictions": row} for image, row in zip(images, rows, strict=True)]
        print(json.dumps(results, indent=2))
        return
    table = Table("image", "class", "id", "score")
    for image, rows in zip(images, decoded, strict=True):
        for rank, (identifier, name, score) in enumerate(rows):
            shown, last = "" if rank else str(image), rank == len(rows) - 1
            table.add_row(shown, name, identifier, f"{score:.4f}", end_section=last)
    Console().print(table)


def _transform_and_labels(source: WeightSet | Description | ModelWithProvenance) -> tuple[Recipe, Any]:
    """The transform and the classes of what is named; classes without names have numbers."""
    if isinstance(source, keras.Model):
        known = source.provenance or Provenance()
        classes = source.output_shape[-1] if len(source.output_shape) == 2 else 0
        recipe, labels = known.recipe or Recipe(224), known.labels
    else:
        classes, recipe, labels = source.classes, source.recipe, source.labels
    unnamed = () if isinstance(source, WeightSet) else tuple(str(number) for number in range(classes))
    return recipe, labels or unnamed


def export(
    weights: Annotated[str, typer.Argument(help=WHICH)],
    output: Annotated[str, typer.Option(help="Folder of a SavedModel, or file of another format.")],
    file_format: Annotated[str, typer.Option("--format", help="What Keras exports.")] = "tf_saved_model",
) -> None:
    """Writes a model for inference in a format of other programs: tf_saved_model, openvino, onnx, litert or torch.

    [dim]convnext-keras export convnext_tiny --output tiny.xml --format openvino[/]
    """
    model = saved_model(weights) or create_model(weights_named(weights))
    fold_for_inference(model).export(output, format=file_format, verbose=False)
    print(output)
