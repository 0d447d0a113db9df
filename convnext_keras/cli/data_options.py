"""Options of `train` and `evaluate` that describe the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convnext_keras.cli.options import PROBLEM_TYPES

DATA_PANEL, RUN_PANEL = "Data (images with labels)", "Training"
MASK_PANEL, CLIP_PANEL = "Masks (segmentation)", "Image-text pairs (ConvNeXt-CLIP)"
DATA_HELP = "Directory with one subdirectory per class, or a .csv or .tsv table with path and class."
Data = Annotated[Path, typer.Argument(help=DATA_HELP)]
Model = Annotated[
    str, typer.Argument(help="Weight set, directory, hf://owner/name or .keras file.", show_default=False)
]
Skipped = Annotated[bool, typer.Option("--skip", help="Skip unreadable images.", rich_help_panel=DATA_PANEL)]
ProblemType = Annotated[
    str, typer.Option(help=f"{', '.join(PROBLEM_TYPES)}. Default: by the labels.", rich_help_panel=DATA_PANEL)
]
ImageColumn = Annotated[str, typer.Option(help="Column of the paths. Default: path.", rich_help_panel=DATA_PANEL)]
LabelColumn = Annotated[
    list[str] | None,
    typer.Option(help="Column of the labels; repeatable. Default: label.", rich_help_panel=DATA_PANEL),
]
SplitColumn = Annotated[
    str, typer.Option(help="Column with train and val. Default: split.", rich_help_panel=DATA_PANEL)
]
WeightColumn = Annotated[
    str, typer.Option(help="Column of sample weights. Default: weight.", rich_help_panel=DATA_PANEL)
]
GroupColumn = Annotated[
    str, typer.Option(help="Column of groups that a split keeps together.", rich_help_panel=DATA_PANEL)
]
Separator = Annotated[str, typer.Option(help="Separator of several labels, as |.", rich_help_panel=DATA_PANEL)]
LabelDepth = Annotated[
    int, typer.Option(min=1, help="Levels of directories that name a class.", rich_help_panel=DATA_PANEL)
]
Templates = Annotated[list[str], typer.Option(help="Prompt with {} for the class (ConvNeXt-CLIP only).")]
Masks = Annotated[
    Path | None, typer.Option(help="Directory of masks, named like the images.", rich_help_panel=MASK_PANEL)
]
ClassNames = Annotated[
    str, typer.Option(help="Class names, separated by commas, or a .txt file.", rich_help_panel=MASK_PANEL)
]
Colors = Annotated[str, typer.Option(help="Colors in RGB masks, as '#000000,#ff0000'.", rich_help_panel=MASK_PANEL)]
ReduceLabels = Annotated[
    bool | None,
    typer.Option("--reduce-labels/--no-reduce-labels", help="Ignore class 0.", rich_help_panel=MASK_PANEL),
]
