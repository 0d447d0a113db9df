"""Commands for images: `classify`, `explain` and `export`."""

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
    EXPORT_CHOICES,
    EXPORT_FOLDERS,
    EXPORT_PRECISIONS,
    TEMPLATE,
    WEIGHTS_HELP,
    Address,
    AsJson,
    ClusterOption,
    Column,
    Devices,
    ExifTranspose,
    Flip,
    Images,
    JobOutput,
    RetryErrors,
    WeightSetName,
    expand_images,
    format_choices,
    job_options,
    load_saved_model,
    print_summary,
    require_classifier,
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
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of labels per image. Default: 5, or all above the thresholds."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score above which a multi-label classifier predicts a label.")
    ] = None,
    flip: Flip = False,
    as_json: AsJson = False,
    exif_transpose: ExifTranspose = True,
    output: JobOutput = None,
    column: Column = "",
    retry_errors: RetryErrors = False,
    cluster: ClusterOption = "",
    address: Address = "",
    devices: Devices = "",
) -> None:
    """Classify images: the best classes, the tags above the thresholds, or the values of a regression.

    [dim]convnext-keras classify cat.jpg dog.jpg --weights convnext_base --top-k 3[/]

    [dim]convnext-keras classify "shards/*.tar" --output classes/ --cluster ray[/]
    """
    from convnext_keras import distributed
    from convnext_keras.problem_types import REGRESSION

    job = job_options(output, cluster, address, devices)
    job |= {"column": column, "retry_errors": retry_errors, "exif_transpose": exif_transpose}
    if output:
        if flip or threshold is not None:
            raise ValueError("--tta-flip and --threshold cannot be combined with --output.")
        print_summary(output, distributed.classify(weights, restore_urls(images), output, top_k=top_k, **job))
        return
    results, problem_type = _classify(weights, expand_images(images), top_k, threshold, flip, exif_transpose)
    if as_json:
        print(json.dumps(results, indent=2))
        return
    _print_predictions(results, "value" if problem_type == REGRESSION else "score")


def _classify(
    weights: str, images: list[Path], top_k: int | None, threshold: float | None, flip: bool, exif_transpose: bool
) -> tuple[list[dict[str, Any]], str]:
    """Returns the predictions of each image, and the problem type."""
    import keras
    import numpy as np

    from convnext_keras import create_model, export
    from convnext_keras.data.class_names import resolve_class_names
    from convnext_keras.data.loader import iter_batches
    from convnext_keras.export.metadata import output_names
    from convnext_keras.model import get_problem_type
    from convnext_keras.problem_types import SINGLE_LABEL, select_labels, to_scores

    is_exported = export.is_exported_model(weights)
    source = export.ExportedModel(weights) if is_exported else load_saved_model(weights) or resolve_weights(weights)
    require_classifier(source, weights)
    transform, class_names = _get_transform_and_classes(source)
    if not class_names:
        raise ValueError(f"{weights} has no classes. Choose a weight set with a classifier.")
    batches = iter_batches(images, transform._replace(exif_transpose=exif_transpose), batch_size=32)
    first = next(batches)  # before anything is downloaded
    if isinstance(source, export.ExportedModel):
        predict, kind, known = source, source.outputs[0], source.pretrained_info
        problem_type = (known and known.problem_type) or SINGLE_LABEL
    else:
        model = source if isinstance(source, keras.Model) else create_model(source)
        predict, kind, known = model.predict_on_batch, output_names(model)[0], model.pretrained_info
        problem_type = get_problem_type(model)

    def score(pixels: np.ndarray) -> np.ndarray:
        outputs = np.asarray(predict(pixels))
        return to_scores(outputs, problem_type) if kind == "logits" else outputs

    views = (lambda pixels: [pixels, np.ascontiguousarray(pixels[:, :, ::-1])]) if flip else (lambda pixels: [pixels])
    scores = np.concatenate(
        [np.mean([score(view) for view in views(pixels)], axis=0) for _, pixels in itertools.chain([first], batches)]
    )
    thresholds = known.thresholds if known and threshold is None else threshold
    limits = None if thresholds is None else np.broadcast_to(np.array(thresholds), scores.shape[1:])
    categories = known and known.categories
    names: Any = resolve_class_names(class_names) or ()
    if len(names) != scores.shape[1]:
        raise ValueError(f"{weights} has {scores.shape[1]} outputs and {len(names)} class names.")
    results = []
    for image, row in zip(images, scores, strict=True):
        chosen = select_labels(row, problem_type, limits, top_k).tolist()
        found = [{**_class_fields(names[index], categories, index), "score": float(row[index])} for index in chosen]
        results.append({"image": str(image), "predictions": found})
    return results, problem_type


def _class_fields(name: tuple[str, str], categories: tuple[str, ...] | None, index: int) -> dict[str, str]:
    """Returns identifier, name and category of a class."""
    fields = {"id": name[0], "name": name[1]}
    return fields | {"category": categories[index]} if categories else fields


def _print_predictions(results: list[dict[str, Any]], heading: str) -> None:
    """Prints a table with one section per image."""
    with_category = any("category" in row for result in results for row in result["predictions"])
    table = Table("image", "class", "id", *(["category"] if with_category else []), heading)
    for result in results:
        rows = result["predictions"] or [{"name": "no label above its threshold", "id": "", "category": ""}]
        for rank, row in enumerate(rows):
            cells = ["" if rank else result["image"], row["name"], row["id"]]
            cells += [row["category"]] if with_category else []
            score = f"{row['score']:.4f}" if "score" in row else ""
            table.add_row(*map(Text, cells), score, end_section=rank == len(rows) - 1)
    Console().print(table)


def explain(
    images: Images,
    output: Annotated[Path, typer.Option(help="Image file to write, such as cam.png.")] = Path("explained.png"),
    weights: WeightSetName = "convnext_tiny.imagenet",
    class_name: Annotated[str, typer.Option(help="Class to explain. Default: the best class of each image.")] = "",
    text: Annotated[list[str], typer.Option(help="Text prompt to explain (ConvNeXt-CLIP only; repeatable).")] = [],  # noqa: B006
    method: Annotated[str, typer.Option(help=format_choices(EXPLAIN_METHODS))] = "grad_cam",
) -> None:
    """Show which regions of images influence a class or a text, as a heat map.

    [dim]convnext-keras explain photo.jpg --output cam.png[/]

    [dim]convnext-keras explain photo.jpg --weights convnext_base_w --text "a dog" --text "a ball"[/]
    """
    from convnext_keras import clip, create_model
    from convnext_keras.contact_sheet import contact_sheet
    from convnext_keras.explain import explain_images

    paths = expand_images(images)
    if text and class_name:
        raise ValueError("--class-name is for classifiers, --text for a ConvNeXt-CLIP. Give one of them.")
    if text:
        model: Any = clip.create_model(weights)
    else:
        model = load_saved_model(weights) or create_model(resolve_weights(weights))
        require_classifier(model, weights)
    targets: Any = text or [class_name or None]
    columns = [explain_images(model, paths, target, method=method) for target in targets]
    rows = []
    for maps in zip(*columns, strict=True):
        overlays = [(heat_map.overlay(), f"{heat_map.name}: {heat_map.score:.3f}", "black") for heat_map in maps]
        rows.append([(maps[0].pixels, "", "black"), *overlays])
    contact_sheet(rows, cell_size=256).save(output)
    for path, *maps in zip(paths, *columns, strict=True):
        print(f"{path}: {', '.join(f'{heat_map.name} {heat_map.score:.3f}' for heat_map in maps)}")
    print(f"{output} shows each image with its heat map, from blue (low) to yellow (high).")


def _get_transform_and_classes(
    source: WeightSet | ModelInfo | ConvNeXtModel | export.ExportedModel,
) -> tuple[ImageTransform, Any]:
    """Returns the transform and the classes of a model or its weights; unnamed classes get numbers."""
    import keras

    from convnext_keras import export
    from convnext_keras.checkpoints import WeightSet
    from convnext_keras.data.transforms import ImageTransform
    from convnext_keras.export.metadata import CLASSIFIER_OUTPUTS
    from convnext_keras.pretrained_info import PretrainedInfo

    if isinstance(source, export.ExportedModel):
        info: Any = source.pretrained_info
        is_classifier = source.outputs[0] in CLASSIFIER_OUTPUTS
        info = info or PretrainedInfo()
        return info.transform or ImageTransform(224), info.class_names if is_classifier else ()
    if isinstance(source, keras.Model):
        known: Any = source.pretrained_info or PretrainedInfo()
        classes = source.output_shape[-1] if len(source.output_shape) == 2 else 0
        transform, class_names = known.transform or ImageTransform(224), known.class_names
    else:
        classes, transform, class_names = source.classes, source.transform, source.labels
    unnamed = () if isinstance(source, WeightSet) else tuple((str(number),) * 2 for number in range(classes))
    return transform, class_names or unnamed


def export_model(
    weights: Annotated[str, typer.Argument(help=WEIGHTS_HELP)],
    output: Annotated[Path, typer.Option(help="File to write; a directory for a SavedModel or a ConvNeXt-CLIP.")],
    file_format: Annotated[
        str, typer.Option("--format", help=f"{format_choices(EXPORT_CHOICES)}. Default: by the file suffix.")
    ] = "",
    input_size: Annotated[
        int, typer.Option(min=0, help="Height and width in pixels, or number of tokens. 0 for those of the model.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="Fixed batch size. 0 for a dynamic one.")] = 0,
    layout: Annotated[str, typer.Option(help="Axes of the pixels: nhwc or nchw.")] = "nhwc",
    input_dtype: Annotated[str, typer.Option(help="Type of the pixels in 0..255: float32 or uint8.")] = "float32",
    normalized: Annotated[bool, typer.Option("--normalized", help="Take normalized pixels instead of 0..255.")] = False,
    precision: Annotated[str, typer.Option(help=f"{format_choices(EXPORT_PRECISIONS)}.")] = "float32",
    calibration_data: Annotated[
        Path | None, typer.Option(help="Directory of representative images, for int8 calibration.")
    ] = None,
    opset: Annotated[int, typer.Option(min=0, help="ONNX opset version. 0 for the default, 20.")] = 0,
    features: Annotated[bool, typer.Option("--features", help="Export the outputs of the four stages.")] = False,
    tower: Annotated[str, typer.Option(help="Tower of a ConvNeXt-CLIP to export: image or text.")] = "",
    labels: Annotated[
        str, typer.Option(help="Labels of a zero-shot classifier (ConvNeXt-CLIP only), separated by commas.")
    ] = "",
    template: Annotated[list[str], typer.Option(help="Prompt with {} in place of the label.")] = [TEMPLATE],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    verify: Annotated[
        bool, typer.Option(help="Run the exported file and compare its outputs with the model's.")
    ] = True,
) -> None:
    """Export a model to TensorFlow, LiteRT, ONNX, PyTorch, OpenVINO or StableHLO.

    [dim]convnext-keras export convnext_tiny --output tiny.onnx[/]

    [dim]convnext-keras export convnext_base_w --labels "a cat, a dog" --output pets.xml[/]

    [dim]convnext-keras export convnext_tiny --output tiny.xml --precision int8 --calibration-data photos/[/]

    [dim]convnext-keras export convnext_base_w --format immich --output base-w[/]
    """
    import keras

    from convnext_keras import clip, create_model, export, feature_extractor, hub
    from convnext_keras.data.loader import list_images
    from convnext_keras.export import FORMATS

    if file_format in EXPORT_FOLDERS:
        others = (input_size, batch_size, layout != "nhwc", input_dtype != "float32", normalized, opset, features)
        if any((*others, tower, calibration_data)) or (file_format == "immich" and labels):
            known = "--precision, --overwrite and --no-verify, onnx-web --labels and --template too"
            raise ValueError(f"--format {file_format} takes {known}.")
        options = {"precision": precision, "overwrite": overwrite, "verify": verify}
        export_folder(file_format, weights, output, labels, template, options)
        return
    name = export.resolve_format(file_format or None, output)  # before anything is downloaded
    if features and (labels or tower == "text"):
        raise ValueError("--features requires a classifier or an image tower. Remove --labels and --tower text.")
    images = list_images(calibration_data) if calibration_data else None
    options: Any = {"precision": precision, "calibration_data": images, "overwrite": overwrite, "verify": verify}
    if tower or labels:
        model = _load_clip_part(weights, tower, labels, template)
    elif hub.is_clip_repo(weights):
        is_default = layout == "nhwc" and input_dtype == "float32" and not normalized
        if input_size or batch_size or features or opset or not is_default:
            raise ValueError(f"{weights} is a ConvNeXt-CLIP. These options require --tower or --labels.")
        print_export(export.export_clip(clip.create_model(weights), output, name, **options))
        return
    else:
        model = load_saved_model(weights) or create_model(resolve_weights(weights))
    options |= {"batch_size": batch_size or None, "input_size": input_size or None, "opset": opset or None}
    options |= {"layout": layout, "input_dtype": input_dtype, "normalized": normalized}
    if FORMATS[name].backend != keras.backend.backend():
        print(f"A process with the {FORMATS[name].backend} backend writes {name}.")
    print_export(export.export(feature_extractor(model) if features else model, output, name, **options))


def export_folder(
    file_format: str, weights: str, output: Path, labels: str, template: list[str], options: dict[str, Any]
) -> None:
    """Writes a model for Immich, or as a web page."""
    from convnext_keras import clip, create_model, export, hub

    is_clip = hub.is_clip_repo(weights)
    if file_format == "immich":
        if not is_clip:
            raise ValueError(f"Immich takes a ConvNeXt-CLIP (see 'convnext-keras models --clip'). Received: {weights}")
        print_export(export.export_immich(clip.create_model(weights), output, **options))
        return
    if is_clip:
        words = [label.strip() for label in labels.split(",") if label.strip()]
        options |= {"template": template[0], **({"labels": words} if words else {})}
    elif labels:
        raise ValueError(f"--labels are of a ConvNeXt-CLIP; {weights} has classes of its own.")
    model = (
        clip.create_model(weights) if is_clip else load_saved_model(weights) or create_model(resolve_weights(weights))
    )
    print_export(export.export_onnx_web(model, output, **options))


def print_export(result: export.ExportResult) -> None:
    """Prints the format, size, error and latency of an exported model."""
    print(f"{result.path}: {result.format} in {result.precision}, {result.size_bytes / 1e6:.2f} MB")
    if result.max_relative_error is not None and result.latency_seconds is not None:
        milliseconds = 1000 * result.latency_seconds
        print(f"verified: differs by {result.max_relative_error:.1e} of the largest output; {milliseconds:.1f} ms")


def _load_clip_part(weights: str, tower: str, labels: str, templates: list[str]) -> Any:
    """Loads a tower of a ConvNeXt-CLIP, or a zero-shot classifier for the labels."""
    from convnext_keras import clip
    from convnext_keras.clip.zero_shot import validate_labels

    if tower and (labels or tower not in ("image", "text")):
        raise ValueError(f"--tower must be image or text, and cannot be combined with --labels. Received: {tower!r}")
    names = validate_labels([label for label in labels.split(",") if label.strip()]) if labels else ()
    model = clip.create_model(weights)
    if names:
        return clip.ZeroShotClassifier(model, names, templates)
    return model.image_encoder if tower == "image" else model.text_encoder
