"""What every index of pictures does, wherever its vectors lie."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.batches import image_files, images_of
from convnext_keras.clip.embedder import Embedder
from convnext_keras.images import ImageSource


def common_folder(names: Iterable[str]) -> str:
    """The folder that all of these paths lie in; empty if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120 - of strings
    except ValueError:
        return ""


def folder_of(names: Iterable[str]) -> Path | None:
    """The folder that the files among these names lie in; None if there are none."""
    files = [str(Path(name).resolve()) for name in names if Path(name).is_file()]
    return Path(common_folder(files)) if files else None


def given_folders(pictures: str | os.PathLike | None) -> list[Path]:
    """The folder that a user names for an index's pictures, none for None; raises ValueError if it is not there."""
    if pictures is None:
        return []
    if not Path(pictures).is_dir():
        raise ValueError(f"{pictures} is not a folder.")
    return [Path(pictures).resolve()]


class Hit(NamedTuple):
    """One picture found.

    Attributes:
        name: its path, where it has one.
        cosine: with what was looked for, -1..1.
        place: in the index, from 0.
    """

    name: str
    cosine: float
    place: int


class PictureIndex:
    """Pictures to search by words or by another picture.

    Args:
        model: the ConvNeXt-CLIP that makes the vectors.

    Attributes:
        picture_folders: below which `picture` gives files out.
    """

    def __init__(self, model: Embedder) -> None:
        self.model = model
        self.picture_folders: list[Path] = []

    def __len__(self) -> int:
        raise NotImplementedError

    def nearest(self, vector: np.ndarray, top: int = 10, where: str | None = None) -> list[Hit]:
        """`search` with a unit vector `(D,)`."""
        raise NotImplementedError

    def name_at(self, position: int) -> str:
        """The name of the picture at a position, the `place` of a hit; raises ValueError if there is none."""
        raise NotImplementedError

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of these names that the index does not have, in the order given."""
        raise NotImplementedError

    @property
    def folder(self) -> str:
        """The folder that all names lie in, as they are written; empty if there is none."""
        raise NotImplementedError

    def search(self, query: str | ImageSource, top: int = 10, where: str | None = None) -> list[Hit]:
        """The pictures nearest to a text or to a picture.

        Args:
            query: a text, or a picture as a path object, a PIL image or an array; a string is always a text.
            top: most pictures to return.
            where: a condition on the columns of an index in Lance, such as `"year > 2020"`; see `LanceIndex`.

        Returns:
            The best first; fewer than `top` if there are fewer.

        Raises:
            ValueError: if the index is empty, the text is, the picture cannot be read, or the condition is not valid.
        """
        if isinstance(query, str):
            if not query.strip():
                raise ValueError("The text to search for is empty.")
            (vector,) = self.model.encode_text(query)
        else:
            (vector,) = self.model.encode_image([query], exif_transpose=True)
        return self.nearest(vector, top, where)

    def check_search(self, top: int) -> None:
        """Raises ValueError if there is nothing to find."""
        if not len(self):
            raise ValueError("The index is empty. Add pictures first.")
        if top < 1:
            raise ValueError(f"top must be 1 or more. Received: top={top}")

    def picture(self, position: int) -> Path:
        """The file of a picture by its position in the index, with links resolved.

        The folder that an index was saved to may come from others, and its table could name any file. Files are given
        out only below the folders that pictures were added from; for an index that was opened, below the folder that
        `open` was told, or below the one that it says it was made of if that lies beside the index.

        Raises:
            ValueError: if there is no such position, or its file lies elsewhere.
            OSError: if the file is missing.
        """
        path = Path(self.name_at(position)).resolve(strict=True)
        if not path.is_file() or not any(path.is_relative_to(folder) for folder in self.picture_folders):
            raise ValueError(
                f"{path} is no file below the folders of this index: {[*map(str, self.picture_folders)]}. Name the "
                "folder that its pictures lie in: ImageIndex.open(..., pictures=FOLDER), or --pictures."
            )
        return path

    def embedded(
        self,
        images: str | os.PathLike | Iterable[ImageSource],
        names: Iterable[str] | None,
        batch_size: int,
        on_error: str,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Iterator[tuple[list[str], np.ndarray, dict[str, list]]]:
        """Names, vectors and columns of pictures, batch by batch; see `ImageIndex.add`."""
        if isinstance(images, str | os.PathLike) and Path(images).is_dir():
            images = image_files(images)
        pictures, columns = images_of(images), columns or {}
        if names is None:
            first = len(self)
            named: Iterable = ((_name(image, first + row), image, row) for row, image in enumerate(pictures))
        else:
            named = ((name, image, row) for row, (name, image) in enumerate(zip(names, pictures, strict=True)))
        options: Any = {"picture": lambda item: item[1], "exif_transpose": True}
        for items, vectors in self.model.image_batches(named, batch_size, on_error, **options):
            rows = [row for *_, row in items]
            if wrong := [name for name, values in columns.items() if len(values) <= rows[-1]]:
                raise ValueError(f"The column {wrong[0]!r} has fewer values than there are pictures.")
            yield (
                [name for name, *_ in items],
                vectors,
                {key: [part[row] for row in rows] for key, part in columns.items()},
            )


def _name(image: ImageSource, number: int) -> str:
    return str(image) if isinstance(image, str | os.PathLike) else f"picture {number}"
