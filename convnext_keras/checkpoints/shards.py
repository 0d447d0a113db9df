"""Weights in several `.safetensors` files, with an index of the file of each tensor.

The form is that of transformers: `model.safetensors.index.json` holds `{"weight_map": {tensor: file}}`.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_keras.checkpoints.formats import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    WeightsError,
    WeightsReader,
    open_weights,
    reject_duplicate_keys,
)

INDEX_PATTERN = re.compile(r".+\.safetensors\.index(\.\w+)?\.json")  # with the variant, such as `fp16`
MAX_SHARDS = 1_000
SHARD_PATTERN = re.compile(r"[\w.-]+\.safetensors")  # a bare name: an index that names other folders is never followed


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike) -> Iterator[WeightsReader]:
    """Opens a weight file, or the shards of an index as one file.

    Args:
        path: A weight file, or an index with a name like `model.safetensors.index.json`; its shards are in the same
            directory.

    Yields:
        A `WeightsReader`; of shards, one tensor at a time is read from its own file.

    Raises:
        WeightsError: See `open_weights`; also if the index is broken or disagrees with its shards.

    Example:
        >>> with open_checkpoint("weights/convnext_mini.digits.safetensors") as file:
        ...     file.format
        'safetensors'
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        if not INDEX_PATTERN.fullmatch(path.name):
            yield stack.enter_context(open_weights(path))
            return
        wanted = _read_weight_map(path)
        owners: dict[str, WeightsReader] = {}
        for name in dict.fromkeys(wanted.values()):
            shard = stack.enter_context(open_weights(_shard_path(path, name)))
            if repeated := owners.keys() & shard.headers.keys():
                raise WeightsError(f"{path}: the tensor {min(repeated)!r} is in two of its files.")
            owners |= dict.fromkeys(shard.headers, shard)
        for tensor, name in wanted.items():
            if tensor not in owners or owners[tensor].path.name != name:
                raise WeightsError(f"{path}: the tensor {tensor!r} is not in {name}, where the index says it is.")
        headers = {tensor: shard.headers[tensor] for tensor, shard in owners.items()}
        yield WeightsReader(path, "safetensors", headers, lambda tensor: owners[tensor].read(tensor))


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Reads a JSON file that must contain an object.

    Args:
        path: The file.
        max_bytes: How large it may be.

    Raises:
        WeightsError: If it is missing, larger, broken, or names a key twice, or a number that JSON does not have.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    if path.stat().st_size > max_bytes:
        raise WeightsError(f"{path}: has more than {max_bytes} bytes.")

    def refuse(constant: str) -> None:
        raise WeightsError(f"says {constant}, which is no number of JSON")

    try:
        content = path.read_text(encoding="utf-8")
        value: Any = json.loads(content, object_pairs_hook=reject_duplicate_keys, parse_constant=refuse)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is broken or not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: must be an object of JSON. Received: {type(value).__name__}.")
    return value


def shard_names(index: Path) -> list[str]:
    """Returns the files that an index names, in its order, each once; see `open_checkpoint` for errors."""
    return [*dict.fromkeys(_read_weight_map(index).values())]


def _read_weight_map(path: Path) -> dict[str, str]:
    """Returns the file of each tensor, by an index that says nothing else."""
    files = read_json_object(path, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise WeightsError(f"{path}: 'weight_map' must be an object of tensors and their files.")
    if len(files) > MAX_TENSORS or len({*map(str, files.values())}) > MAX_SHARDS:
        raise WeightsError(f"{path}: names more than {MAX_TENSORS} tensors or {MAX_SHARDS} files.")
    for tensor, name in files.items():
        if not isinstance(name, str) or not SHARD_PATTERN.fullmatch(name):
            raise WeightsError(
                f"{path}: the file of {tensor!r} must be a bare name that ends in .safetensors: {name!r}."
            )
    return files


def _shard_path(index: Path, name: str) -> Path:
    """Returns the path of a shard, which must be in the directory of its index."""
    shard = index.parent / name
    if shard.exists() and shard.resolve().parent not in (index.parent.resolve(), index.resolve().parent):
        raise WeightsError(f"{index}: {name} is a link to elsewhere, which is never followed.")
    return shard
