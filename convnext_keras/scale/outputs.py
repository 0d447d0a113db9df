"""Where a job writes: a folder of Parquet files or a table of Lance, shard by shard, so that it can go on.

What a shard gives becomes visible whole, and says which shard it is of.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from convnext_keras.checkpoints.saving import written_whole
from convnext_keras.clip import Embedder
from convnext_keras.clip.lance import LanceIndex, is_lance
from convnext_keras.scale.sources import Shard

JOB = "_job.json"  # in the folder: what was asked for; readers of Parquet leave out what begins so
PART = re.compile(r"part-(\d+)-([0-9a-f]{8})\.parquet")


class Output:
    """Where the rows of a job go.

    Args:
        path: of the output.

    Attributes:
        done: digests of the shards that are written, by their numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, str] = {}

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard is written already.

        Raises:
            ValueError: if another one with its number is: the inputs have changed since.
        """
        digest = self.done.get(shard.number)
        if digest not in (None, shard.digest):
            raise ValueError(
                f"{self.path} was begun with other inputs: shard {shard.number} is now {shard.names[0]} and following. "
                "Choose another output, or the inputs as they were."
            )
        return digest is not None

    @property
    def folder(self) -> Path | None:
        """The folder that workers write to themselves; None if their rows are for `write`."""
        return None

    def write(self, shard: Shard, table: Any) -> None:
        """Writes the rows of a shard, whole or not at all."""

    def finish(self) -> None:
        """What is to be done once, after the last shard."""


class ParquetParts(Output):
    """A folder with one Parquet file a shard, such as `part-00007-1f0a9c3e.parquet`, and `_job.json`."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        super().__init__(path)
        check_settings(path, json.loads((path / JOB).read_text()) if (path / JOB).is_file() else None, settings)
        if not (path / JOB).is_file():
            if others := [file.name for file in path.iterdir() if file.name[0] not in "._"]:
                raise ValueError(f"{path} holds other files, such as {others[0]}. Choose a folder of its own.")
            with written_whole(path / JOB) as partial:
                partial.write_text(json.dumps(settings, indent=2))
        parts = [PART.fullmatch(file.name) for file in path.iterdir()]
        self.done = {int(part[1]): part[2] for part in parts if part}

    @property
    def folder(self) -> Path:
        return self.path


class LanceRows(Output):
    """A table of Lance, one version a shard, that `ImageIndex.open` searches: its `name` is the key of the picture.

    A picture that could not be read is a row without a vector, which no search finds.
    """

    def __init__(self, path: Path, settings: dict[str, Any], model: Embedder) -> None:
        super().__init__(path)
        self.index = LanceIndex(path, model)
        if self.index.table is not None:
            if "shard" not in self.index.columns:
                raise ValueError(f"{path} was not written by a job. Choose another output.")
            found = self.index.table.schema.field("vector").type.value_type
            dtypes = {"float": "float32", "halffloat": "float16"}  # Arrow's names
            check_settings(path, {"dtype": dtypes[str(found)]}, {"dtype": settings["dtype"]})
            for batch in self.index.table.search().select(["shard", "digest"]).to_batches():
                self.done |= dict(zip(*(column.to_pylist() for column in batch.columns[:2]), strict=True))

    def write(self, shard: Shard, table: Any) -> None:
        import pyarrow

        table = table.rename_columns(["name" if name == "key" else name for name in table.column_names])
        number, digest = pyarrow.scalar(shard.number, pyarrow.int32()), pyarrow.scalar(shard.digest)
        table = table.append_column("shard", pyarrow.repeat(number, len(table)))
        self.index.append(table.append_column("digest", pyarrow.repeat(digest, len(table))).to_batches())

    def finish(self) -> None:
        self.index.grown()


def check_settings(path: Path, found: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    """Raises ValueError if an output was begun with other settings."""
    begun = settings if found is None else found
    for name, value in settings.items():
        if begun.get(name) != value:
            raise ValueError(
                f"{path} was begun with {name} {begun.get(name)!r}. Received: {value!r}. Choose another output."
            )


@contextlib.contextmanager
def opened_output(path: Path, settings: dict[str, Any], model: Embedder | None) -> Iterator[Output]:
    """The output at a path, for one run at a time.

    Args:
        path: a folder, or what ends in `.lance`.
        settings: what is done, as JSON has it; a run goes on only with the same.
        model: for Lance.

    Raises:
        ValueError: if another run writes there, or one has with other settings.
    """
    if path.is_file() or path.suffix not in ("", ".lance"):
        raise ValueError(f"The output of a job is a folder, or ends in .lance. Received: {path}")
    if is_lance(path) and model is None:
        raise ValueError("A table of Lance is for vectors. Choose a folder, for files of Parquet.")
    (path.parent if is_lance(path) else path).mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock") if is_lance(path) else path / ".lock"
    try:
        with filelock.FileLock(lock, timeout=0):
            if model is not None and is_lance(path):
                yield LanceRows(path, settings, model)
            else:
                yield ParquetParts(path, settings)
    except filelock.Timeout as error:
        raise ValueError(f"Another run writes to {path}. Wait for it, or choose another output.") from error
