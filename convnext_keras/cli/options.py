"""Options and helpers that several commands share.

The tables below repeat names of the library, so that `--help` answers without importing Keras;
`test_help_lists_the_names_of_the_library` compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from convnext_keras import clip, distributed
    from convnext_keras.checkpoints import WeightsSource
    from convnext_keras.model import ConvNeXtModel

EXPORT_FORMATS = ("saved_model", "litert", "onnx", "torch", "openvino", "stablehlo")
EXPORT_FOLDERS = ("immich", "onnx-web")  # for an application: several files in a folder
EXPORT_CHOICES = (*EXPORT_FORMATS, *EXPORT_FOLDERS)
EXPORT_PRECISIONS = ("float32", "float16", "bfloat16", "int8_weights", "int8")
VECTOR_TYPES = ("float32", "float16", "int8", "uint8", "binary", "ubinary")
QUANTIZATIONS = ("int8", "binary")
EXPLAIN_METHODS = ("grad_cam", "layer_cam", "occlusion")
PRESETS = ("linear_probe", "fine_tune", "fine_tune_small_data", "segmentation", "from_scratch")
PRESET_FIELDS = (
    *("epochs", "min_steps", "batch_size", "accumulation_steps", "learning_rate", "warmup_ratio"),
    *("weight_decay", "layer_decay", "layer_decay_mode", "clip_norm", "ema_decay", "drop_path_rate"),
    *("loss", "optimizer", "class_weights", "sampling"),
    *(
        "label_smoothing",
        "mixup",
        "cutmix",
        "crop_scale",
        "hflip_prob",
        "affine",
        "rand_augment",
        "random_erasing_prob",
    ),
    *("scale_range", "color_jitter", "auxiliary_weight", "dice_weight"),
    *("head_init", "pretrained", "frozen_stages", "lora_rank", "precision", "save_best", "patience"),
)
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
OPTIMIZERS = ("adamw", "adam", "lion", "sgd", "rmsprop")
LOSS_NAMES = (
    *("cross_entropy", "bce", "focal", "asymmetric", "generalized_cross_entropy"),
    *("mse", "mae", "huber", "sigmoid"),
)
BUNDLED_CLIP = "convnext_mini.shapes"
TEMPLATE = "a photo of a {}."

WEIGHTS_HELP = "Weight set (see 'convnext-keras models'), hf://owner/name, directory, or .keras file."
CLIP_WEIGHTS_HELP = "ConvNeXt-CLIP weight set (see 'convnext-keras models --clip'), hf://owner/name, or directory."
WeightSetName = Annotated[str, typer.Option(help=WEIGHTS_HELP)]
ClipName = Annotated[str, typer.Option("--weights", help=CLIP_WEIGHTS_HELP)]
DEFAULT_CLIP = "convnext_base_w"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Images = Annotated[list[Path], typer.Argument(help="Image files or directories.", show_default=False)]
Skip = Annotated[bool, typer.Option(help="Skip unreadable images with a warning.")]
ExifTranspose = Annotated[
    bool, typer.Option("--exif-transpose/--no-exif-transpose", help="Rotate images by their EXIF orientation.")
]
Column = Annotated[str, typer.Option(help="Column of a table with the paths, URLs or images. Default: detected.")]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Repeat shards that contain errors.")]
JobOutput = Annotated[
    Path | None, typer.Option("--output", help="Output directory; writes Parquet files with one row per image.")
]
ClusterOption = Annotated[str, typer.Option("--cluster", help="Where to run: ray, or this process (default).")]
Address = Annotated[str, typer.Option(help="Address of a running Ray cluster, such as auto or ray://head:10001.")]
Devices = Annotated[
    str, typer.Option(help="Devices of the cluster, with an optional number of models: cpu, gpu, gpu:4.")
]
Size = Annotated[int, typer.Option(min=0, help="Height and width in pixels; 0 for the size of the weights.")]
Flip = Annotated[
    bool,
    typer.Option("--tta-flip", help="Test-time augmentation: average the scores with those of mirrored images."),
]
TopK = Annotated[int, typer.Option(min=1, help="Number of results per image or query.")]


def format_choices(words: Iterable[str]) -> str:
    """Returns words joined for a sentence, such as `'a', 'b' or 'c'`."""
    *others, last = map(repr, words)
    return f"{', '.join(others)} or {last}"


def resolve_weights(name: str) -> WeightsSource:
    """Returns the registry's row of that name, or of a variant's first weight set, or what a repository describes.

    Raises:
        ValueError: If there is none.
    """
    from convnext_keras import checkpoints, hub
    from convnext_keras.constructors import find_segmentation_set
    from convnext_keras.validation import suggestion

    weight_set = checkpoints.find_weight_set(name) or checkpoints.default_weight_set(name)
    if weight_set:
        return hub.complete_weight_set(weight_set)
    weight_set = find_segmentation_set(name) or hub.load_model_info(name)
    if weight_set is None:
        hint = suggestion(name, checkpoints.load_registry())
        raise ValueError(f"{name!r} is no weight set.{hint} 'convnext-keras models' lists them.")
    return weight_set


def require_classifier(source: Any, name: str) -> None:
    """Raises ValueError for a segmentation model: a weight set, a description, or a model in Keras or exported."""
    from convnext_keras.checkpoints import WeightSet
    from convnext_keras.constructors import find_segmentation_set
    from convnext_keras.model import ConvNeXtModel
    from convnext_keras.segmentation import is_segmentation_model

    if isinstance(source, ConvNeXtModel):
        is_segmentation = is_segmentation_model(source)
    elif isinstance(source, WeightSet):
        is_segmentation = find_segmentation_set(source) is not None
    else:
        is_segmentation = bool(getattr(source, "segmentation", None) or getattr(source, "is_segmentation", False))
    if is_segmentation:
        raise ValueError(f"{name} is a segmentation model. Use 'convnext-keras segment'.")


def load_saved_model(name: str) -> ConvNeXtModel | None:
    """Returns the model in a `.keras` file; None if the name is of something else."""
    from convnext_keras import create_model

    return create_model(name) if Path(name).suffix == ".keras" else None


def load_clip(name: str) -> clip.DualEncoder:
    """Returns a ConvNeXt-CLIP by the name of its weights, or as `export` wrote it to a folder."""
    from convnext_keras import clip, export

    return export.ExportedCLIP(name) if export.is_exported_clip(name) else clip.create_model(name)


def expand_images(images: Iterable[Path]) -> list[Path]:
    """Returns the images given, and those in the folders given."""
    from convnext_keras.data.loader import list_images

    return [
        path
        for restore_urls in images
        for path in (list_images(restore_urls) if restore_urls.is_dir() else [restore_urls])
    ]


def print_summary(output: Path, summary: distributed.JobSummary) -> None:
    """Prints what a job did."""
    before = f"; {summary.skipped} shards were there" if summary.skipped else ""
    errors = f", {summary.errors} of them with an error" if summary.errors else ""
    print(f"{output}: {summary.images} images{errors}, in {summary.shards} shards{before}")


def job_options(output: Path | None, cluster: str, address: str, devices: str) -> dict[str, Any]:
    """Returns where a job runs; raises ValueError if a cluster is named without an output."""
    if output is None and (cluster or address or devices):
        raise ValueError("A cluster writes to files. Name a folder: --output FOLDER.")
    return {"cluster": cluster or None, "address": address or None, "devices": devices, "verbose": True}


def restore_urls(paths: Iterable[Path]) -> list[str]:
    """Returns inputs of a job as they were typed: `Path` makes one slash of the two in an address."""
    return [re.sub(r"^([a-z0-9]+):/(?=[^/])", r"\1://", str(path)) for path in paths]
