"""Search among pictures by text or by picture: exact cosines, kept in a folder that grows without being rewritten."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from convnext_keras.checkpoints import WeightsError
from convnext_keras.clip.constructors import create_model
from convnext_keras.clip.embedder import Embedder
from convnext_keras.clip.index import Hit, PictureIndex, common_folder, folder_of, given_folders
from convnext_keras.clip.lance import LanceIndex, is_lance, lance_metadata
from convnext_keras.clip.vectors import described, read_vectors
from convnext_keras.images import ImageSource

FOLDER = "folder"  # in an index's metadata: what it was made of, relative to the folder that the index lies in


class ImageIndex(PictureIndex):
    """Pictures to search by words or by another picture, by exact cosines in memory.

    Args:
        model: the ConvNeXt-CLIP that makes the vectors.

    Attributes:
        names: of the pictures, in the order in which they were added.
        vectors: unit vectors `(N, D)` float32, in the same order.
        picture_folders: below which `picture` gives files out.

    Example:
        >>> from convnext_keras import clip
        >>> index = clip.ImageIndex(clip.create_model("convnext_mini.shapes"))
        >>> index.add([np.full((64, 64, 3), grey, "uint8") for grey in (0, 255)], names=["black", "white"])
        2
        >>> [hit.name for hit in index.search("a white background", top=1)]
        ['white']
    """

    def __init__(self, model: Embedder) -> None:
        super().__init__(model)
        self.names: list[str] = []
        self.vectors = np.zeros((0, model.output_width), "float32")
        self._saved: tuple[Path, int] | None = None  # the folder, and how many pictures it holds

    @staticmethod
    def open(
        path: str | os.PathLike, model: Embedder | None = None, pictures: str | os.PathLike | None = None
    ) -> PictureIndex:
        """The index that lies at a path: a `LanceIndex` if it ends in `.lance`, and else one that `save` wrote.

        Args:
            path: of the index.
            model: the ConvNeXt-CLIP that made it; None for the weight set that the index names.
            pictures: the folder below which its pictures lie; see `picture`.

        Raises:
            ValueError: if there is no such folder of pictures, or LanceDB is missing.
            WeightsError: if the index is missing, broken, or was made by another model.

        Example:
            >>> from convnext_keras import clip
            >>> index = clip.ImageIndex(clip.create_model("convnext_mini.shapes"))
            >>> index.add([np.zeros((64, 64, 3), "uint8")], names=["black"])
            1
            >>> index.save("pictures.index")
            >>> len(clip.ImageIndex.open("pictures.index"))
            1
        """
        kind = LanceIndex if is_lance(path) else ImageIndex
        return kind.load(path, model or create_model(index_weights(path)), pictures)

    def __len__(self) -> int:
        return len(self.names)

    def name_at(self, position: int) -> str:
        if not 0 <= position < len(self):
            raise ValueError(f"position must be 0 to {len(self) - 1}. Received: position={position}")
        return self.names[position]

    def missing(self, names: Iterable[str]) -> list[str]:
        known = set(self.names)
        return [name for name in names if name not in known]

    @property
    def folder(self) -> str:
        return common_folder(self.names)

    def add(
        self,
        images: str | os.PathLike | Iterable[ImageSource],
        names: Iterable[str] | None = None,
        batch_size: int = 32,
        on_error: str = "raise",
    ) -> int:
        """Adds pictures, all or none of them.

        Args:
            images: a folder, which is searched with the folders in it, or what `CLIP.encode_image` takes.
            names: one for each picture; if None, their paths, or `picture 0`, `picture 1`, ... for others.
            batch_size: most pictures at a time.
            on_error: `"raise"`, or `"skip"` to leave out pictures that cannot be read, with a warning for each.

        Returns:
            How many were added.

        Raises:
            ValueError: if a picture cannot be read, or there are more or fewer names than pictures.
        """
        added = [*self.embedded(images, names, batch_size, on_error)]
        new = [name for batch, *_ in added for name in batch]
        self.vectors = np.concatenate([self.vectors, *(vectors for _, vectors, _ in added)])
        self.names += new
        if folder := folder_of(new):
            self.picture_folders.append(folder)
        return len(new)

    def nearest(self, vector: np.ndarray, top: int = 10, where: str | None = None) -> list[Hit]:
        self.check_search(top)
        if where is not None:
            raise ValueError(f"where is of an index in Lance, which has columns. Received: where={where!r}")
        cosines = self.vectors @ vector
        top = min(top, len(cosines))
        best = np.argpartition(-cosines, top - 1)[:top]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [Hit(self.names[place], float(cosines[place]), int(place)) for place in best]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what is new since it was last saved to, or loaded from, this folder: one more pair of files.

        The folder has `0000.safetensors`, `0001.safetensors`, ... with vectors, and tables of the same names with the
        names of the pictures. A pair counts once its vectors are there under their final name, which comes last.

        Raises:
            ValueError: if the folder holds another index.
        """
        folder = Path(folder)
        present = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        start = self._saved[1] if self._saved and self._saved[0] == folder.resolve() else 0
        if present and not start:
            raise ValueError(f"{folder} holds another index. Choose another folder, or load that one and add to it.")
        if start == len(self):
            return
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{len(present):04}.safetensors"
        with target.with_suffix(".csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([["name"], *([name] for name in self.names[start:])])
        made_of = folder_of(self.names[start:])
        metadata = {
            **described(self.model),
            FOLDER: os.path.relpath(made_of, folder.resolve().parent) if made_of else "",
        }
        content = safetensors.numpy.save({"vectors": self.vectors[start:]}, metadata)
        partial = target.with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(target)
        self._saved = (folder.resolve(), len(self))

    @classmethod
    def load(
        cls, folder: str | os.PathLike, model: Embedder, pictures: str | os.PathLike | None = None
    ) -> "ImageIndex":
        """The index that `save` wrote into a folder.

        Args:
            folder: that it was saved to.
            model: the ConvNeXt-CLIP that made it.
            pictures: the folder below which its pictures lie; see `picture`.

        Raises:
            ValueError: if there is no such folder of pictures.
            WeightsError: if the index is missing, broken, or was made by another model.
        """
        folders = given_folders(pictures)
        folder, index, beside = Path(folder), cls(model), Path(folder).resolve().parent
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise WeightsError(f"{folder}: holds no index. Make one by ImageIndex.save or 'convnext-keras index'.")
        mine, parts = model.fingerprint(), [index.vectors]
        for file in files:
            vectors, metadata = read_vectors(file)
            if metadata.get("model") != mine or vectors.shape[1:] != index.vectors.shape[1:]:
                raise WeightsError(f"{file}: was made by another model than {model.name!r}. Index the pictures anew.")
            with file.with_suffix(".csv").open(encoding="utf-8", newline="") as stream:
                names = [row["name"] for row in csv.DictReader(stream)]
            if len(names) != len(vectors):
                raise WeightsError(f"{file}: has {len(vectors)} vectors, but its table {len(names)} names.")
            index.names += names
            parts.append(vectors)
            made_of = (beside / (metadata.get(FOLDER) or "..")).resolve()
            index.picture_folders += [made_of] if made_of.is_relative_to(beside) else []
        index.vectors = np.concatenate(parts)
        index.picture_folders = folders or index.picture_folders
        index._saved = (folder.resolve(), len(index))
        return index


def index_weights(folder: str | os.PathLike) -> str:
    """The name of the weight set that made an index.

    Raises:
        WeightsError: if there is no index, or its model had no published weights.
    """
    first = Path(folder) / "0000.safetensors"
    if not is_lance(folder) and not first.is_file():
        raise WeightsError(f"{folder}: holds no index. Make one by ImageIndex.save or 'convnext-keras index'.")
    weights = (lance_metadata(folder) if is_lance(folder) else read_vectors(first)[1]).get("weights", "")
    if not weights:
        raise WeightsError(
            f"{folder}: was made by a model without published weights; name the model: ImageIndex.open(path, model)."
        )
    return weights
