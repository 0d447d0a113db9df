"""Resolution of names to repositories, and of repositories to their format, by their files and keys."""

import os
from collections.abc import Callable
from pathlib import Path

from convnext_keras import checkpoints
from convnext_keras.checkpoints import (
    CLASSIFIER_REGISTRY,
    CLIP_REGISTRY,
    SEGMENTATION_REGISTRY,
    WeightsError,
    WeightSet,
    WeightsSource,
    load_registry,
)
from convnext_keras.checkpoints.registry import TAGGER_LABELS
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub import native, open_clip, timm, transformers, upernet
from convnext_keras.hub.json_schema import JsonObject, read_json
from convnext_keras.hub.model_info import ModelInfo, read_card_license
from convnext_keras.hub.repository import Repository, parse_repository


def read_config_json(repository: Repository, config: JsonObject, license: str | None) -> ModelInfo:
    """Returns the description in a `config.json`, which timm and transformers both write."""
    if "architecture" in config.values:
        return timm.read_model_info(repository, config, license)
    model_type = config.read("model_type", schema.parse_str)
    if model_type in transformers.MODEL_TYPES:
        return transformers.read_model_info(repository, config, license)
    if model_type == upernet.MODEL_TYPE:
        return upernet.read_model_info(repository, config, license)
    code = (
        " The repository asks for code of its own (auto_map), which is never run."
        if "auto_map" in config.values
        else ""
    )
    raise WeightsError(
        f"{config.path}: is not of a ConvNeXt: model_type is {model_type!r} and there is no 'architecture'. Known are "
        f"{', '.join(transformers.MODEL_TYPES)}, {upernet.MODEL_TYPE}, timm_wrapper, and timm's architectures.{code}"
    )


# The files that describe a model, the first that is there decides: OpenCLIP's repositories may have others beside it.
CONFIG_READERS: dict[str, Callable[[Repository, JsonObject, str | None], ModelInfo]] = {
    native.NATIVE_FILE: native.read_model_info,
    "open_clip_config.json": open_clip.read_model_info,
    "config.json": read_config_json,
}


def load_model_info(name: str | os.PathLike | WeightsSource) -> ModelInfo | None:
    """Loads the description of a Hub repository or a directory; returns None for other names.

    Only files that describe the model are fetched.

    Args:
        name: `hf://owner/name`, with `@revision` behind it or not, or the path of a folder; or the description itself.

    Raises:
        ValueError: If the name begins with `hf://` and is not valid.
        WeightsError: If no config is available, or it is not valid; the message names file, key and value.
    """
    if isinstance(name, ModelInfo):
        return name
    repository = parse_repository(name) if isinstance(name, str | os.PathLike) else None
    if repository is None:
        return None
    for file, describe in CONFIG_READERS.items():
        if path := repository.find(file):
            return describe(repository, read_json(path), read_card_license(repository))
    path = repository.require([*CONFIG_READERS]).path  # Raises and says why, but for a file that has just come.
    return CONFIG_READERS[path.name](repository, read_json(path), read_card_license(repository))


def resolve_weights(
    weights: str | os.PathLike | WeightsSource | None, variant: str | None = None, table: str = CLASSIFIER_REGISTRY
) -> WeightsSource | Path | None:
    """Resolves the `weights` argument of a constructor, also to a Hub repository or a directory.

    A weight set has priority over a directory of the same name.
    """
    known = checkpoints.find_weight_set(weights, table, variant) if isinstance(weights, str) and variant else None
    if known:
        return complete_weight_set(known)
    description = None if weights is None else load_model_info(weights)
    return description or checkpoints.resolve_weights(weights, variant, table)


def complete_weight_set(row: WeightSet) -> WeightsSource:
    """Returns a row of a registry, or the description of its repository if that knows the names of the classes."""
    if not row.repository or not (row.labels == TAGGER_LABELS or row.name in load_registry(SEGMENTATION_REGISTRY)):
        return row
    description = load_model_info(f"hf://{row.repository}{f'@{row.revision}' if row.revision else ''}")
    return row if description is None else description


def is_clip_repo(name: str) -> bool:
    """Returns whether a name is of a ConvNeXt-CLIP: a weight set, variant, repository or folder.

    A variant that classifiers have too, such as `"convnext_base"`, is not.

    Raises:
        WeightsError: See `load_model_info`.
    """
    for table in (CLASSIFIER_REGISTRY, CLIP_REGISTRY):
        if checkpoints.find_weight_set(name, table) or checkpoints.default_weight_set(name, table):
            return table == CLIP_REGISTRY
    description = load_model_info(name)
    return description is not None and description.clip is not None
