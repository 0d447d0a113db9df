"""Command `segment`, and what `train` and `evaluate` do with masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from convnext_keras.cli.options import WEIGHTS_HELP, AsJson, Images, Size, expand_images

if TYPE_CHECKING:
    from convnext_keras.training import SegmentationDataset, SegmentationEvaluation, TrainingConfig

BUNDLED = "fpn_convnext_mini.shapes"


def segment(
    images: Images,
    weights: Annotated[str, typer.Option(help=WEIGHTS_HELP)] = "upernet_convnext_tiny",
    output: Annotated[
        Path | None,
        typer.Option(
            help="PNG file for the label map, whose pixels are class numbers; a directory for several images."
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="PNG file for the image with its classes in color; a directory for several images."),
    ] = None,
    window: Annotated[
        int, typer.Option(min=0, help="Edge in pixels of windows that slide over the image; 0 to see it as a whole.")
    ] = 0,
    stride: Annotated[int, typer.Option(min=0, help="Distance of the windows; 0 for two thirds of a window.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Segment images: the class of each pixel, and the area of each class.

    [dim]convnext-keras segment photo.jpg --weights upernet_convnext_tiny --output map.png --overlay overlay.png[/]

    [dim]convnext-keras segment photos/ --weights my-model --output maps/ --window 640[/]
    """
    from convnext_keras import create_model, export, segmentation

    paths = expand_images(images)
    targets = [_targets(folder, paths, name) for folder, name in ((output, "output"), (overlay, "overlay"))]
    model: Any = export.ExportedModel(weights) if export.is_exported_model(weights) else create_model(weights)
    segmenter, results = segmentation.Segmenter(model), []
    table = Table("image", "class", "area")
    for path, map_path, overlay_path in zip(tqdm(paths, disable=None), *targets, strict=True):
        found = segmenter(path, window or None, stride or None, with_scores=False)
        if map_path:
            segmentation.label_image(found.labels).save(map_path)
        if overlay_path:
            segmentation.overlay(path, found).save(overlay_path)
        results.append({"image": str(path), "areas": found.areas})
        for rank, (name, part) in enumerate(found.areas.items()):
            last = rank == len(found.areas) - 1
            table.add_row(Text("" if rank else str(path)), Text(name), f"{100 * part:.1f} %", end_section=last)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(table)


def _targets(target: Path | None, paths: list[Path], option: str) -> Iterable[Path | None]:
    """Returns the file to write for each image."""
    if target is None:
        return [None] * len(paths)
    if target.suffix.lower() == ".png" and len(paths) == 1:
        target.parent.mkdir(parents=True, exist_ok=True)
        return [target]
    if target.suffix:
        raise ValueError(f"--{option} must be a .png file for one image, or a directory. Received: {target}")
    files = [target / f"{path.stem}.png" for path in paths]
    if len({*files}) < len(files):
        raise ValueError(f"Some images have the same name, so their files in {target} would replace each other.")
    target.mkdir(parents=True, exist_ok=True)
    return files


def is_mask_table(data: Path) -> bool:
    """Returns whether data are a table with a column for masks, or a folder with the folders images and masks."""
    from convnext_keras.training.masks import has_masks

    return has_masks(data)


def parse_classes(words: str) -> list[str] | None:
    """Returns class names separated by commas, or the lines of a .txt file; None for an empty text."""
    if not words:
        return None
    if Path(words).suffix == ".txt":
        return [line.strip() for line in Path(words).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [word.strip() for word in words.split(",")]


def parse_colors(words: str) -> list[tuple[int, int, int]] | None:
    """Returns colors such as `#ff0000,#00ff00`; None for an empty text.

    Raises:
        ValueError: If one is not a color.
    """
    from PIL import ImageColor

    return [ImageColor.getrgb(word.strip())[:3] for word in words.split(",")] if words else None


def train_on_masks(
    data: Any,
    output: Path,
    weights: str,
    config: TrainingConfig,
    validation: Any,
    seed: int,
    size: Size,
    **options: Any,
) -> None:
    """Trains a segmentation model and writes it as a repository of this library."""
    from convnext_keras import training
    from convnext_keras.training import charts

    charts.new_figure(1, 1)  # Before hours of training.
    state = output.with_name(f"{output.name}.partial")
    options |= {"validation": validation, "size": size or None, "seed": seed, "state": state, "verbose": 2}
    trained = training.fine_tune_segmentation(weights, data, config, **options)
    if not trained.is_complete:
        raise ValueError(f"Interrupted after epoch {len(trained.history)}. The same command goes on from {state}.")
    training.save_segmentation_result(trained, output)
    shutil.rmtree(state)
    result = trained.evaluation
    print(f"Mean IoU {100 * result.mean_iou:.1f} % on {len(trained.validation)} validation images: {output}")


def evaluate_on_masks(
    model: str, data: Any, classes: list[str] | None, colors: Any, reduce_labels: bool | None, as_json: bool
) -> None:
    """Prints mean IoU, pixel accuracy, and the IoU of each class."""
    from convnext_keras import create_model, export, segmentation, training

    source: Any = export.ExportedModel(model) if export.is_exported_model(model) else create_model(model)
    segmenter, info = segmentation.Segmenter(source), source.pretrained_info
    reduces = bool(info and info.reduce_labels) if reduce_labels is None else reduce_labels
    options: dict[str, Any] = {"colors": colors, "reduce_labels": reduces, "name": "validation"}
    names = classes or segmenter.class_names
    dataset: SegmentationDataset = training.load_segmentation_dataset(data, names, **options)
    result: SegmentationEvaluation = training.evaluate_segmentation(segmenter, dataset)
    if as_json:
        print(json.dumps(result.summary(), indent=2))
        return
    console, table = Console(), Table("class", "IoU")
    console.print(f"mean_iou: {100 * result.mean_iou:.2f} %")
    console.print(f"pixel_accuracy: {100 * result.pixel_accuracy:.2f} %")
    seen = {name: part for name, part in result.class_iou.items() if part is not None}
    for name, part in sorted(seen.items(), key=lambda row: row[1]):
        table.add_row(Text(name), f"{100 * part:.1f} %")
    console.print(table)
