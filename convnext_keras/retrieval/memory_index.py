"""Search among images by text or by image: exact cosines, kept in a folder that grows without being rewritten."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from convnext_keras.checkpoints import WeightsError
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.data.images import ImageSource
from convnext_keras.files import atomic_path
from convnext_keras.retrieval.index import (
    ImageIndex,
    SearchResult,
    check_distinct,
    common_root,
    find_image_root,
    parent,
    validate_image_root,
)
from convnext_keras.retrieval.vector_files import model_metadata, read_vectors

SOURCE_DIR_KEY = "folder"  # in an index's metadata: what it was made of, relative to the folder that the index lies in


class InMemoryIndex(ImageIndex):
    """Image index in memory, with exact search.

    Args:
        model: The ConvNeXt-CLIP that makes the vectors.

    Attributes:
        names: Names of the images, in the order in which they were added.
        vectors: Unit vectors `(N, D)` float32, in the same order; read only.
        image_roots: Directories below which `get_image_path` returns files.

    Example:
        >>> from convnext_keras import clip, retrieval
        >>> index = retrieval.InMemoryIndex(clip.create_model("convnext_mini.shapes"))
        >>> index.add([np.full((64, 64, 3), gray, "uint8") for gray in (0, 255)], names=["black", "white"])
        2
        >>> [hit.name for hit in index.search("a white background", top_k=1)]
        ['white']
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__(model)
        self.names: list[str] = []
        self._position_by_name: dict[str, int] = {}  # of the names
        self._rows = np.zeros((0, model.embed_dim), "float32")  # with room for more at the end
        self._folders: set[str] = set()  # that the names lie in
        self._common: str | None = None
        self._saved: Path | None = None  # the folder that it was saved to or loaded from
        self._unsaved: dict[int, None] = {}  # positions that are new since then, in order

    @property
    def vectors(self) -> np.ndarray:
        """Returns the unit vectors `(N, D)`, float32."""
        return self._rows[: len(self.names)]

    def __len__(self) -> int:
        return len(self.names)

    def get_name(self, position: int) -> str:
        if not 0 <= position < len(self):
            raise ValueError(f"position must be 0 to {len(self) - 1}. Received: position={position}")
        return self.names[position]

    def filter_new(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self._position_by_name]

    @property
    def folder(self) -> str:
        if self._common is None:
            self._common = common_root(self._folders)
        return self._common

    def _put(self, names: Sequence[str], vectors: np.ndarray) -> None:
        """Adds rows; those whose names are there already are replaced."""
        new = sum(name not in self._position_by_name for name in names)
        if len(self.names) + new > len(
            self._rows
        ):  # At least doubled, so that any number of calls copies each row twice.
            room = np.zeros((max(len(self.names) + new, 2 * len(self._rows)), self._rows.shape[1]), "float32")
            room[: len(self.names)] = self.vectors
            self._rows = room
        for name, vector in zip(names, vectors, strict=True):
            index = self._position_by_name.setdefault(name, len(self.names))
            if index == len(self.names):
                self.names.append(name)
            self._rows[index] = vector
            self._unsaved[index] = None
        found = {parent(name) for name in names}
        if not found <= self._folders:
            self._folders |= found
            self._common = None

    def add(
        self,
        images: str | os.PathLike | Iterable[ImageSource],
        names: Iterable[str] | None = None,
        batch_size: int = 32,
        on_error: str = "raise",
    ) -> int:
        """Adds images, all or none of them.

        Args:
            images: A folder, which is searched with the folders in it, or what `CLIP.encode_image` takes.
            names: One for each image; if None, their absolute paths, or `image 0`, `image 1`, ... for others. A
                image whose name is in the index already is replaced.
            batch_size: Maximum number of images at a time.
            on_error: `"raise"`, or `"skip"` to leave out images that cannot be read, with a warning for each.

        Returns:
            How many were added or replaced.

        Raises:
            ValueError: If an image cannot be read, there are more or fewer names than images, or two are the same.
        """
        added = [*self.iter_embedded(images, names, batch_size, on_error)]
        new = [name for batch, *_ in added for name in batch]
        check_distinct(new)
        self._put(new, np.concatenate([self._rows[:0], *(vectors for _, vectors, _ in added)]))
        if folder := find_image_root(new):
            self.image_roots.append(folder)
        return len(new)

    def search_by_vector(self, vector: np.ndarray, top_k: int = 10, where: str | None = None) -> list[SearchResult]:
        vector = self.check_search(vector, top_k)
        if where is not None:
            raise ValueError(f"where is of an index in Lance, which has columns. Received: where={where!r}")
        cosines = self.vectors @ vector
        top_k = min(top_k, len(cosines))
        best = np.argpartition(-cosines, top_k - 1)[:top_k]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [SearchResult(self.names[index], float(cosines[index]), int(index)) for index in best]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what is new since it was last saved to, or loaded from, this folder: one more pair of files.

        The folder has `0000.safetensors`, `0001.safetensors`, ... with vectors, and tables of the same names with the
        names of the images. A pair counts once its vectors are there under their final name, which comes last. A name
        in a later pair replaces the same name in an earlier one.

        Raises:
            ValueError: If the folder holds another index.
        """
        folder = Path(folder)
        present = _list_vector_files(folder)
        is_same = self._saved == folder.resolve()
        if present and not is_same:
            raise ValueError(f"{folder} holds another index. Choose another folder, or load that one and add to it.")
        indices = [*self._unsaved] if is_same else [*range(len(self))]
        if not indices:
            return
        names = [self.names[index] for index in indices]
        source_dir = find_image_root(names)
        metadata = {
            **model_metadata(self.model),
            SOURCE_DIR_KEY: os.path.relpath(source_dir, folder.resolve().parent) if source_dir else "",
        }
        with atomic_path(folder / f"{len(present):04}.safetensors") as partial:
            with partial.with_suffix(".csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows([["name"], *([name] for name in names)])
            partial.write_bytes(safetensors.numpy.save({"vectors": self.vectors[indices]}, metadata))
        self._saved, self._unsaved = folder.resolve(), {}

    @classmethod
    def load(
        cls, folder: str | os.PathLike, model: DualEncoder, image_root: str | os.PathLike | None = None
    ) -> "InMemoryIndex":
        """Returns the index that `save` wrote into a folder.

        Args:
            folder: Folder that it was saved to.
            model: The ConvNeXt-CLIP that made it.
            image_root: Directory that contains the indexed images; see `get_image_path`.

        Raises:
            ValueError: If `image_root` does not exist.
            WeightsError: If the index is missing, broken, or was made by another model.
        """
        folders = validate_image_root(image_root)
        folder, index, beside = Path(folder), cls(model), Path(folder).resolve().parent
        files = _list_vector_files(folder)
        if not files:
            raise WeightsError(f"{folder}: holds no index. Make one by InMemoryIndex.save or 'convnext-keras index'.")
        mine = model.fingerprint()
        for file in files:
            vectors, metadata = read_vectors(file)
            if metadata.get("model") != mine or vectors.shape[1:] != index.vectors.shape[1:]:
                raise WeightsError(f"{file}: was made by another model than {model.name!r}. Index the images anew.")
            names = _read_names(file.with_suffix(".csv"))
            if len(names) != len(vectors):
                raise WeightsError(f"{file}: has {len(vectors)} vectors, but its table {len(names)} names.")
            index._put(names, vectors)
            source_dir = (beside / (metadata.get(SOURCE_DIR_KEY) or "..")).resolve()
            if source_dir.is_relative_to(beside):
                index.image_roots.append(source_dir)
                index.moved.append((Path(common_root(map(parent, names)) or "/"), source_dir))
        if folders:
            index.image_roots = folders
            index.moved = [(Path(index.folder or "/"), given) for given in folders]
        index._saved, index._unsaved = folder.resolve(), {}
        return index


def _list_vector_files(folder: Path) -> list[Path]:
    """Returns the files of vectors of an index, in the order in which they were written."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def _read_names(file: Path) -> list[str]:
    """Returns the names in a table of an index.

    Raises:
        WeightsError: If it is missing or damaged.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            return [row["name"] for row in rows if row["name"] is not None]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise WeightsError(f"{file}: is missing or damaged: {error}. Index the images anew.") from error
