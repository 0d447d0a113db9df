"""Atomic writing of files and folders."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a path to write to, and moves it to `path` when the block ends without an error.

    The yielded path has the same name, in a hidden directory next to `path`. Other files in that directory are moved
    too, before the named one. After an error, nothing is left and `path` is unchanged.

    Args:
        path: The file or folder to write; one that exists is replaced.

    Example:
        >>> with atomic_path(Path("results.json")) as partial:
        ...     _ = partial.write_text("{}")
        >>> Path("results.json").read_text()
        '{}'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        for part in sorted(Path(folder).iterdir(), key=lambda part: part == partial):
            _replace(part, path.parent / part.name, Path(folder))


def _replace(source: Path, target: Path, folder: Path) -> None:
    """Moves a file or folder; a folder in its place, which the system does not replace, goes first."""
    if not target.is_dir():
        source.replace(target)
        return
    aside = folder / f"{target.name}.replaced"
    target.replace(aside)
    try:
        source.replace(target)
    except OSError:
        aside.replace(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
