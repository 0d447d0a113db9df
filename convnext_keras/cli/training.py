"""Commands of training: `train` and `evaluate`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convnext_keras.cli import segmentation
from convnext_keras.cli.options import PRESET_FIELDS, PRESETS, TEMPLATE, AsJson, Size, load_clip

if TYPE_CHECKING:
    from convnext_keras.training import TrainingConfig

DATA_HELP = "Directory with one subdirectory per class, or a .csv or .tsv table with path and class."
Data = Annotated[Path, typer.Argument(help=DATA_HELP)]
Model = Annotated[
    str, typer.Argument(help="Weight set, directory, hf://owner/name or .keras file.", show_default=False)
]
Skipped = Annotated[bool, typer.Option("--skip", help="Skip unreadable images.")]
Templates = Annotated[list[str], typer.Option(help="Prompt with {} for the class (ConvNeXt-CLIP only).")]
Masks = Annotated[
    Path | None, typer.Option(help="Directory of masks, named like the images: trains or measures segmentation.")
]
ClassNames = Annotated[str, typer.Option(help="Class names of masks, separated by commas, or a .txt file of lines.")]
Colors = Annotated[str, typer.Option(help="Colors of the classes in RGB masks, such as '#000000,#ff0000'.")]
ReduceLabels = Annotated[
    bool | None, typer.Option("--reduce-labels/--no-reduce-labels", help="Ignore class 0 of masks, count from 1.")
]


def override_config(config: TrainingConfig, changes: list[str]) -> TrainingConfig:
    """Returns a config with fields set by `name=value`, where the value is as JSON has it.

    Raises:
        ValueError: If there is no such field, or its value is not valid.
    """
    from convnext_keras.training import TrainingConfig

    values: dict[str, Any] = {}
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in names:
            raise ValueError(f"--set takes name=value with a field of the config: {', '.join(sorted(names))}.")
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value
        values[name] = tuple(read) if isinstance(read, list) else read
    if "epochs" in values:  # The user's number counts, not the least that the preset trains for.
        values.setdefault("min_steps", 0)
    return dataclasses.replace(config, **values)


def train(
    data: Annotated[
        Path, typer.Argument(help=f"{DATA_HELP} For image-text pairs: a table with path and caption, or a .tar shard.")
    ],
    output: Annotated[Path, typer.Option(help="Directory to write; it must not exist.")],
    weights: Annotated[
        str, typer.Option(help="Initial weights: weight set, directory, hf://owner/name or .keras file.")
    ],
    preset: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}; default: by the number of images.")] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"Changes a field of the preset, as in epochs=5: {', '.join(PRESET_FIELDS)}."),
    ] = None,
    validation: Annotated[
        str, typer.Option(help="Validation fraction of each class, or a validation directory.")
    ] = "0.2",
    size: Size = 0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    skip: Skipped = False,
    replay_data: Annotated[
        list[Path] | None, typer.Option(help="Image-text pairs from the original domain, replayed to limit forgetting.")
    ] = None,
    freeze_tower: Annotated[str, typer.Option(help="Tower to freeze (ConvNeXt-CLIP only): image or text.")] = "",
    interpolate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Weight of the fine-tuned ConvNeXt-CLIP in the average with the original; 1 for no average.",
        ),
    ] = 1.0,
    masks: Masks = None,
    classes: ClassNames = "",
    colors: Colors = "",
    reduce_labels: ReduceLabels = None,
    decoder: Annotated[str, typer.Option(help="Decoder for a backbone: upernet, fpn or unet.")] = "upernet",
) -> None:
    """Fine-tune a classifier on images, a segmentation model on masks, or a ConvNeXt-CLIP on image-text pairs.

    The same command continues an interrupted training.

    [dim]convnext-keras train flowers/ --weights convnext_tiny.in12k_ft_in1k --output flowers-model[/]

    [dim]convnext-keras train images/ --masks masks/ --weights convnext_tiny.in12k_ft_in1k --output segmenter[/]

    [dim]convnext-keras train captions.csv --weights convnext_base_w --output captions-model[/]
    """
    from convnext_keras import training
    from convnext_keras.training import reports
    from convnext_keras.training.image_text import is_image_text_data

    if output.exists():
        raise ValueError(f"{output} exists. Choose another folder.")
    part: Any = float(validation) if validation.replace(".", "", 1).isdigit() else Path(validation)
    if masks or segmentation.is_mask_table(data):
        if replay_data or freeze_tower or interpolate != 1 or skip:
            raise ValueError("--replay-data, --freeze-tower, --interpolate and --skip are not for masks.")
        chosen = override_config(training.get_training_config(preset or "segmentation", 0), changes or [])
        options = {"class_names": segmentation.parse_classes(classes), "colors": segmentation.parse_colors(colors)}
        options |= {"reduce_labels": bool(reduce_labels), "decoder": decoder}
        pairs = (data, masks) if masks else data
        segmentation.train_on_masks(pairs, output, weights, chosen, part, seed, size, **options)
        return
    if is_image_text_data(data):
        if preset or size or skip:
            raise ValueError("--preset, --size and --skip are for images with classes. Change fields with --set.")
        chosen = override_config(training.CLIP_CONFIG, changes or [])
        train_on_pairs(data, output, weights, chosen, part, seed, replay_data or [], freeze_tower or None, interpolate)
        return
    if replay_data or freeze_tower or interpolate != 1:
        raise ValueError(
            "--replay-data, --freeze-tower and --interpolate are for pairs: a .csv with path and caption, or a .tar. "
            f"Received: {data}"
        )
    on_error = "skip" if skip else "raise"
    reports.new_figure(1, 1)  # Before hours of training.
    kept, held_out = training.train_val_split(data, part, None, seed, on_error)
    chosen = override_config(training.get_training_config(preset or None, len(kept)), changes or [])
    console = Console()
    balance = Table("class", "train", "validate")
    for name, count in kept.class_counts.items():
        balance.add_row(Text(name), str(count), str(held_out.class_counts[name]))
    console.print(balance)
    state = output.with_name(f"{output.name}.partial")
    options: dict[str, Any] = {"size": size or None, "seed": seed, "state": state, "verbose": 2}
    trained = training.fine_tune(weights, kept, chosen, validation=held_out, **options)
    if not trained.is_complete:
        raise ValueError(f"Interrupted after epoch {len(trained.history)}. The same command goes on from {state}.")
    training.save_training_result(trained, output)
    shutil.rmtree(state)
    result = trained.evaluation
    for note in trained.notes:
        print(f"Note: {note}")
    print(f"{100 * result.accuracy():.1f} % of {len(held_out)} validation images are right: {output}")


def train_on_pairs(
    data: Path,
    output: Path,
    weights: str,
    config: TrainingConfig,
    validation: float | Path,
    seed: int,
    replay_data: list[Path],
    freeze_tower: str | None,
    interpolate: float,
) -> None:
    """Fine-tunes a ConvNeXt-CLIP and writes it as a repository of this library."""
    import numpy as np

    from convnext_keras import clip, training
    from convnext_keras.files import atomic_path
    from convnext_keras.hub import save_pretrained
    from convnext_keras.training import checkpointing, reports

    pairs = training.load_image_text_pairs(data)
    if isinstance(validation, Path):
        kept, held_out = pairs, training.load_image_text_pairs(validation)
    else:
        order = np.random.default_rng(seed).permutation(len(pairs))
        kept, held_out = map(pairs.select, np.split(order, [max(0, round(len(pairs) * (1 - validation)))]))
    if not len(kept) or not len(held_out):
        raise ValueError(
            f"--validation {validation} leaves {len(kept)} pairs to train on, and {len(held_out)} to validate."
        )
    reports.new_figure(1, 1)  # Before hours of training.
    recall = training.RetrievalRecall(held_out)
    measured = {
        "validation": recall,
        **{str(path): training.RetrievalRecall(training.load_image_text_pairs(path)) for path in replay_data},
    }
    model = clip.create_model(weights)
    before = {name: each.evaluate(model) for name, each in measured.items()}
    state = output.with_name(f"{output.name}.partial")
    options: Any = {"freeze_tower": freeze_tower, "seed": seed, "state": state, "callbacks": [recall], "verbose": 2}
    tuned = training.fine_tune_clip(model, kept, config, replay_data=replay_data, **options)
    tuned = clip.interpolate_weights(model, tuned, interpolate) if interpolate < 1 else tuned
    after = {name: each.evaluate(tuned) for name, each in measured.items()}
    metrics: Any = {f"{name} recall at 1": f"{100 * value:.1f} %" for name, value in after.items()}
    with atomic_path(output) as partial:
        whole = partial.with_name(output.name)
        save_pretrained(tuned, whole, "keras", metrics=metrics)
        history = checkpointing.read_history(state)
        (whole / checkpointing.HISTORY_FILE).write_text(checkpointing.history_to_csv(history), encoding="utf-8")
        reports.plot_curves(history).savefig(whole / "curves.png", dpi=110)
        whole.rename(partial)
    shutil.rmtree(state)
    for name, value in after.items():
        figures = f"{100 * before[name]:.1f} % before, {100 * value:.1f} % after"
        print(f"recall at 1 among {len(measured[name].pairs)} pairs ({name}): {figures}")
    print(output)


def evaluate(
    model: Model,
    data: Data,
    size: Size = 0,
    flip: Annotated[
        bool,
        typer.Option("--tta-flip", help="Test-time augmentation: average the scores with those of mirrored images."),
    ] = False,
    masks: Masks = None,
    classes: ClassNames = "",
    colors: Colors = "",
    reduce_labels: ReduceLabels = None,
    confusion_matrix: Annotated[
        Path | None, typer.Option(help="Image file to write with the confusion matrix.")
    ] = None,
    template: Templates = [TEMPLATE],  # noqa: B006
    skip: Skipped = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a classifier or a ConvNeXt-CLIP on images: top-1, top-5, accuracy per class, calibration.

    [dim]convnext-keras evaluate convnext_tiny.imagenet imagenet/val[/]

    [dim]convnext-keras evaluate flowers-model more-flowers/[/]
    """
    from convnext_keras import export, hub, training
    from convnext_keras.training import reports

    if masks or segmentation.is_mask_table(data):
        table, names = segmentation.parse_colors(colors), segmentation.parse_classes(classes)
        pairs = (data, masks) if masks else data
        segmentation.evaluate_on_masks(model, pairs, names, table, reduce_labels, as_json)
        return
    on_error = "skip" if skip else "raise"
    chosen: Any = model
    if export.is_exported_model(model):
        chosen = export.ExportedModel(model)
    elif export.is_exported_clip(model) or hub.is_clip_repo(model):
        chosen = load_clip(model)
    held_out = training.validation_part(data)
    if held_out is not data:
        typer.echo(f"Measured on the validation part of {data}.", err=True)
    options: Any = {"size": size or None, "flip": flip, "on_error": on_error, "templates": template}
    result = training.evaluate(chosen, held_out, **options)
    if confusion_matrix:
        reports.plot_confusion_matrix(result).savefig(confusion_matrix, dpi=110)
    summary = result.summary()
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    console = Console()
    for name in ("top1_accuracy", "top5_accuracy", "mean_class_accuracy", "expected_calibration_error"):
        console.print(f"{name}: {100 * summary[name]:.2f} %")
    table = Table("class", "right")
    seen = {name: part for name, part in summary["class_accuracy"].items() if part is not None}
    for name, part in sorted(seen.items(), key=lambda row: row[1]):
        table.add_row(Text(name), f"{100 * part:.1f} %")
    console.print(table)
