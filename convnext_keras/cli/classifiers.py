"""The commands of classifiers: `classify` and `export`."""

import itertools
import json
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from convnext_keras import create_model, decode_predictions, fold_for_inference
from convnext_keras.batches import in_batches
from convnext_keras.checkpoints import WeightSet
from convnext_keras.cli.options import WHICH, AsJson, Pictures, Top, WeightSetName, chosen_pictures, weights_named


def classify(
    images: Pictures,
    weights: WeightSetName = "convnext_tiny.imagenet",
    top: Top = 5,
    as_json: AsJson = False,
) -> None:
    """Names what is in pictures.

    [dim]convnext-keras classify cat.jpg dog.jpg --weights convnext_base --top 3[/]
    """
    weight_set, images = weights_named(weights), chosen_pictures(images)
    unnamed = () if isinstance(weight_set, WeightSet) else tuple(str(number) for number in range(weight_set.classes))
    labels = weight_set.labels or unnamed
    if not labels:
        raise ValueError(f"{weight_set.name} has no classes. Choose a weight set with a classifier.")
    batches = in_batches(images, weight_set.recipe, batch_size=32)
    first = next(batches)  # Before anything is fetched.
    model = create_model(weight_set)
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


def export(
    weights: Annotated[str, typer.Argument(help=WHICH)],
    output: Annotated[str, typer.Option(help="Folder of a SavedModel, or file of another format.")],
    file_format: Annotated[str, typer.Option("--format", help="What Keras exports.")] = "tf_saved_model",
) -> None:
    """Writes a model for inference in a format of other programs: tf_saved_model, openvino, onnx, litert or torch.

    [dim]convnext-keras export convnext_tiny --output tiny.xml --format openvino[/]
    """
    fold_for_inference(create_model(weights_named(weights))).export(output, format=file_format, verbose=False)
    print(output)
