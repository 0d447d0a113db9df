"""What several commands take: their options, and the pictures and weight sets that these name."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from convnext_keras import checkpoints, clip, create_model, deploy, hub
from convnext_keras.arguments import did_you_mean
from convnext_keras.batches import picture_files
from convnext_keras.checkpoints import WeightSet
from convnext_keras.provenance import ModelWithProvenance

WHICH = "Weight set; 'convnext-keras models' lists them. Or hf://owner/name, a folder, or a .keras file."
WHICH_CLIP = (
    "ConvNeXt-CLIP weight set; 'convnext-keras models --clip' lists them. Or hf://owner/name, or a folder, such as "
    "'export' writes."
)
WeightSetName = Annotated[str, typer.Option(help=WHICH)]
ClipName = Annotated[str, typer.Option("--weights", help=WHICH_CLIP)]
DEFAULT_CLIP = "convnext_base_w"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Pictures = Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.", show_default=False)]
Skip = Annotated[bool, typer.Option(help="Leave out pictures that cannot be read, with a warning.")]
Top = Annotated[int, typer.Option(min=1, help="How many to show.")]


def weights_named(name: str) -> WeightSet | hub.Description:
    """The registry's row of that name, or of a variant's first weight set, or what a repository describes.

    Raises:
        ValueError: if there is none.
    """
    weight_set = checkpoints.named(name) or checkpoints.default(name) or hub.described(name)
    if weight_set is None:
        hint = did_you_mean(name, checkpoints.weight_sets())
        raise ValueError(f"{name!r} is no weight set.{hint} 'convnext-keras models' lists them.")
    return weight_set


def saved_model(name: str) -> ModelWithProvenance | None:
    """The model in a `.keras` file; None if the name is of something else."""
    return create_model(name) if Path(name).suffix == ".keras" else None


def clip_named(name: str) -> clip.Embedder:
    """A ConvNeXt-CLIP by the name of its weights, or as `export` wrote it to a folder."""
    return deploy.ExportedCLIP(name) if deploy.is_exported_clip(name) else clip.create_model(name)


def chosen_pictures(images: Iterable[Path]) -> list[Path]:
    """The pictures given, and those in the folders given."""
    return [path for given in images for path in (picture_files(given) if given.is_dir() else [given])]
