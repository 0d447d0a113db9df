"""Images by the million: folders, lists and archives, here or at any address that fsspec reads, cut into shards.

A shard is the unit of work: it is done as a whole and written as a whole, by whichever process.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
import fsspec.core
import requests

from convnext_keras.data.images import MAX_BYTES, ImageError, ImageSource
from convnext_keras.data.item_names import canonical_path, is_address, printable
from convnext_keras.data.loader import is_image_file, warn_skipped_files

ARCHIVE, LISTS = ".tar", (".csv", ".tsv", ".parquet")
# Columns of a list that hold paths or addresses, whatever their case: the first that it has.
PATH_COLUMNS = (
    *("path", "filepath", "file_path", "filename", "file_name", "url", "uri", "image", "image_path", "image_url"),
    *("file", "key"),
)
# Columns that hold images: of Hugging Face's datasets, and of img2dataset.
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content")
CONNECT_SECONDS, READ_SECONDS, TOTAL_SECONDS = 15, 30, 120  # of an HTTP request


class Item(NamedTuple):
    """Image of a shard.

    Attributes:
        key: Its path or address, or that of its archive or list with its name in it; text that UTF-8 can hold.
        content: The bytes of the file; None to read them at `place`; or the error that says why there are none.
        place: Path or address.
    """

    key: str
    content: bytes | ImageError | None = None
    place: str = ""

    def source(self) -> ImageSource:
        """Returns the path or the bytes of the image, which an address is read for.

        Raises:
            ImageError: If it cannot be read.
        """
        if isinstance(self.content, ImageError):
            raise self.content
        if self.content is not None:
            return self.content
        return _read(self.place, self.key) if is_address(self.place) else self.place


@dataclasses.dataclass(frozen=True)
class Shard:
    """Images that one worker processes together.

    Attributes:
        number: Number of the shard in its job, from 0.
        names: The paths or addresses of its images, or of its one archive.
        is_archive: Is archive which of the two.
        columns: Columns of a list, an Arrow table with the rows of these images, without their paths; None for others.
        contents: Contents of a list that holds images, their bytes, None where there are none.
    """

    number: int
    names: tuple[str, ...]
    is_archive: bool = False
    columns: Any = None
    contents: tuple[bytes | None, ...] | None = None

    @property
    def digest(self) -> str:
        """Returns 8 hexadecimal digits of the names, which identify a shard between runs."""
        return hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape")).hexdigest()[:8]

    def select(self, indices: Sequence[int], number: int) -> "Shard":
        """Returns some of the images, as a shard with another number."""
        return dataclasses.replace(
            self,
            number=number,
            names=tuple(self.names[index] for index in indices),
            columns=self.columns if self.columns is None else self.columns.take([*indices]),
            contents=self.contents and tuple(self.contents[index] for index in indices),
        )

    def items(self) -> Iterator[Item]:
        """Yields the images of the shard, in order; what cannot be read of an archive is an item that says so."""
        if self.is_archive:
            yield from _iter_tar(self.names[0])
            return
        for name, content in itertools.zip_longest(self.names, self.contents or ()):
            key = printable(name)
            missing = ImageError(key or "a row without a path", "the list has no path and no bytes for it")
            known = content if content is not None or (name and self.contents is None) else missing
            yield Item(key, known, name)


def make_shards(inputs: Sequence[str], images: int, column: str = "") -> Iterator[Shard]:
    """Cuts inputs into shards, in an order that is the same at every run.

    Args:
        inputs: Folders, images, `.tar` archives as img2dataset and webdataset write them, and `.csv`, `.tsv` or
            `.parquet` lists with a column of paths, addresses or images; each may have `*` in it, and be an address
            such as `s3://bucket/photos/`. Local paths become absolute. Paths in a list are relative to its folder.
        images: Images of a shard; an archive is one shard.
        column: Column of a list to read; by default the first of `PATH_COLUMNS` and `IMAGE_COLUMNS` that it has.

    Raises:
        ValueError: If an input does not exist, has no images, or a list has no such column.
    """
    numbers = itertools.count()
    alone: list[str] = []
    for name in inputs:
        for address in _expand(str(name)):
            suffix = PurePosixPath(address).suffix.lower()
            if suffix == ARCHIVE:
                yield Shard(next(numbers), (address,), is_archive=True)
            elif suffix in LISTS:
                for names, contents, columns in _iter_table(address, suffix, images, column):
                    yield Shard(next(numbers), names, columns=columns, contents=contents)
            else:
                alone.append(address)
    for start in range(0, len(alone), images):
        yield Shard(next(numbers), tuple(alone[start : start + images]))


def _expand(name: str) -> list[str]:
    """Returns an input itself, the matches of its `*`, or the images in a directory."""
    if is_address(name) and "*" not in name and _is_image_or_archive(name):
        return [name]
    try:
        files, path = fsspec.core.url_to_fs(name if is_address(name) else canonical_path(name))
        if "*" in name:
            found = sorted(files.glob(path))
        elif files.isdir(path):
            inside = sorted(files.find(path))
            found = [file for file in inside if _is_image_or_archive(file)]
            warn_skipped_files(name, [file for file in inside if not _is_image_or_archive(file)])
        else:
            found = [path] if files.exists(path) else []
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"{printable(name)} cannot be read: {error}") from error
    if not found:
        raise ValueError(
            f"{printable(name)}: there is no such file, or no image in this folder. Name folders, images, .tar "
            f"archives, or lists ({', '.join(LISTS)})."
        )
    return [files.unstrip_protocol(file) if is_address(name) else canonical_path(file) for file in found]


def _is_image_or_archive(name: str) -> bool:
    path = urlsplit(name).path if is_address(name) else name
    return PurePosixPath(path).suffix.lower() == ARCHIVE or is_image_file(path)


def _read(address: str, key: str) -> bytes:
    """Returns the bytes at an address.

    Raises:
        ImageError: If they cannot be fetched; it says what the server answered.
    """
    try:
        if urlsplit(address).scheme.lower() in ("http", "https"):
            return _fetch(address)
        with fsspec.open(address, "rb") as file:
            content: Any = file
            return _read_bounded([content.read(MAX_BYTES + 1)])
    except ImageError as error:
        raise ImageError(key, error.reason) from error
    except Exception as error:  # of whichever library reads the protocol
        raise ImageError(key, f"it could not be fetched: {type(error).__name__}: {error}".rstrip(": ")) from error


def _fetch(address: str) -> bytes:
    """Returns the body of an HTTP answer, within the time and the size that are allowed."""
    end = time.monotonic() + TOTAL_SECONDS
    with requests.get(address, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
        if answer.status_code != requests.codes.ok:
            reason = f" ({answer.reason})" if answer.reason else ""
            raise ImageError("", f"the server answered with the status {answer.status_code}{reason}")

        def chunks() -> Iterator[bytes]:
            for chunk in answer.iter_content(1 << 16):
                if time.monotonic() > end:
                    raise ImageError("", f"the server did not send all of it within {TOTAL_SECONDS} s")
                yield chunk

        return _read_bounded(chunks())


def _read_bounded(chunks: Iterable[bytes]) -> bytes:
    parts, size = [], 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise ImageError("", f"it has more than {MAX_BYTES} bytes")
    return b"".join(parts)


def _iter_table(address: str, suffix: str, images: int, wanted: str) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yields paths or images of a table with its other columns, in chunks."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    with fsspec.open(address, "rb") as opened:
        file: Any = opened
        try:
            if suffix == ".parquet":
                batches: Iterable = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=images)
            else:
                batches = read_table(file.read()).to_batches()
            tables = map(pyarrow.Table.from_batches, ([batch] for batch in batches))
            for table in _rechunk(tables, images):
                column = _find_column(table, wanted)
                names, contents = _names_and_contents(table.column(column), address, number)
                yield names, contents, table.drop_columns([column]).replace_schema_metadata(None)
                number += len(table)
        except (pyarrow.ArrowException, ValueError) as error:
            raise ValueError(f"{printable(address)} cannot be read as a list of images: {error}") from error


def read_table(content: bytes) -> Any:
    """Returns a table of text, separated by commas, semicolons or tabs, as an Arrow table.

    Columns of numbers become numbers only if no text is lost by it: `007` stays text.

    Raises:
        ValueError: If it cannot be read.
    """
    import pyarrow
    import pyarrow.csv

    head = content[:4096].decode("utf-8-sig", "replace").splitlines()[:1]
    delimiter = max(",;\t", key=(head or [""])[0].count)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    columns = next(csv.reader(head, delimiter=delimiter), [])
    texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pyarrow.string()), strings_can_be_null=False)
    as_text = pyarrow.csv.read_csv(io.BytesIO(content), parse_options=parse, convert_options=texts)
    guessed = pyarrow.csv.read_csv(io.BytesIO(content), parse_options=parse)
    for index, name in enumerate(as_text.column_names):
        column = guessed.column(index)
        if pyarrow.types.is_integer(column.type) and column.cast(pyarrow.string()).equals(as_text.column(index)):
            as_text = as_text.set_column(index, name, column)
        elif pyarrow.types.is_floating(column.type) or (pyarrow.types.is_integer(column.type) and column.null_count):
            lost = any(_loses_text(text) for text in as_text.column(index).to_pylist())
            as_text = as_text if lost else as_text.set_column(index, name, column)
        elif not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_string(column.type)):
            as_text = as_text.set_column(index, name, column)
    return as_text


def _loses_text(text: str) -> bool:
    """Returns whether a number would lose the zeros that it is written with, as an identifier may have them."""
    digits = text.strip().lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] != "."


def _find_column(table: Any, wanted: str) -> str:
    """Returns the column of paths or images."""
    import pyarrow

    known = {name.strip().lower(): name for name in reversed(table.column_names)}
    if wanted:
        if wanted.strip().lower() not in known:
            raise ValueError(f"it has no column {wanted!r}, but {', '.join(table.column_names)}")
        return known[wanted.strip().lower()]
    holds_images = [name for name in IMAGE_COLUMNS if name in known and _holds_images(table.column(known[name]).type)]
    texts = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    paths = [
        name for name in PATH_COLUMNS if name in known and any(kind(table.column(known[name]).type) for kind in texts)
    ]
    if not holds_images and not paths:
        columns = ", ".join(table.column_names)
        raise ValueError(
            f"it has none of the columns {', '.join(PATH_COLUMNS)}, but {columns}. Name the column of paths: column=..."
        )
    return known[(holds_images or paths)[0]]


def _holds_images(kind: Any) -> bool:
    """Returns whether an Arrow type holds bytes, or the structs with `bytes` and `path` of Hugging Face datasets."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return "bytes" in [kind.field(index).name for index in range(kind.num_fields)]
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _names_and_contents(column: Any, address: str, first: int) -> tuple[tuple[str, ...], Any]:
    """Returns names of the images in a column, and their bytes if it holds them."""
    values = column.to_pylist()
    if not _holds_images(column.type):
        return tuple(_keep_relative(value, address) for value in values), None
    rows = [value if isinstance(value, dict) else {"bytes": value} for value in values]
    names = tuple(
        f"{address}/{number}/{row['path']}" if (row or {}).get("path") else f"{address}/{number}"
        for number, row in enumerate(rows, start=first)
    )
    return names, tuple((row or {}).get("bytes") for row in rows)


def _keep_relative(name: Any, address: str) -> str:
    """Returns a path of a list, which is relative to the list's folder, or an address; empty for none."""
    if name is None or not str(name).strip():
        return ""
    if is_address(str(name)):
        return str(name)
    folder = address.rsplit("/", 1)[0]
    return f"{folder}/{name}" if is_address(address) else canonical_path(f"{folder}/{name}" if name[0] != "/" else name)


def _rechunk(tables: Iterable[Any], rows: int) -> Iterator[Any]:
    """Yields tables of equal numbers of rows, from tables of any number."""
    import pyarrow

    waiting: list[Any] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count < rows:
            continue
        joined = pyarrow.concat_tables(waiting)
        whole = count - count % rows
        yield from (joined.slice(start, rows) for start in range(0, whole, rows))
        waiting, count = [joined.slice(whole)], count - whole
    if count:
        yield pyarrow.concat_tables(waiting)


def _iter_tar(address: str) -> Iterator[Item]:
    """Returns the images of an archive, read in one pass; an archive that breaks off is an item more."""
    count, left_out = 0, []
    name = printable(address)
    try:
        with fsspec.open(address, "rb") as opened:
            stream: Any = opened
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and is_image_file(member.name):
                        count += 1
                        key = f"{name}/{printable(member.name)}"
                        yield Item(key, _read_content(archive, member, key))
                    elif member.isfile():
                        left_out.append(member.name)
    except (OSError, EOFError, tarfile.TarError, ImportError, ValueError) as error:
        yield Item(name, ImageError(name, f"the archive ends early or is broken, after {count} images: {error}"))
        return
    warn_skipped_files(name, left_out)
    if not count:
        yield Item(name, ImageError(name, "the archive has no images"))


def _read_content(archive: tarfile.TarFile, member: tarfile.TarInfo, key: str) -> bytes | ImageError:
    if member.size > MAX_BYTES:
        return ImageError(key, f"it has {member.size} bytes; at most {MAX_BYTES} are read")
    file: Any = archive.extractfile(member)
    return file.read()
