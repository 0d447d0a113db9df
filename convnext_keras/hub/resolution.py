"""From a name to a description: which form a repository has, by the files and keys that are there."""

import os
from collections.abc import Callable
from pathlib import Path

from convnext_keras import checkpoints
from convnext_keras.checkpoints import CLASSIFIERS, CLIP, Published, WeightsError
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub import native, open_clip, timm, transformers
from convnext_keras.hub.json_schema import Fields, read_fields
from convnext_keras.hub.model_info import Description, license_of
from convnext_keras.hub.repository import Repository, repository_of


def describe_config(repository: Repository, config: Fields, license: str | None) -> Description:
    """The description in a `config.json`, which timm and transformers both write."""
    if "architecture" in config.values:
        return timm.describe(repository, config, license)
    model_type = config.read("model_type", schema.text)
    if model_type in transformers.MODEL_TYPES:
        return transformers.describe(repository, config, license)
    code = (
        " The repository asks for code of its own (auto_map), which is never run."
        if "auto_map" in config.values
        else ""
    )
    raise WeightsError(
        f"{config.path}: is not of a ConvNeXt: model_type is {model_type!r} and there is no 'architecture'. Known are "
        f"{', '.join(transformers.MODEL_TYPES)}, timm_wrapper, and timm's architectures.{code}"
    )


# The files that describe a model, the first that is there decides: OpenCLIP's repositories may have others beside it.
DESCRIBED_BY: dict[str, Callable[[Repository, Fields, str | None], Description]] = {
    native.FILE: native.describe,
    "open_clip_config.json": open_clip.describe,
    "config.json": describe_config,
}


def described(name: str | os.PathLike | Published) -> Description | None:
    """The description of a repository of the hub, or of a folder; None if the name is of neither.

    Only files that describe the model are fetched.

    Args:
        name: `hf://owner/name`, with `@revision` behind it or not, or the path of a folder; or the description itself.

    Raises:
        ValueError: if the name begins with `hf://` and goes on otherwise.
        WeightsError: if no description can be had, or it cannot be followed; the message names file, key and value.
    """
    if isinstance(name, Description):
        return name
    repository = repository_of(name) if isinstance(name, str | os.PathLike) else None
    if repository is None:
        return None
    for file, describe in DESCRIBED_BY.items():
        if path := repository.find(file):
            return describe(repository, read_fields(path), license_of(repository))
    path = repository.require([*DESCRIBED_BY]).path  # Raises and says why, but for a file that has just come.
    return DESCRIBED_BY[path.name](repository, read_fields(path), license_of(repository))


def resolve(
    weights: str | os.PathLike | Published | None, variant: str | None = None, table: str = CLASSIFIERS
) -> Published | Path | None:
    """What `weights=` of a constructor stands for: see `checkpoints.resolve`; also a repository of the hub or a folder.

    The name of a weight set comes before a folder that is called like it.
    """
    known = checkpoints.named(weights, table, variant) if isinstance(weights, str) and variant else None
    if known:
        return known
    description = None if weights is None else described(weights)
    return description or checkpoints.resolve(weights, variant, table)


def is_clip(name: str) -> bool:
    """Whether a name is of a ConvNeXt-CLIP: a weight set, variant, repository or folder.

    A variant that classifiers have too, such as `"convnext_base"`, is not.

    Raises:
        WeightsError: see `described`.
    """
    for table in (CLASSIFIERS, CLIP):
        if checkpoints.named(name, table) or checkpoints.default(name, table):
            return table == CLIP
    description = described(name)
    return description is not None and description.clip is not None
