"""Outputs of a job: a directory of Parquet files or a LanceDB table, written shard by shard.

The rows of a shard become visible together, with the number of the shard.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from convnext_keras.clip import DualEncoder
from convnext_keras.distributed.sharding import ARCHIVE, Shard
from convnext_keras.files import atomic_path
from convnext_keras.retrieval.lance_index import LanceIndex, is_lance_path

JOB_FILE = "_job.json"  # in the folder: what was asked for; readers of Parquet leave out what begins so
PART_PATTERN = re.compile(r"part-(\d+)-([0-9a-f]{8})\.parquet")


class Output:
    """Base class of the outputs of a job.

    Args:
        path: Path of the output.

    Attributes:
        done: Digests of the shards that are written, by their numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, str] = {}

    def names(self) -> set[str]:
        """Returns the names of all images that are written, and of the archives that contain them."""
        keys = {*self._keys()}
        return keys | {key[: key.index(ARCHIVE + "/") + len(ARCHIVE)] for key in keys if ARCHIVE + "/" in key}

    def _keys(self) -> Iterator[str]:
        raise NotImplementedError

    def failed_shards(self) -> set[int]:
        """Returns the numbers of the shards with images that could not be read."""
        raise NotImplementedError

    @property
    def folder(self) -> Path | None:
        """Returns the folder that workers write to themselves; None if their rows are for `write`."""
        return None

    def write(self, shard: Shard, table: Any) -> None:
        """Writes the rows of a shard atomically."""

    def finish(self) -> None:
        """Completes the output after the last shard."""


class ParquetOutput(Output):
    """Directory with one Parquet file per shard, such as `part-00007-1f0a9c3e.parquet`, and `_job.json`."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        super().__init__(path)
        check_settings(path, _read_settings(path / JOB_FILE), settings)
        if not (path / JOB_FILE).is_file():
            if others := [file.name for file in path.iterdir() if file.name[0] not in "._"]:
                raise ValueError(f"{path} holds other files, such as {others[0]}. Choose a folder of its own.")
            with atomic_path(path / JOB_FILE) as partial:
                partial.write_text(json.dumps(settings, indent=2))
        self.parts = {int(part[1]): part for file in path.iterdir() if (part := PART_PATTERN.fullmatch(file.name))}
        self.done = {number: part[2] for number, part in self.parts.items()}

    def _columns(self, column: str) -> Iterator[tuple[int, Any]]:
        """Returns a column of each part, with the part's number."""
        import pyarrow.parquet

        for number, part in self.parts.items():
            try:
                yield number, pyarrow.parquet.read_table(self.path / part[0], columns=[column]).column(column)
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(
                    f"{self.path / part[0]} is damaged: {error}. Delete it; it is then done again."
                ) from error

    def _keys(self) -> Iterator[str]:
        for _, column in self._columns("key"):
            yield from column.to_pylist()

    def failed_shards(self) -> set[int]:
        return {number for number, column in self._columns("error") if column.null_count < len(column)}

    @property
    def folder(self) -> Path:
        return self.path


class LanceOutput(Output):
    """LanceDB table, one version per shard, that `open_index` opens; `name` is the key of the image.

    An image that could not be read is a row without a vector, which no search finds.
    """

    def __init__(self, path: Path, settings: dict[str, Any], model: DualEncoder) -> None:
        super().__init__(path)
        self.index = LanceIndex(path, model, settings["quantization"])
        if self.index.table is not None:
            if "shard" not in self.index.columns:
                raise ValueError(f"{path} was not written by a job. Choose another output.")
            found = self.index.table.schema.field("vector").type.value_type
            dtypes = {"float": "float32", "halffloat": "float16"}  # Arrow's names
            check_settings(path, {"dtype": dtypes[str(found)]}, {"dtype": settings["dtype"]})
            for batch in self.index.table.search().select(["shard", "digest"]).to_batches():
                self.done |= dict(zip(*(column.to_pylist() for column in batch.columns[:2]), strict=True))

    def _keys(self) -> Iterator[str]:
        for batch in self.index._names():
            yield from batch

    def failed_shards(self) -> set[int]:
        if self.index.table is None:
            return set()
        rows = self.index.table.search().where("error IS NOT NULL").select(["shard"]).to_arrow()
        return {*rows.column("shard").to_pylist()}

    def write(self, shard: Shard, table: Any) -> None:
        import pyarrow

        if shard.number in self.done and self.index.table is not None:  # done again for its errors
            self.index.table.delete(f"shard = {shard.number}")
        table = table.rename_columns(["name" if name == "key" else name for name in table.column_names])
        number, digest = pyarrow.scalar(shard.number, pyarrow.int32()), pyarrow.scalar(shard.digest)
        table = table.append_column("shard", pyarrow.repeat(number, len(table)))
        self.index.append(table.append_column("digest", pyarrow.repeat(digest, len(table))).to_batches())

    def finish(self) -> None:
        self.index.maybe_build_index()


def _read_settings(file: Path) -> dict[str, Any] | None:
    """Reads the settings that a job was started with; None if there is no job."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}. Choose another output.") from error
    return found


def check_settings(path: Path, found: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    """Raises ValueError if an output was begun with other settings."""
    begun = settings if found is None else found
    for name, value in settings.items():
        if begun.get(name) != value:
            raise ValueError(
                f"{path} was begun with {name} {begun.get(name)!r}. Received: {value!r}. Choose another output."
            )


@contextlib.contextmanager
def open_output(path: Path, settings: dict[str, Any], model: DualEncoder | None) -> Iterator[Output]:
    """Returns the output at a path, for one run at a time.

    Args:
        path: A folder, or what ends in `.lance`.
        settings: What is done, as JSON has it; a run goes on only with the same.
        model: Model for Lance.

    Raises:
        ValueError: If another run writes there, or one has with other settings.
    """
    if path.is_file() or path.suffix not in ("", ".lance"):
        raise ValueError(f"The output of a job is a folder, or ends in .lance. Received: {path}")
    if is_lance_path(path) and model is None:
        raise ValueError("A table of Lance is for vectors. Choose a folder, for files of Parquet.")
    (path.parent if is_lance_path(path) else path).mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock") if is_lance_path(path) else path / ".lock"
    try:
        with filelock.FileLock(lock, timeout=0):
            if model is not None and is_lance_path(path):
                yield LanceOutput(path, settings, model)
            else:
                yield ParquetOutput(path, settings)
    except filelock.Timeout as error:
        raise ValueError(f"Another run writes to {path}. Wait for it, or choose another output.") from error
