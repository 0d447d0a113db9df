"""Charts and model card of the training of a segmentation model."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.contact_sheet import contact_sheet
from convnext_keras.data.images import open_image
from convnext_keras.files import atomic_path
from convnext_keras.hub import save_pretrained
from convnext_keras.model import get_pretrained_info
from convnext_keras.segmentation import SegmentationMap, Segmenter, overlay
from convnext_keras.training.charts import plot_curves
from convnext_keras.training.checkpointing import HISTORY_FILE, history_to_csv
from convnext_keras.training.masks import IGNORE_INDEX, SegmentationDataset
from convnext_keras.training.reports import changed_fields
from convnext_keras.training.segmentation import SegmentationResult
from convnext_keras.training.segmentation_metrics import SegmentationEvaluation

MAX_EXAMPLES, EXAMPLE_SIZE = 12, 200  # images on the sheet, and pixels of one


def plot_examples(model: Any, dataset: SegmentationDataset, evaluation: SegmentationEvaluation) -> Any:
    """Draws a sheet of images beside their masks and the model's maps, the worst first."""
    segmenter, rows = Segmenter(model), []
    for index in np.argsort(evaluation.image_ious, kind="stable")[:MAX_EXAMPLES].tolist():
        image = open_image(dataset.images[index], "RGB", exif_transpose=True)
        mask, found = dataset.mask(index), segmenter(dataset.images[index], with_scores=False)
        truth = np.where(mask == IGNORE_INDEX, 0, mask).astype(found.labels.dtype)
        truth_map = SegmentationMap(truth, None, found.class_names)
        text = f"IoU {100 * evaluation.image_ious[index]:.1f} %"
        overlays = [overlay(image, row, alpha=0.6, legend=False) for row in (truth_map, found)]
        name = Path(dataset.image_name(index)).name[:24]
        rows.append([(image, name, "black"), (overlays[0], "mask", "black"), (overlays[1], text, "black")])
    side_by_side = [[*itertools.chain(*rows[start : start + 2])] for start in range(0, len(rows), 2)]
    return contact_sheet(side_by_side, EXAMPLE_SIZE)


def save_segmentation_result(trained: SegmentationResult, folder: str | os.PathLike, name: str = "") -> None:
    """Writes a trained segmentation model with its charts, metrics and model card, atomically.

    The folder is a repository in this library's own form, so `create_model(folder)` and every command take it. With
    the weights come `model.keras`, `history.csv`, `results.json`, `curves.png`, `examples.png` (image, mask and map,
    the worst first) and the card, `README.md`.

    Args:
        trained: The result of `fine_tune_segmentation`.
        folder: Folder to write; it must not exist.
        name: Name of the model in its card; by default that of the folder.

    Raises:
        ValueError: If the folder exists.
        ImportError: If matplotlib is missing.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists. Choose another folder.")
    results = trained.evaluation.summary()
    with atomic_path(folder) as partial:
        whole = partial.parent / (name or folder.name)
        figures: Any = {
            "validation mean IoU": f"{100 * results['mean_iou']:.2f} %",
            "validation pixel accuracy": f"{100 * results['pixel_accuracy']:.2f} %",
        }
        names = trained.evaluation.class_names
        use = f"Semantic segmentation of images into {len(names)} classes: {', '.join(names[:20])}."
        save_pretrained(trained.model, whole, "keras", metrics=figures, intended_use=use)
        trained.model.save(whole / "model.keras")
        charts = ["examples"]
        plot_examples(trained.model, trained.validation, trained.evaluation).save(whole / "examples.png", optimize=True)
        if trained.history:
            charts.insert(0, "curves")
            plot_curves(trained.history).savefig(whole / "curves.png", dpi=110)
            (whole / HISTORY_FILE).write_text(history_to_csv(trained.history), encoding="utf-8")
        settings = {"config": dataclasses.asdict(trained.config), "validation": results}
        (whole / "results.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        with (whole / "README.md").open("a", encoding="utf-8") as stream:
            stream.write(_render_card(trained, charts))
        if whole != partial:
            whole.rename(partial)


def _render_card(trained: SegmentationResult, charts: list[str]) -> str:
    """Returns the part of a card that says how a model was trained, and how well it does on each class."""
    result, origin = trained.evaluation, get_pretrained_info(trained.model)
    facts = {
        "Started from": f"{(origin and origin.weights_name) or 'random weights'}",
        "Images": f"{len(trained.training)} to train on, {len(trained.validation)} to validate with",
        "Epochs": f"{len(trained.history)}{'' if trained.is_complete else ', interrupted'}",
        "Config": ", ".join(f"{key}={value}" for key, value in changed_fields(trained.config).items()),
        "Mean IoU": f"{100 * result.mean_iou:.2f} %",
        "Pixel accuracy": f"{100 * result.pixel_accuracy:.2f} %",
    }
    lines = ["", "## Training", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]
    chosen = ", by which the epoch was chosen too" if trained.config.save_best or trained.config.patience else ""
    lines += ["", f"The results are those on the validation images{chosen}.", ""]
    lines += ["| class | part of the pixels trained on | IoU |", "|---|---:|---:|"]
    total = max(1, sum(trained.training.pixel_counts))
    for name, count in zip(result.class_names, trained.training.pixel_counts, strict=True):
        part = result.class_iou[name]
        iou = "" if part is None else f"{100 * part:.1f} %"
        lines.append(f"| {name.replace('|', '/')} | {100 * count / total:.1f} % | {iou} |")
    return "\n".join([*lines, "", *(f"![{chart}]({chart}.png)" for chart in charts), ""])
