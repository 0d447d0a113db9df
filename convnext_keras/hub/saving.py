"""A built model into a folder, or a repository of the hub, that timm, transformers, OpenCLIP or this library loads."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from convnext_keras.checkpoints.saving import LazyTensor, write_safetensors
from convnext_keras.data.class_names import load_class_names
from convnext_keras.data.transforms import ImageTransform, adapt_statistics, get_statistics
from convnext_keras.files import atomic_path
from convnext_keras.hub import config_writers
from convnext_keras.hub.image_processors import named_statistics
from convnext_keras.hub.inspection import InspectedModel, inspect_model
from convnext_keras.hub.model_card import render_model_card
from convnext_keras.hub.model_info import WEIGHTS_FILE, WEIGHTS_INDEX, ModelInfo
from convnext_keras.hub.repository import Repository
from convnext_keras.model import get_pretrained_info, get_problem_type
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.problem_types import REGRESSION

MAX_SHARD_BYTES = 5_000_000_000


def save_pretrained(
    model: keras.Model,
    folder: str | os.PathLike,
    format: str = "timm",
    *,
    class_names: Sequence[str] | Sequence[tuple[str, str]] | str | None = None,
    transform: ImageTransform | None = None,
    license: str | None = None,
    intended_use: str | None = None,
    metrics: Mapping[str, float] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a model as a repository: weights, config, class names, transform and a model card.

    Everything is written beside the folder and put in its place at the end. Outputs are logits in all formats; softmax
    or sigmoid becomes the kind of the problem where a format has a word for it.

    Args:
        model: A model of this library, or one built on it, such as `Sequential([backbone, Dense(3)])`.
        folder: Folder to write to; it must not exist, or be empty.
        format: `"timm"`, which transformers reads too if timm is installed, `"transformers"`, `"open_clip"`, or
            `"keras"`, which only this library reads and which can say all that a model can be.
        class_names: The classes in order, each a name or `(identifier, name)`, or the name of a label set; by default
            those of the weights that the model was made with, if the classifier is theirs.
        transform: The evaluation transform; by default that of the weights that the model was made with.
        license: License of the weights; by default that of the weights that the model was made with.
        intended_use: Intended use for the card, in sentences.
        metrics: Metrics for the card, results by their names.
        max_shard_bytes: A larger weight file is cut, in the formats that have shards: transformers and keras.

    Raises:
        ValueError: If the folder has files, a part of the model cannot be represented, or the format does not support
            it; the message names the formats that do.

    Example:
        >>> from convnext_keras import create_model, save_pretrained
        >>> save_pretrained(create_model("convnext_mini.digits"), "digits", format="keras")
        >>> create_model("./digits").pretrained_info.class_names[3]
        ('3', 'three')
    """
    folder = Path(folder)
    if format not in REPO_FORMATS:
        raise ValueError(f"format must be one of {[*REPO_FORMATS]}. Received: format={format!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder. Choose another one, or remove it.")
    reading = inspect_model(model)
    origin = get_pretrained_info(model)
    problem_type = _problem_type(model, reading)
    description = _build_model_info(reading, problem_type, folder, format, origin, class_names, transform, license)
    form = REPO_FORMATS[format]
    if not description.include_preprocessing and format != "keras":
        warnings.warn(
            f"{model.name!r} takes normalized pixels. {format} describes that, but a model that this library loads "
            "from the folder normalizes by itself: load it with include_preprocessing=False.",
            stacklevel=2,
        )
    files, tensors = form.files(description), form.names(description, reading.tensors)
    with atomic_path(folder) as partial:
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        text = render_model_card(description, origin, folder.name, intended_use, metrics or {})
        (partial / "README.md").write_text(text, encoding="utf-8")
        _write_weights(partial, form.weights, tensors, max_shard_bytes if form.shards else None)


def _problem_type(model: keras.Model, reading: InspectedModel) -> str | None:
    """Returns the problem type of a classifier; one output without activation is a regression."""
    if not reading.classes or reading.segmentation or reading.clip:
        return None
    return REGRESSION if (reading.classes, reading.activation) == (1, None) else get_problem_type(model)


def _build_model_info(
    reading: InspectedModel,
    problem_type: str | None,
    folder: Path,
    format: str,
    origin: PretrainedInfo | None,
    class_names: Any,
    transform: ImageTransform | None,
    license: str | None,
) -> ModelInfo:
    """Returns the model's own facts, with what was given or is known of its origin."""
    if class_names is None and origin and origin.class_names:
        class_names = origin.class_names if len(origin.class_names) == reading.classes else None
    class_names = load_class_names(class_names) if isinstance(class_names, str) else class_names
    labels = None if class_names is None else tuple((n, n) if isinstance(n, str) else tuple(n) for n in class_names)
    if labels is not None and len(labels) != reading.classes:
        raise ValueError(f"class_names must be {reading.classes}, one for each class. Received: {len(labels)}")
    # Without a transform of its own, a model gets the usual one, rounded as the format rounds.
    usual = ImageTransform(
        224, convert_rgb_first=reading.clip is None, crop_rounding="down" if format == "transformers" else "half_even"
    )
    if reading.segmentation:
        usual = ImageTransform(512, resize_mode="squash", interpolation="bilinear", crop_rounding="down")
    transform = transform or (origin and origin.transform) or usual
    if reading.size and transform.shape[:2] != reading.size:
        square = reading.size[0] == reading.size[1]
        transform = transform._replace(size=reading.size[0] if square else reading.size, resize_size=None)
    statistics = adapt_statistics(get_statistics(reading.statistics or transform.statistics), reading.channels)
    transform = transform._replace(channels=reading.channels, statistics=named_statistics(statistics))
    return ModelInfo(
        Repository(str(folder), folder),
        format,
        reading.variant,
        reading.classes,
        transform,
        activation=reading.activation,
        problem_type=problem_type,
        thresholds=origin.thresholds if origin else None,
        categories=origin.categories if origin else None,
        labels=labels,
        license=license or (origin and origin.license),
        output_stride=None if reading.output_stride == reading.variant.minimum_size else reading.output_stride,
        clip=reading.clip,
        segmentation=reading.segmentation,
        reduce_labels=bool(origin and origin.reduce_labels),
        include_preprocessing=reading.statistics is not None,
    )


def _write_weights(folder: Path, name: str, tensors: dict[str, LazyTensor], max_shard_bytes: int | None) -> None:
    """Returns one file, or an index and its shards."""
    sizes = {key: int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize for key, tensor in tensors.items()}
    metadata = {"format": "pt"}
    if max_shard_bytes is None or sum(sizes.values()) <= max_shard_bytes:
        write_safetensors(folder / name, tensors, metadata)
        return
    shards: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        if shards[-1] and filled + sizes[key] > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][key], filled = tensor, filled + sizes[key]
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard, metadata)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def push_to_hub(
    model: keras.Model,
    repository: str,
    format: str = "timm",
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Add a ConvNeXt by convnext_keras",
    **options: Any,
) -> str:
    """Writes a model like `save_pretrained` and uploads it to the Hugging Face Hub; requires an account.

    Args:
        model: See `save_pretrained`.
        repository: `owner/name`.
        format: See `save_pretrained`.
        private: Whether a new repository is hidden from others.
        token: Token of the account; by default the one that `hf auth login` or `HF_TOKEN` gave.
        commit_message: Commit message of the one commit.
        **options: The other arguments of `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: See `save_pretrained`; nothing is uploaded then.

    Example:
        >>> from convnext_keras import create_model, push_to_hub
        >>> push_to_hub(create_model("convnext_mini.digits"), "me/digits", format="keras")  # doctest: +SKIP
    """
    import huggingface_hub

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / repository.rpartition("/")[2]
        save_pretrained(model, folder, format, **options)
        api = huggingface_hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=commit_message))


class RepoFormat(NamedTuple):
    """Repository format: name of the weight file, support of shards, and functions for configs and tensor names."""

    weights: str
    shards: bool
    files: Callable[[ModelInfo], config_writers.Files]
    names: Callable[[ModelInfo, config_writers.Tensors], dict[str, LazyTensor]]


REPO_FORMATS = {
    "timm": RepoFormat(WEIGHTS_FILE, False, config_writers.write_timm_config, config_writers.timm_tensors),
    "transformers": RepoFormat(
        WEIGHTS_FILE, True, config_writers.write_transformers_config, config_writers.transformers_tensors
    ),
    "open_clip": RepoFormat(
        "open_clip_model.safetensors", False, config_writers.write_open_clip_config, config_writers.open_clip_tensors
    ),
    "keras": RepoFormat(WEIGHTS_FILE, True, config_writers.write_native_config, config_writers.native_tensors),
}
