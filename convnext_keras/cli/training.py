"""Command `train`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convnext_keras.cli import segmentation
from convnext_keras.cli.data_options import (
    CLIP_PANEL,
    DATA_HELP,
    DATA_PANEL,
    MASK_PANEL,
    RUN_PANEL,
    ClassNames,
    Colors,
    GroupColumn,
    ImageColumn,
    LabelColumn,
    LabelDepth,
    Masks,
    ProblemType,
    ReduceLabels,
    Separator,
    Skipped,
    SplitColumn,
    WeightColumn,
)
from convnext_keras.cli.options import (
    LOSS_NAMES,
    OPTIMIZERS,
    PRESETS,
    format_choices,
)
from convnext_keras.cli.run_settings import RunSettings

if TYPE_CHECKING:
    from convnext_keras.training import ImageDataset, TrainingConfig

LOGGERS = {"csv": "", "tensorboard": "tensorboard", "wandb": "wandb"}  # each with its package


def train(
    data: Annotated[
        Path, typer.Argument(help=f"{DATA_HELP} For image-text pairs: a table with path and caption, or a .tar shard.")
    ],
    output: Annotated[Path, typer.Option(help="Directory to write; it must not exist.")],
    weights: Annotated[
        str, typer.Option(help="Initial weights: weight set, directory, hf://owner/name or .keras file.")
    ],
    validation: Annotated[
        str, typer.Option(help="Validation fraction of each class, or validation data.", rich_help_panel=DATA_PANEL)
    ] = "0.2",
    problem_type: ProblemType = "",
    image_column: ImageColumn = "",
    label_column: LabelColumn = None,
    split_column: SplitColumn = "",
    weight_column: WeightColumn = "",
    group_column: GroupColumn = "",
    separator: Separator = "",
    label_depth: LabelDepth = 1,
    skip: Skipped = False,
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="Drop training images that validate too.", rich_help_panel=DATA_PANEL),
    ] = False,
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-validation with this number of folds.", rich_help_panel=DATA_PANEL)
    ] = 0,
    preset: Annotated[
        str, typer.Option(help=f"{', '.join(PRESETS)}. Default: by the number of images.", rich_help_panel=RUN_PANEL)
    ] = "",
    config: Annotated[
        Path | None, typer.Option(help="TOML or YAML file of fields of the preset.", rich_help_panel=RUN_PANEL)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.", rich_help_panel=RUN_PANEL)] = None,
    batch_size: Annotated[
        str, typer.Option(help="Images per step; auto halves it when memory runs out.", rich_help_panel=RUN_PANEL)
    ] = "",
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=RUN_PANEL)] = None,
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(OPTIMIZERS)}.", rich_help_panel=RUN_PANEL)] = "",
    loss: Annotated[str, typer.Option(help=f"{', '.join(LOSS_NAMES)}.", rich_help_panel=RUN_PANEL)] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Other field, as in ema_decay=0.99.", rich_help_panel=RUN_PANEL),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            "--image-size",
            "--size",
            min=0,
            help="Height and width in pixels. Default: of the weights.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=RUN_PANEL)] = 0,
    teacher: Annotated[
        str, typer.Option(help="Classifier or ConvNeXt-CLIP to learn from.", rich_help_panel=RUN_PANEL)
    ] = "",
    log: Annotated[
        list[str] | None, typer.Option(help=f"Log to {', '.join(LOGGERS)}; repeatable.", rich_help_panel=RUN_PANEL)
    ] = None,
    masks: Masks = None,
    classes: ClassNames = "",
    colors: Colors = "",
    reduce_labels: ReduceLabels = None,
    decoder: Annotated[
        str, typer.Option(help="Decoder of a backbone: upernet, fpn or unet.", rich_help_panel=MASK_PANEL)
    ] = "upernet",
    replay_data: Annotated[
        list[Path] | None, typer.Option(help="Old pairs, replayed to limit forgetting.", rich_help_panel=CLIP_PANEL)
    ] = None,
    freeze_tower: Annotated[str, typer.Option(help="image or text.", rich_help_panel=CLIP_PANEL)] = "",
    interpolate: Annotated[
        str,
        typer.Option(
            help="Weight 0..1 of the new model in the average with the old one; auto: best on all pairs.",
            rich_help_panel=CLIP_PANEL,
        ),
    ] = "1",
) -> None:
    """Fine-tune a classifier or a regression on images, a segmentation model on masks, or a ConvNeXt-CLIP on pairs.

    The same command continues an interrupted training.

    [dim]convnext-keras train flowers/ --weights convnext_tiny.in12k_ft_in1k --output flowers-model[/]

    [dim]convnext-keras train tags.csv --separator "|" --weights convnext_tiny --output tagger[/]

    [dim]convnext-keras train images/ --masks masks/ --weights convnext_tiny --output segmenter[/]

    [dim]convnext-keras train captions.csv --weights convnext_base_w --output captions-model[/]
    """
    from convnext_keras import training
    from convnext_keras.training import charts
    from convnext_keras.training.image_text import is_image_text_data

    if output.exists():
        raise ValueError(f"{output} exists. Choose another folder.")
    charts.new_figure(1, 1)  # Before hours of training.
    part: Any = float(validation) if validation.replace(".", "", 1).isdigit() else Path(validation)
    is_auto = batch_size == "auto"
    if batch_size and not is_auto and not batch_size.isdigit():
        raise ValueError(f"--batch-size must be a number or auto. Received: {batch_size}")
    own: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "optimizer": optimizer, "loss": loss}
    own["batch_size"] = int(batch_size) if batch_size.isdigit() else None
    given = {name: value for name, value in own.items() if value not in (None, "")}
    settings = RunSettings(preset, config, changes or [], given)
    columns: dict[str, Any] = {
        "image_column": image_column,
        "split_column": split_column,
        "weight_column": weight_column,
    }
    columns |= {"group_column": group_column, "separator": separator, "problem_type": problem_type}
    data_options = {name: value for name, value in columns.items() if value}
    data_options |= {"label_column": label_column} if label_column else {}
    data_options |= {"label_depth": label_depth} if label_depth != 1 else {}
    single_run = {"drop_duplicates": drop_duplicates, "log": log, "teacher": teacher}
    for_labels = {**data_options, "skip": skip, "folds": folds, "batch_size auto": is_auto, **single_run}
    for_clip = {"replay_data": replay_data, "freeze_tower": freeze_tower, "interpolate": interpolate != "1"}
    if masks or segmentation.is_mask_table(data):
        _refuse("masks", {**for_clip, **for_labels})
        chosen = settings.resolve(training.get_training_config(preset or "segmentation", 0))
        options = {"class_names": segmentation.parse_classes(classes), "colors": segmentation.parse_colors(colors)}
        options |= {"reduce_labels": bool(reduce_labels), "decoder": decoder}
        pairs = (data, masks) if masks else data
        segmentation.train_on_masks(pairs, output, weights, chosen, part, seed, size, **options)
    elif not data_options and is_image_text_data(data):
        _refuse("image-text pairs", {"preset": preset, "image_size": size, **for_labels})
        chosen = settings.resolve(training.CLIP_CONFIG)
        train_on_pairs(data, output, weights, chosen, part, seed, replay_data or [], freeze_tower or None, interpolate)
    else:
        _refuse("images with labels", for_clip)
        options: Any = {"size": size or None, "seed": seed, "auto_batch_size": is_auto}
        on_error = "skip" if skip else "raise"
        if folds:
            _refuse("--folds", single_run)
            examples = training.load_dataset(data, None, on_error, **data_options)
            cross_validate(examples, output, weights, settings, folds, options)
            return
        if teacher:
            _refuse("--teacher", {"skip": skip, "drop_duplicates": drop_duplicates, **data_options})
            parts = _load_teacher_labels(data, teacher, part, seed)
        else:
            parts = training.train_val_split(data, part, None, seed, on_error, **data_options)
        train_on_labels(*parts, output, weights, settings, drop_duplicates, log or [], options)


def _refuse(kind: str, options: dict[str, Any]) -> None:
    """Raises ValueError if an option is given that is not for a kind of data."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is not for {kind}.")


def train_on_labels(
    kept: ImageDataset,
    held_out: ImageDataset,
    output: Path,
    weights: str,
    settings: RunSettings,
    drop_duplicates: bool,
    loggers: list[str],
    options: dict[str, Any],
) -> None:
    """Fine-tunes a classifier or a regression and writes it as a repository of this library."""
    from convnext_keras import training

    if drop_duplicates:
        count = len(kept)
        kept = training.drop_duplicates(kept, held_out)
        print(f"Dropped {count - len(kept)} training images that are in the validation data.")
    chosen = settings.resolve(training.get_training_config(settings.preset or None, len(kept)))
    _print_dataset(kept, held_out)
    state = output.with_name(f"{output.name}.partial")
    options |= {"state": state, "verbose": 2, "callbacks": build_loggers(loggers, output)}
    trained = training.fine_tune(weights, kept, chosen, validation=held_out, **options)
    if not trained.is_complete:
        raise ValueError(f"Interrupted after epoch {len(trained.history)}. The same command goes on from {state}.")
    training.save_training_result(trained, output)
    shutil.rmtree(state)
    for note in trained.notes:
        print(f"Note: {note}")
    metrics = ", ".join(f"{name} {value}" for name, value in training.format_metrics(trained.evaluation).items())
    print(f"{metrics} on {len(held_out)} validation images: {output}")


def _load_teacher_labels(data: Path, teacher: str, validation: Any, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Returns the training and the validation part of images with the outputs of a teacher as labels."""
    from convnext_keras import training

    examples = training.teacher_labels(teacher, str(data))
    if isinstance(validation, float):
        return training.stratified_split(examples, validation, seed)
    return examples, training.load_dataset(validation, examples.class_names, name="validation")


def _print_dataset(kept: ImageDataset, held_out: ImageDataset) -> None:
    """Prints the number of images per class, or the range of each value of a regression."""
    if kept.class_counts:
        table = Table("class", "train", "validate")
        for name, count in kept.class_counts.items():
            table.add_row(Text(name), str(count), str(held_out.class_counts[name]))
    else:
        table = Table("value", "minimum", "mean", "maximum")
        for name, column in zip(kept.class_names, kept.labels.T, strict=True):
            table.add_row(Text(name), *(f"{value:g}" for value in (column.min(), column.mean(), column.max())))
    Console().print(table)


def build_loggers(names: list[str], output: Path) -> list[Any]:
    """Returns the Keras callbacks of loggers, which write next to the output.

    Raises:
        ValueError: If a name is unknown.
        ImportError: If the package of a logger is missing.
    """
    import keras

    folder = output.with_name(f"{output.name}-logs")
    callbacks: list[Any] = []
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"--log must be {format_choices(LOGGERS)}. Received: {name!r}")
        if LOGGERS[name] and importlib.util.find_spec(LOGGERS[name]) is None:
            raise ImportError(f"--log {name} needs a package: pip install {LOGGERS[name]}")
        folder.mkdir(parents=True, exist_ok=True)
        if name == "csv":
            callbacks.append(keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True))
        elif name == "tensorboard":
            callbacks.append(keras.callbacks.TensorBoard(str(folder)))
        else:
            import wandb  # type: ignore[import-not-found]

            run = wandb.init(project="convnext-keras", name=output.name, dir=folder)
            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, run=run: run.log(logs)))
    return callbacks


def cross_validate(
    examples: ImageDataset,
    output: Path,
    weights: str,
    settings: RunSettings,
    folds: int,
    options: dict[str, Any],
) -> None:
    """Trains one model per fold, and writes each with a table of the results."""
    from convnext_keras import training

    chosen = settings.resolve(training.get_training_config(settings.preset or None, len(examples)))
    state = output.with_name(f"{output.name}.partial")
    result = training.cross_validate(weights, examples, chosen, folds=folds, state=state, verbose=2, **options)
    training.save_cross_validation(result, output)
    shutil.rmtree(state)
    table = Table("metric", "mean", "standard deviation", *(f"fold {number}" for number in range(1, folds + 1)))
    for name, row in result.summary().items():
        table.add_row(name, *(f"{value:.4g}" for value in (row["mean"], row["std"], *row["folds"])))
    Console().print(table)
    print(output)


def train_on_pairs(
    data: Path,
    output: Path,
    weights: str,
    config: TrainingConfig,
    validation: float | Path,
    seed: int,
    replay_data: list[Path],
    freeze_tower: str | None,
    interpolate: str,
) -> None:
    """Fine-tunes a ConvNeXt-CLIP and writes it as a repository of this library."""
    import numpy as np

    from convnext_keras import clip, training
    from convnext_keras.files import atomic_path
    from convnext_keras.hub import save_pretrained
    from convnext_keras.training import charts, checkpointing

    weight = parse_interpolation(interpolate, replay_data)
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
    measured = {"validation": held_out, **{str(path): training.load_image_text_pairs(path) for path in replay_data}}
    model, recall = clip.create_model(weights), training.RetrievalRecall(held_out)
    before = {name: training.retrieval_metrics(model, part) for name, part in measured.items()}
    state = output.with_name(f"{output.name}.partial")
    options: Any = {"freeze_tower": freeze_tower, "seed": seed, "state": state, "callbacks": [recall], "verbose": 2}
    tuned = training.fine_tune_clip(model, kept, config, replay_data=replay_data, **options)
    if weight is None:
        chosen = training.select_interpolation(model, tuned, held_out, measured[str(replay_data[0])])
        tuned, weight = chosen.model, chosen.weight
        print(f"weight of the new model: {weight:g}")
    elif weight < 1:
        tuned = clip.interpolate_weights(model, tuned, weight)
    after = {name: training.retrieval_metrics(tuned, part) for name, part in measured.items()}
    metrics: Any = {
        f"{name}: {key.replace('_', ' ')}": f"{value:.3g}"
        for name, values in after.items()
        for key, value in values.items()
    }
    with atomic_path(output) as partial:
        whole = partial.with_name(output.name)
        save_pretrained(tuned, whole, "keras", metrics=metrics)
        history = checkpointing.read_history(state)
        (whole / checkpointing.HISTORY_FILE).write_text(checkpointing.history_to_csv(history), encoding="utf-8")
        charts.plot_curves(history).savefig(whole / "curves.png", dpi=110)
        whole.rename(partial)
    shutil.rmtree(state)
    print_retrieval(measured, before, after)
    print(output)


def parse_interpolation(text: str, replay_data: list[Path]) -> float | None:
    """Returns the weight of the new model; None if it is to be chosen."""
    if text == "auto":
        if not replay_data:
            raise ValueError("--interpolate auto compares new and old pairs. Name the old ones by --replay-data.")
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise ValueError(f"--interpolate must be auto, or 0 to 1. Received: {text}")
    return weight


def print_retrieval(
    pairs: dict[str, Any], before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]
) -> None:
    """Prints recall and median rank of each set of pairs, before and after the training."""
    table = Table("pairs", "", "recall at 1", "at 5", "at 10", "median rank")
    for name, part in pairs.items():
        for when, values in (("before", before[name]), ("after", after[name])):
            means = [
                (values[f"image_to_text_{key}"] + values[f"text_to_image_{key}"]) / 2
                for key in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
            ]
            first = (Text(f"{name} ({len(part)})"), when) if when == "before" else (Text(""), when)
            table.add_row(*first, *(f"{100 * value:.1f} %" for value in means[:3]), f"{means[3]:g}")
    Console().print(table)
