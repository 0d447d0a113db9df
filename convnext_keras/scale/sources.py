"""Pictures by the million: folders, lists and archives, here or at any address that fsspec reads, cut into shards.

A shard is the unit of work: it is done as a whole and written as a whole, by whichever process.
"""

import dataclasses
import hashlib
import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec
import fsspec.core
from PIL import Image

from convnext_keras.batches import PICTURE_FILES
from convnext_keras.preprocessing import Picture

ARCHIVE, LISTS = ".tar", (".csv", ".parquet")
MAX_MEMBER_BYTES = 256 << 20  # of one picture in an archive
PATH_COLUMNS = ("path", "url", "uri", "image", "file", "key")  # of a list, the first that it has


class Item(NamedTuple):
    """A picture of a shard.

    Attributes:
        key: its path or address, or that of its archive with its name in it.
        content: the bytes of the file; None to read them at `key`; or why there are none.
    """

    key: str
    content: bytes | ValueError | None = None

    def picture(self) -> Picture:
        """The picture, not decoded yet.

        Raises:
            ValueError: if it cannot be read.
        """
        if isinstance(self.content, ValueError):
            raise self.content
        if self.content is None and "://" not in self.key:
            return PurePosixPath(self.key)
        try:
            return Image.open(io.BytesIO(self.content if self.content is not None else _read(self.key)))
        except (OSError, ImportError, SyntaxError) as error:
            raise ValueError(f"{self.key} cannot be read as an image: {error}") from error


@dataclasses.dataclass(frozen=True)
class Shard:
    """Pictures that are done together.

    Attributes:
        number: of the shard in its job, from 0.
        names: the paths or addresses of its pictures, or of its one archive.
        is_archive: which of the two.
        columns: of a list, an Arrow table with the rows of these pictures, without their paths; None for others.
    """

    number: int
    names: tuple[str, ...]
    is_archive: bool = False
    columns: Any = None

    @property
    def digest(self) -> str:
        """8 hexadecimal digits of the names: what shows that a shard is the same as in the run before."""
        return hashlib.sha256("\0".join(self.names).encode()).hexdigest()[:8]

    def items(self) -> Iterator[Item]:
        """The pictures of the shard, in order; what cannot be read of an archive is an item that says so."""
        return _members(self.names[0]) if self.is_archive else map(Item, self.names)


def shards_of(inputs: Sequence[str], pictures: int) -> Iterator[Shard]:
    """Cuts inputs into shards, in an order that is the same at every run.

    Args:
        inputs: folders, pictures, `.tar` archives as img2dataset and webdataset write them, and `.csv` or `.parquet`
            lists with a column of paths; each may have `*` in it, and be an address such as `s3://bucket/photos/`.
        pictures: of a shard; an archive is one shard.

    Raises:
        ValueError: if an input is not there, has no pictures, or a list no column of paths.
    """
    numbers = itertools.count()
    alone: list[str] = []
    for name in inputs:
        for address in _addresses(str(name)):
            suffix = PurePosixPath(address).suffix.lower()
            if suffix == ARCHIVE:
                yield Shard(next(numbers), (address,), is_archive=True)
            elif suffix in LISTS:
                for names, columns in _rows(address, suffix, pictures):
                    yield Shard(next(numbers), names, columns=columns)
            else:
                alone.append(address)
    for start in range(0, len(alone), pictures):
        yield Shard(next(numbers), tuple(alone[start : start + pictures]))


def _addresses(name: str) -> list[str]:
    """What an input stands for: itself, the matches of its `*`, or the pictures in a folder."""
    if "://" in name and not any(sign in name for sign in "*") and _is_file(name):
        return [name]
    try:
        files, path = fsspec.core.url_to_fs(name)
        is_local = "://" not in name
        if "*" in name:
            found = sorted(files.glob(path))
        elif files.isdir(path):
            found = sorted(file for file in files.find(path) if _is_file(file))
        else:
            found = [path] if files.exists(path) else []
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if not found:
        raise ValueError(
            f"{name}: there is no such file, or no picture in this folder. Name folders, pictures, .tar archives, or "
            f"lists ({', '.join(LISTS)})."
        )
    return [_as_given(file, name, path) if is_local else files.unstrip_protocol(file) for file in found]


def _as_given(file: str, name: str, path: str) -> str:
    """A local path as relative as the input was: `fsspec` makes them absolute."""
    if "*" in name:
        name, path = (part[: part.index("*")] for part in (name, path))
    return name + file[len(path) :] if file.startswith(path) else file


def _is_file(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (*PICTURE_FILES, ARCHIVE)


def _read(address: str) -> bytes:
    with fsspec.open(address, "rb") as file:
        content: Any = file
        return content.read()


def _rows(address: str, suffix: str, pictures: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths of a list with its other columns, so many rows at a time."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    with fsspec.open(address, "rb") as opened:
        file: Any = opened
        try:
            if suffix == ".csv":
                batches: Iterable = pyarrow.csv.read_csv(file).to_batches()
            else:
                batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=pictures)
            tables = map(pyarrow.Table.from_batches, ([batch] for batch in batches))
            for table in _of_size(tables, pictures):
                column = next((name for name in PATH_COLUMNS if name in table.column_names), None)
                if column is None:
                    raise ValueError(f"has none of the columns {PATH_COLUMNS}, but {table.column_names}")
                names = tuple(map(str, table.column(column).to_pylist()))
                yield names, table.drop_columns([column]).replace_schema_metadata(None)
        except (pyarrow.ArrowException, ValueError) as error:
            raise ValueError(f"{address} cannot be read as a list of pictures: {error}") from error


def _of_size(tables: Iterable[Any], rows: int) -> Iterator[Any]:
    """Tables of as many rows, from tables of any."""
    import pyarrow

    waiting: list[Any] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= rows:
            joined = pyarrow.concat_tables(waiting)
            yield joined.slice(0, rows)
            waiting = [joined.slice(rows)]
    if any(map(len, waiting)):
        yield pyarrow.concat_tables(waiting)


def _members(address: str) -> Iterator[Item]:
    """The pictures of an archive, read in one pass; an archive that breaks off is an item more."""
    count = 0
    try:
        with fsspec.open(address, "rb") as opened:
            stream: Any = opened
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and PurePosixPath(member.name).suffix.lower() in PICTURE_FILES:
                        count += 1
                        yield Item(f"{address}/{member.name}", _content(archive, member))
    except (OSError, EOFError, tarfile.TarError, ImportError) as error:
        yield Item(address, ValueError(f"{address} ends early or is broken, after {count} pictures: {error}"))
        return
    if not count:
        yield Item(address, ValueError(f"{address} has no pictures."))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ValueError:
    if member.size > MAX_MEMBER_BYTES:
        return ValueError(f"{member.name} has {member.size} bytes; at most {MAX_MEMBER_BYTES} are read.")
    file: Any = archive.extractfile(member)
    return file.read()
