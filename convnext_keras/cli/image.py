"""The commands of classifiers: `classify`, `explain` and `export`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convnext_keras.cli.options import (
    EXPLAIN_METHODS,
    EXPORT_FORMATS,
    EXPORT_PRECISIONS,
    TEMPLATE,
    WEIGHTS_HELP,
    Address,
    AsJson,
    ClusterOption,
    Column,
    Devices,
    ExifTranspose,
    Images,
    JobOutput,
    RetryErrors,
    TopK,
    WeightSetName,
    expand_images,
    format_choices,
    job_options,
    load_saved_model,
    print_summary,
    resolve_weights,
    restore_urls,
)

if TYPE_CHECKING:
    from convnext_keras import export
    from convnext_keras.checkpoints import WeightSet
    from convnext_keras.data.transforms import ImageTransform
    from convnext_keras.hub import ModelInfo
    from convnext_keras.model import ConvNeXtModel


def classify(
    images: Images,
    weights: WeightSetName = "convnext_tiny.imagenet",
    top_k: TopK = 5,
    as_json: AsJson = False,
    exif_transpose: ExifTranspose = True,
    output: JobOutput = None,
    column: Column = "",
    retry_errors: RetryErrors = False,
    cluster: ClusterOption = "",
    address: Address = "",
    devices: Devices = "",
) -> None:
    """Names what is in images.

    [dim]convnext-keras classify cat.jpg dog.jpg --weights convnext_base --top-k 3[/]

    [dim]convnext-keras classify "shards/*.tar" --output classes/ --cluster ray[/]
    """
    import keras
    import numpy as np

    from convnext_keras import create_model, decode_predictions, distributed, export
    from convnext_keras.data.loader import iter_batches
    from convnext_keras.export.metadata import output_names
    from convnext_keras.inference import softmax

    job = job_options(output, cluster, address, devices)
    job |= {"column": column, "retry_errors": retry_errors, "exif_transpose": exif_transpose}
    if output:
        print_summary(output, distributed.classify(weights, restore_urls(images), output, top_k=top_k, **job))
        return
    images = expand_images(images)
    source = (
        export.ExportedModel(weights)
        if export.is_exported_model(weights)
        else load_saved_model(weights) or resolve_weights(weights)
    )
    transform, labels = _get_transform_and_classes(source)
    if not labels:
        raise ValueError(f"{weights} has no classes. Choose a weight set with a classifier.")
    batches = iter_batches(images, transform._replace(exif_transpose=exif_transpose), batch_size=32)
    first = next(batches)  # Before anything is fetched.
    if isinstance(source, export.ExportedModel):
        predict: Any = source
        kind = source.outputs[0]
    else:
        model = source if isinstance(source, keras.Model) else create_model(source)
        predict, kind = model.predict_on_batch, output_names(model)[0]
    scores = np.concatenate([predict(pixels) for _, pixels in itertools.chain([first], batches)])
    scores = softmax(scores) if kind == "logits" else scores
    decoded = decode_predictions(scores, top=top_k, class_names=labels)
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
            table.add_row(Text(shown), Text(name), Text(identifier), f"{score:.4f}", end_section=last)
    Console().print(table)


def explain(
    images: Images,
    output: Annotated[Path, typer.Option(help="Image to write, such as cam.png.")] = Path("explained.png"),
    weights: WeightSetName = "convnext_tiny.imagenet",
    class_name: Annotated[str, typer.Option(help="Class by its name; by default each image's best.")] = "",
    text: Annotated[list[str], typer.Option(help="Of a ConvNeXt-CLIP: what to look for, once or more.")] = [],  # noqa: B006
    method: Annotated[str, typer.Option(help=format_choices(EXPLAIN_METHODS))] = "grad_cam",
) -> None:
    """Shows where in images a model sees a class or a text, as colors over them.

    [dim]convnext-keras explain photo.jpg --output cam.png[/]

    [dim]convnext-keras explain photo.jpg --weights convnext_base_w --text "a dog" --text "a ball"[/]
    """
    from convnext_keras import clip, create_model
    from convnext_keras.contact_sheet import contact_sheet
    from convnext_keras.explain import explain_images

    paths = expand_images(images)
    if text and class_name:
        raise ValueError("Give --class-name, of a classifier, or --text, of a ConvNeXt-CLIP.")
    model: Any = (
        clip.create_model(weights) if text else load_saved_model(weights) or create_model(resolve_weights(weights))
    )
    wanted: Any = text or [class_name or None]
    columns = [explain_images(model, paths, each, method=method) for each in wanted]
    rows = []
    for maps in zip(*columns, strict=True):
        seen = [(one.overlay(), f"{one.name}: {one.score:.3f}", "black") for one in maps]
        rows.append([(maps[0].pixels, "", "black"), *seen])
    contact_sheet(rows, cell=224).save(output)
    for path, *maps in zip(paths, *columns, strict=True):
        print(f"{path}: {', '.join(f'{one.name} {one.score:.3f}' for one in maps)}")
    print(f"Look at {output}: each image, and where it is seen, from blue to yellow.")


def _get_transform_and_classes(
    source: WeightSet | ModelInfo | ConvNeXtModel | export.ExportedModel,
) -> tuple[ImageTransform, Any]:
    """The transform and the classes of what is named; classes without names have numbers."""
    import keras

    from convnext_keras import export
    from convnext_keras.checkpoints import WeightSet
    from convnext_keras.data.transforms import ImageTransform
    from convnext_keras.pretrained_info import PretrainedInfo

    if isinstance(source, export.ExportedModel):
        artifact: Any = source
        has_classes = artifact.outputs[0] in ("probabilities", "logits")
        return artifact.pretrained_info.transform or ImageTransform(
            224
        ), artifact.pretrained_info.class_names if has_classes else ()
    if isinstance(source, keras.Model):
        known: Any = source.pretrained_info or PretrainedInfo()
        classes = source.output_shape[-1] if len(source.output_shape) == 2 else 0
        transform, labels = known.transform or ImageTransform(224), known.class_names
    else:
        classes, transform, labels = source.classes, source.transform, source.labels
    unnamed = () if isinstance(source, WeightSet) else tuple(str(number) for number in range(classes))
    return transform, labels or unnamed


def export_model(
    weights: Annotated[str, typer.Argument(help=WEIGHTS_HELP)],
    output: Annotated[Path, typer.Option(help="File to write; or folder, of a SavedModel or a ConvNeXt-CLIP.")],
    file_format: Annotated[
        str, typer.Option("--format", help=f"{format_choices(EXPORT_FORMATS)}; or by the file's end.")
    ] = "",
    size: Annotated[int, typer.Option(min=0, help="Height and width in pixels, or tokens; 0 for the model's.")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="Images or texts at a time; 0 for any number.")] = 0,
    layout: Annotated[str, typer.Option(help="nhwc, or nchw with the channels of pixels in front.")] = "nhwc",
    pixels: Annotated[str, typer.Option(help="float32 or uint8, both 0 to 255; or normalized.")] = "float32",
    precision: Annotated[str, typer.Option(help=f"{format_choices(EXPORT_PRECISIONS)}, with --calibrate.")] = "float32",
    calibrate: Annotated[Path | None, typer.Option(help="For int8, a folder of usual images.")] = None,
    opset: Annotated[int, typer.Option(min=0, help="Of ONNX; 0 for the usual one.")] = 0,
    features: Annotated[
        bool, typer.Option("--features", help="The outputs of the four stages, not the classes.")
    ] = False,
    tower: Annotated[str, typer.Option(help="Of a ConvNeXt-CLIP: image or text.")] = "",
    labels: Annotated[str, typer.Option(help="Of a ConvNeXt-CLIP: classes to tell apart, separated by commas.")] = "",
    template: Annotated[list[str], typer.Option(help="Prompt with {} for the label.")] = [TEMPLATE],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    check: Annotated[bool, typer.Option(help="Run the file and compare it with the model.")] = True,
) -> None:
    """Writes a model for other programs: TensorFlow, LiteRT, ONNX Runtime, PyTorch, OpenVINO, or XLA.

    [dim]convnext-keras export convnext_tiny --output tiny.onnx[/]

    [dim]convnext-keras export convnext_base_w --labels "a cat, a dog" --output pets.xml[/]

    [dim]convnext-keras export convnext_tiny --output tiny.xml --precision int8 --calibrate photos/[/]
    """
    import keras

    from convnext_keras import clip, create_model, export, feature_extractor, hub
    from convnext_keras.data.loader import list_images
    from convnext_keras.export import FORMATS

    name = export.resolve_format(file_format or None, output)  # Before anything is fetched.
    if features and (labels or tower == "text"):
        raise ValueError("--features are of a classifier or an image tower. Leave out --labels and --tower text.")
    if tower or labels:
        model = _load_clip_part(weights, tower, labels, template)
    elif hub.is_clip_repo(weights):
        if size or batch or features or layout != "nhwc" or pixels != "float32" or opset:
            raise ValueError(f"{weights} is a ConvNeXt-CLIP. For these options, choose --tower or --labels.")
        both: Any = {"precision": precision, "calibration": calibrate and list_images(calibrate)}
        print_export(
            export.export_clip(clip.create_model(weights), output, name, overwrite=overwrite, check=check, **both)
        )
        return
    else:
        model = load_saved_model(weights) or create_model(resolve_weights(weights))
    options: Any = {"batch": batch or None, "size": size or None, "layout": layout, "pixels": pixels}
    options |= {"precision": precision, "opset": opset or None, "calibration": calibrate and list_images(calibrate)}
    ready = feature_extractor(model) if features else model
    if FORMATS[name].backend != keras.backend.backend():
        print(f"{name} is written by a process of {FORMATS[name].backend}.")
    print_export(export.export(ready, output, name, overwrite=overwrite, check=check, **options))


def print_export(written: export.ExportResult) -> None:
    """Prints what was written."""
    print(f"{written.path}: {written.format} in {written.precision}, {written.size_bytes / 1e6:.2f} MB")
    if written.max_relative_error is not None and written.latency_seconds is not None:
        print(
            f"checked: differs by {written.max_relative_error:.1e} of the largest output; {1000 * written.latency_seconds:.1f} ms"
        )


def _load_clip_part(weights: str, tower: str, labels: str, templates: list[str]) -> Any:
    """A tower of a ConvNeXt-CLIP, or a zero-shot classifier."""
    from convnext_keras import clip
    from convnext_keras.clip.zero_shot import validate_labels

    if tower and (labels or tower not in ("image", "text")):
        raise ValueError(f"--tower must be image or text, and without --labels. Received: --tower {tower}")
    names = validate_labels([label for label in labels.split(",") if label.strip()]) if labels else ()
    model = clip.create_model(weights)
    if names:
        return clip.ZeroShotClassifier(model, names, templates)
    return model.image_encoder if tower == "image" else model.text_encoder
