"""Command `evaluate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convnext_keras.cli import segmentation
from convnext_keras.cli.data_options import (
    ClassNames,
    Colors,
    Data,
    ImageColumn,
    LabelColumn,
    LabelDepth,
    Masks,
    Model,
    ProblemType,
    ReduceLabels,
    Separator,
    Skipped,
    Templates,
)
from convnext_keras.cli.options import TEMPLATE, AsJson, Flip, Size, load_clip

if TYPE_CHECKING:
    from convnext_keras.training import ImageDataset
    from convnext_keras.training.evaluation import AnyEvaluation


def evaluate(
    model: Model,
    data: Data,
    problem_type: ProblemType = "",
    image_column: ImageColumn = "",
    label_column: LabelColumn = None,
    separator: Separator = "",
    label_depth: LabelDepth = 1,
    size: Size = 0,
    flip: Flip = False,
    masks: Masks = None,
    classes: ClassNames = "",
    colors: Colors = "",
    reduce_labels: ReduceLabels = None,
    confusion_matrix: Annotated[
        Path | None, typer.Option(help="Image file to write with the confusion matrix.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help=".csv file to write with one row per image.")] = None,
    template: Templates = [TEMPLATE],  # noqa: B006
    skip: Skipped = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a classifier, a regression, an exported model, a segmentation model or a ConvNeXt-CLIP on images.

    [dim]convnext-keras evaluate convnext_tiny.imagenet imagenet/val[/]

    [dim]convnext-keras evaluate tagger more.csv --separator "|" --predictions predictions.csv[/]
    """
    from convnext_keras import training
    from convnext_keras.clip import DualEncoder
    from convnext_keras.problem_types import SINGLE_LABEL
    from convnext_keras.training.image_text import is_image_text_data

    if masks or segmentation.is_mask_table(data):
        table, names = segmentation.parse_colors(colors), segmentation.parse_classes(classes)
        pairs = (data, masks) if masks else data
        segmentation.evaluate_on_masks(model, pairs, names, table, reduce_labels, as_json)
        return
    chosen, known_type = _load_model(model, size)
    if isinstance(chosen, DualEncoder) and is_image_text_data(data):
        metrics = training.retrieval_metrics(chosen, training.load_image_text_pairs(data))
        print(json.dumps(metrics, indent=2) if as_json else _format_retrieval(metrics))
        return
    columns: dict[str, Any] = {"image_column": image_column, "separator": separator, "label_column": label_column}
    columns["problem_type"] = problem_type or (known_type if known_type != SINGLE_LABEL else None)
    columns["label_depth"] = label_depth if label_depth != 1 else None
    data_options = {name: value for name, value in columns.items() if value}
    on_error = "skip" if skip else "raise"
    part = training.validation_part(data, on_error=on_error, **data_options)
    if (isinstance(part, Path) and part != data) or getattr(part, "splits", None):
        typer.echo(f"Evaluated on the validation part of {data}.", err=True)
    if not isinstance(part, training.ImageDataset):
        part = training.load_dataset(part, None, on_error, name="data", **data_options)
    result = training.evaluate(chosen, part, size=size or None, flip=flip, templates=template)
    _write_results(result, part, confusion_matrix, predictions)
    if as_json:
        print(json.dumps(result.summary(), indent=2))
        return
    _print_evaluation(result)


def _load_model(name: str, size: int) -> tuple[Any, str | None]:
    """Returns a model of any kind, and the problem type of a classifier; None for a ConvNeXt-CLIP."""
    from convnext_keras import create_model, export, hub
    from convnext_keras.model import get_problem_type

    if export.is_exported_model(name):
        exported = export.ExportedModel(name)
        return exported, exported.pretrained_info.problem_type
    if export.is_exported_clip(name) or hub.is_clip_repo(name):
        return load_clip(name), None
    model = create_model(name, **({"input_shape": (size, size, 3)} if size else {}))
    return model, get_problem_type(model)


def _format_retrieval(metrics: dict[str, float]) -> str:
    return "\n".join(f"{name}: {value:.4g}" for name, value in metrics.items())


def _write_results(result: AnyEvaluation, data: ImageDataset, matrix: Path | None, predictions: Path | None) -> None:
    """Writes the confusion matrix and the predictions of an evaluation."""
    from convnext_keras import training
    from convnext_keras.training import charts
    from convnext_keras.training.predictions import prediction_rows, predictions_to_csv

    if matrix and not isinstance(result, training.Evaluation):
        raise ValueError("--confusion-matrix is for classifiers with one label per image.")
    if matrix and isinstance(result, training.Evaluation):
        charts.plot_confusion_matrix(result).savefig(matrix, dpi=110)
    if predictions:
        # Labels in the order of the model's classes, which may be more than those of the data.
        examples = dataclasses.replace(data, labels=result.labels, class_names=result.class_names)
        text = predictions_to_csv(prediction_rows(examples, result.scores, result, "evaluation"))
        predictions.write_text(text, encoding="utf-8", errors="surrogateescape")


def _print_evaluation(result: AnyEvaluation) -> None:
    """Prints the metrics of an evaluation, with a table of the classes or values."""
    from convnext_keras import training

    console = Console()
    for name, value in training.format_metrics(result).items():
        console.print(f"{name}: {value}")
    if isinstance(result, training.RegressionEvaluation):
        table = Table("value", "R2", "mean absolute error", "correlation")
        for name, row in result.summary()["values"].items():
            table.add_row(Text(name), *(f"{value:.4g}" for value in row.values()))
        console.print(table)
        return
    if isinstance(result, training.Evaluation):
        summary = result.summary()
        for name in ("top5_accuracy", "mean_class_accuracy", "expected_calibration_error"):
            console.print(f"{name}: {100 * summary[name]:.2f} %")
        seen = {name for name, part in result.class_accuracy.items() if part is not None}
        metrics = result.precision_recall_f1
    else:
        seen = {name for name, part in result.average_precisions.items() if part is not None}
        metrics = result.class_metrics
    table = Table("class", "precision", "recall", "F1")
    for name, row in sorted(metrics.items(), key=lambda item: item[1]["recall"]):
        if name in seen:
            table.add_row(Text(name), *(f"{100 * value:.1f} %" for value in row.values()))
    console.print(table)
