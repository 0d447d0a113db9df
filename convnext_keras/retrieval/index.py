"""Common interface of image indexes."""

import collections
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.data.images import ImageSource
from convnext_keras.data.item_names import canonical_path, file_name, printable
from convnext_keras.data.loader import as_image_list, list_images


def common_root(folders: Iterable[str]) -> str:
    """Returns the common parent of folders; empty if there is none."""
    distinct = {*folders}
    try:
        return os.path.commonpath(distinct) if distinct and "" not in distinct else ""
    except ValueError:  # of absolute and relative ones, or of several drives
        return ""


def parent(name: str) -> str:
    """Returns the folder of a path as it is written."""
    return os.path.dirname(name)  # noqa: PTH120 - of strings


def find_image_root(names: Iterable[str]) -> Path | None:
    """Returns the common folder of the files among names, with links resolved; None if there are none."""
    folders = {parent(file_name(name)) for name in names if Path(file_name(name)).is_file()}
    common = common_root(str(Path(folder).resolve()) for folder in folders)
    return Path(common) if common else None


def validate_image_root(image_root: str | os.PathLike | None) -> list[Path]:
    """Returns the image directory that the user gave, as a list; raises ValueError if it does not exist."""
    if image_root is None:
        return []
    if not Path(image_root).is_dir():
        raise ValueError(f"{image_root} is not a folder.")
    return [Path(image_root).resolve()]


class SearchResult(NamedTuple):
    """Image found by a search.

    Attributes:
        name: Its path, where it has one.
        cosine: Cosine with what was looked for, -1..1.
        index: Position in the index, from 0.
    """

    name: str
    cosine: float
    index: int


class ImageIndex:
    """Base class of image indexes, which are searched by text, image or vector.

    Args:
        model: The ConvNeXt-CLIP that makes the vectors.

    Attributes:
        image_roots: Directories below which `get_image_path` returns files.
        moved: Pairs of the original and the present folder of images that were moved with the index.
    """

    def __init__(self, model: DualEncoder) -> None:
        self.model = model
        self.image_roots: list[Path] = []
        self.moved: list[tuple[Path, Path]] = []

    def __len__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} images, model={self.model.name!r}>"

    def search_by_vector(self, vector: np.ndarray, top_k: int = 10, where: str | None = None) -> list[SearchResult]:
        """Searches with a vector `(D,)` of any length except 0."""
        raise NotImplementedError

    def get_name(self, position: int) -> str:
        """Returns the name of the image at a position, the `place` of a hit; raises ValueError if there is none."""
        raise NotImplementedError

    def filter_new(self, names: Iterable[str]) -> list[str]:
        """Returns those of these names that the index does not have, in the order given."""
        raise NotImplementedError

    @property
    def folder(self) -> str:
        """Returns the common folder of all names, as they are written; empty if there is none."""
        raise NotImplementedError

    def search(self, query: str | ImageSource, top_k: int = 10, where: str | None = None) -> list[SearchResult]:
        """Returns the images nearest to a text or to an image.

        Args:
            query: A text, or an image as a path object, a PIL image or an array; a string is always a text.
            top_k: Maximum number of images to return.
            where: A condition on the columns of an index in Lance, such as `"year > 2020"`; see `LanceIndex`.

        Returns:
            The best first; fewer than `top_k` if there are fewer.

        Raises:
            ValueError: If the index is empty, the text is, the image cannot be read, or the condition is not valid.
        """
        if isinstance(query, str):
            if not query.strip():
                raise ValueError("The text to search for is empty.")
            (vector,) = self.model.encode_text(query)
        else:
            (vector,) = self.model.encode_image([query], exif_transpose=True)
        return self.search_by_vector(vector, top_k, where)

    def check_search(self, vector: np.ndarray, top_k: int) -> np.ndarray:
        """Returns the vector to search for as a unit vector `(D,)` float32.

        Raises:
            ValueError: If there is nothing to find, `top_k` is no whole number from 1 on, or the vector is none of the
                index.
        """
        if not len(self):
            raise ValueError("The index is empty. Add images first.")
        if not isinstance(top_k, numbers.Integral) or top_k < 1:
            raise ValueError(f"top_k must be a whole number, 1 or more. Received: top_k={top_k!r}")
        found = np.asarray(vector, "float32")
        length = float(np.linalg.norm(found)) if found.shape == (self.model.embed_dim,) else 0.0
        if not 0 < length < np.inf:
            raise ValueError(
                f"A vector to search for must have {self.model.embed_dim} finite numbers that are not all 0. "
                f"Received: shape {found.shape}"
            )
        return found / length

    def get_image_path(self, position: int) -> Path:
        """Returns the file of an image by its index, with links resolved.

        A saved index may come from an untrusted source, and its table could name any file. Only files below
        `image_roots` are returned: the directories that images were added from; for an opened index, the directory
        given to `open_index`, or the directory that the index names if it is next to the index.

        Raises:
            ValueError: If there is no such index, or its file is outside `image_roots`.
            OSError: If the file is missing.
        """
        path = Path(file_name(self.get_name(position)))
        moved = [new / path.relative_to(old) for old, new in self.moved if path.is_relative_to(old)]
        path = next((candidate for candidate in (path, *moved) if candidate.exists()), path).resolve(strict=True)
        if not path.is_file() or not any(path.is_relative_to(folder) for folder in self.image_roots):
            raise ValueError(
                f"{path} is no file below the folders of this index: {[*map(str, self.image_roots)]}. Name the "
                "folder that its images lie in: open_index(..., image_root=FOLDER), or --images."
            )
        return path

    def iter_embedded(
        self,
        images: str | os.PathLike | Iterable[ImageSource],
        names: Iterable[str] | None,
        batch_size: int,
        on_error: str,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Iterator[tuple[list[str], np.ndarray, dict[str, list]]]:
        """Names, vectors and columns of images, batch by batch; see `InMemoryIndex.add`."""
        if isinstance(images, str | os.PathLike) and Path(images).is_dir():
            images = list_images(images)
        items, columns = as_image_list(images), columns or {}
        if names is None:
            first = len(self)
            named: Iterable = ((item_name(image, first + row), image, row) for row, image in enumerate(items))
        else:
            named = ((name, image, row) for row, (name, image) in enumerate(zip(names, items, strict=True)))
        options: Any = {"image": lambda item: item[1], "exif_transpose": True}
        for items, vectors in self.model.iter_image_embeddings(named, batch_size, on_error, **options):
            rows = [row for *_, row in items]
            if wrong := [name for name, values in columns.items() if len(values) <= rows[-1]]:
                raise ValueError(f"The column {wrong[0]!r} has fewer values than there are images.")
            yield (
                [name for name, *_ in items],
                vectors,
                {key: [part[row] for row in rows] for key, part in columns.items()},
            )


def item_name(image: ImageSource, number: int) -> str:
    """Returns the name of an image: its path in the one form of `canonical_path`, or its number."""
    if isinstance(image, str | os.PathLike):
        return printable(canonical_path(image))
    return f"image {number}"


def check_distinct(names: Sequence[str]) -> None:
    """Raises ValueError if several images of one call have the same name."""
    if len({*names}) < len(names):
        repeated = next(name for name, count in collections.Counter(names).items() if count > 1)
        raise ValueError(f"Several images have the name {repeated!r}. Each must have a name of its own.")
