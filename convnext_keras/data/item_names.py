"""Names of items in jobs and indexes: canonical paths, as text for every file format."""

import os
import re
from pathlib import Path

SURROGATE = re.compile(r"\\udc([89a-f][0-9a-f])")


def is_address(name: str) -> bool:
    """Returns whether a name is an address such as `https://host/image.png` or `s3://bucket/image.png`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


def canonical_path(path: str | os.PathLike) -> str:
    """Returns the one form of a local path: absolute, without `.`, `..` and double slashes; links are kept.

    Addresses are returned as they are.

    Example:
        >>> canonical_path("/photos//2020/../0.png")
        '/photos/0.png'
    """
    name = os.fsdecode(os.fspath(path))
    return name if is_address(name) else Path(os.path.abspath(name)).as_posix()  # noqa: PTH100 - links are kept


def printable(name: str) -> str:
    r"""Returns a file name as text that UTF-8 can hold: bytes that are no UTF-8 become `\udcXX`.

    Example:
        >>> printable("caf\udce9.png")
        'caf\\udce9.png'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def file_name(name: str) -> str:
    """Returns the file name that `printable` made a text of."""
    return SURROGATE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), name)
