"""Image index in LanceDB: for many images, frequent changes, and filters by columns.

LanceDB (https://github.com/lancedb/lancedb) keeps a table as files in a folder: every change is a new atomic version,
and readers keep the version that they opened.
"""

import datetime
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext_keras.checkpoints import WeightsError
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.data.images import ImageSource
from convnext_keras.retrieval.index import (
    ImageIndex,
    SearchResult,
    check_distinct,
    common_root,
    find_image_root,
    parent,
    validate_image_root,
)
from convnext_keras.retrieval.ivf_tuning import (
    DEFAULT_RECALL,
    MIN_ROWS,
    QUANTIZATIONS,
    RECALL_K,
    VectorIndexStats,
    create_partitions,
    get_quantization,
    get_search_options,
    tune_nprobes,
)
from convnext_keras.retrieval.vector_files import model_metadata
from convnext_keras.validation import format_choices

SUFFIX = ".lance"
BUILD_THRESHOLD = 50_000  # rows from which a search is through an index of the vectors; below, all are looked at
REBUILD_FRACTION = 0.2  # part of rows that may lie outside that index, where a search is exact, before it is built on


def is_lance_path(path: str | os.PathLike) -> bool:
    """Returns whether a path is of an index in Lance."""
    return Path(path).suffix == SUFFIX


def read_lance_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Reads the metadata of the model that built an index in LanceDB.

    Raises:
        WeightsError: If there is none.
    """
    table = _open_table(Path(path))
    if table is None:
        raise WeightsError(f"{path}: holds no index. Make one by LanceIndex or 'convnext-keras index'.")
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


class LanceIndex(ImageIndex):
    """Image index in a LanceDB table, with columns to filter by and an approximate vector index.

    What is added or deleted is there for everyone at once, also for other processes that search meanwhile. From
    `BUILD_THRESHOLD` images on, `build_vector_index` makes an index of the vectors, so that a search looks at a part
    of them.

    Args:
        path: Path of the table, a folder that ends in `.lance`; made by the first `add`.
        model: The ConvNeXt-CLIP that makes the vectors.
        quantization: Type of the vectors in the index of the vectors, `"int8"` or `"binary"` (an eighth of the bytes);
            the exact cosines of what it finds are taken from the table's floats. None for the table's own, or
            `"int8"`.

    Attributes:
        image_roots: Image roots below which `image` gives files out: of what was added by this object.

    Raises:
        ValueError: If the path ends otherwise, `quantization` is not valid, or LanceDB is missing.
        WeightsError: If the table was made by another model.

    Example:
        >>> from convnext_keras import clip, retrieval
        >>> index = retrieval.LanceIndex("images.lance", clip.create_model("convnext_mini.shapes"))
        >>> images = [np.full((64, 64, 3), gray, "uint8") for gray in (0, 255)]
        >>> index.add(images, names=["black", "white"], columns={"year": [2020, 2024]})
        2
        >>> [hit.name for hit in index.search("a white background", where="year < 2022")]
        ['black']
    """

    def __init__(self, path: str | os.PathLike, model: DualEncoder, quantization: str | None = None) -> None:
        super().__init__(model)
        self.path = Path(path)
        if quantization not in (None, *QUANTIZATIONS):
            choices = format_choices(QUANTIZATIONS)
            raise ValueError(f"quantization must be {choices}. Received: quantization={quantization!r}")
        if not is_lance_path(path):
            raise ValueError(f"The path of an index in Lance must end in {SUFFIX}. Received: {path}")
        self.table = _open_table(self.path)
        self._folder = (-1, "")
        self.quantization = quantization or (get_quantization(self.table) if self.table is not None else "int8")
        if self.table is not None and read_lance_metadata(path).get("model") != model.fingerprint():
            raise WeightsError(f"{path}: was made by another model than {model.name!r}. Index the images anew.")

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: DualEncoder, image_root: str | os.PathLike | None = None
    ) -> "LanceIndex":
        """Returns the index at a path, which must be there; see `open_index`."""
        folders = validate_image_root(image_root)
        read_lance_metadata(path)
        index = cls(path, model)
        index.image_roots = folders
        index.moved = [(Path(index.folder), folder) for folder in folders if index.folder]
        return index

    def __len__(self) -> int:
        return 0 if self.table is None else self.table.count_rows()

    @property
    def columns(self) -> list[str]:
        """Returns names of the columns to filter by."""
        return [] if self.table is None else [name for name in self.table.schema.names if name != "vector"]

    def add(
        self,
        images: str | os.PathLike | Iterable[ImageSource],
        names: Iterable[str] | None = None,
        batch_size: int = 32,
        on_error: str = "raise",
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> int:
        """Adds images, all or none of them, without rewriting what is there.

        Args:
            images: See `InMemoryIndex.add`.
            names: See `InMemoryIndex.add`; those that are there already are replaced.
            batch_size: Maximum number of images at a time.
            on_error: See `InMemoryIndex.add`.
            columns: More to know of each image, by the names of columns that `where` can name.

        Returns:
            How many were added or replaced.

        Raises:
            ValueError: If an image cannot be read, names or columns do not fit, or the table has other columns.
        """
        embedded = self.iter_embedded(images, names, batch_size, on_error, columns)
        added = [_to_record_batch(*part) for part in embedded]
        if not added:
            return 0
        new = [name for batch in added for name in batch.column("name").to_pylist()]
        check_distinct(new)
        if len(self.filter_new(new)) == len(new):
            self.append(added)
        else:
            table: Any = self.table
            replace = table.merge_insert("name").when_matched_update_all().when_not_matched_insert_all()
            replace.execute(self._table_of(added))
        self.maybe_build_index()
        if folder := find_image_root(new):
            self.image_roots.append(folder)
        return len(new)

    def append(self, batches: Sequence[Any]) -> None:
        """Adds record batches of Arrow as one version, whatever names are there.

        Args:
            batches: Batches with the columns `name`, `vector` (unit vectors; null to find it never), and those of the
                table.

        Raises:
            ValueError: If the table has other columns.
        """
        data = self._table_of(batches)
        if self.table is None:
            self.table = _connect(self.path).create_table(self.path.stem, data, on_bad_vectors="null")
        else:
            self.table.add(data, on_bad_vectors="null")

    def _table_of(self, batches: Sequence[Any]) -> Any:
        """Returns record batches as a table with the columns of this one."""
        import pyarrow

        data = pyarrow.Table.from_batches(batches).replace_schema_metadata(model_metadata(self.model))
        if self.table is not None and {*data.schema.names} != {*self.table.schema.names}:
            raise ValueError(f"{self.path}: has the columns {self.columns}. Received: {data.schema.names}")
        return data

    def maybe_build_index(self) -> None:
        """Builds a vector index if enough rows are not indexed, or it holds vectors of another type."""
        if self.table is None or len(self) < BUILD_THRESHOLD:
            return
        if self.num_unindexed() > REBUILD_FRACTION * len(self) or get_quantization(self.table) != self.quantization:
            self.build_vector_index()

    def delete(self, names: Iterable[str]) -> int:
        """Takes images out by their names; those that are not there do no harm. Returns how many were."""
        before = len(self)
        if self.table is not None and (quoted := ["'" + name.replace("'", "''") + "'" for name in names]):
            self.table.delete(f"name IN ({', '.join(quoted)})")
        return before - len(self)

    def num_unindexed(self) -> int:
        """Returns the number of images that are searched exactly because the vector index does not contain them."""
        if self.table is None or "vector_idx" not in [index.name for index in self.table.list_indices()]:
            return len(self)
        return self.table.index_stats("vector_idx").num_unindexed_rows

    def build_vector_index(self, recall: float = DEFAULT_RECALL) -> VectorIndexStats:
        """Builds an approximate vector index and tunes it.

        Args:
            recall: See `tune_nprobes`.

        Raises:
            ValueError: If there are too few images, or `recall` is not valid.
        """
        if self.table is None or len(self) < MIN_ROWS:
            raise ValueError(f"An index of vectors is of {MIN_ROWS:,} images or more. {self.path} has {len(self)}.")
        create_partitions(self.table, len(self), self.quantization)
        return self._tune(recall, self.quantization)

    def tune_nprobes(self, recall: float = DEFAULT_RECALL) -> VectorIndexStats:
        """Chooses the minimum number of partitions to probe for a recall, and stores it in the table.

        Args:
            recall: Part 0..1 of the ten nearest that a search is to find, measured on vectors beside those of the
                table.

        Raises:
            ValueError: If no index was built, or `recall` is not valid.
        """
        if self.table is None or self.num_unindexed() == len(self):
            raise ValueError(f"No index of the vectors in {self.path} was built.")
        return self._tune(recall, get_quantization(self.table))

    def _tune(self, recall: float, quantization: str) -> VectorIndexStats:
        partitions = round((len(self) - self.num_unindexed()) ** 0.5)

        def found(vector: np.ndarray, probes: int, refine: int) -> list[str]:
            return self._found(vector, RECALL_K, None, probes, refine)[0]

        return tune_nprobes(self.table, partitions, found, recall, quantization)

    def search_by_vector(self, vector: np.ndarray, top_k: int = 10, where: str | None = None) -> list[SearchResult]:
        vector = self.check_search(vector, top_k)
        table: Any = self.table
        found = self._found(vector, top_k, where, *get_search_options(table))
        return [SearchResult(name, 1 - distance, index) for name, distance, index in zip(*found, strict=True)]

    def _found(
        self, vector: np.ndarray, top_k: int, where: str | None, probes: int, refine: int
    ) -> tuple[list, list, list]:
        """Names, distances and row numbers; by all vectors if no partitions are to be probed."""
        table: Any = self.table
        query = table.search(np.asarray(vector, "float32"), vector_column_name="vector").distance_type("dot")
        query = query.nprobes(probes).refine_factor(refine) if probes else query.bypass_vector_index()
        if where is not None:
            query = query.where(where)
        try:
            found = query.select(["name", "_distance"]).with_row_id(True).limit(top_k).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            if where is None:
                raise
            message = str(error).splitlines()[0]
            columns = ", ".join(self.columns)
            raise ValueError(f"where={where!r} cannot be used: {message}. The columns are {columns}.") from error
        return tuple(found.column(name).to_pylist() for name in ("name", "_distance", "_rowid"))  # pyright: ignore

    def get_name(self, position: int) -> str:
        table: Any = self.table
        names = table.take_row_ids([position]).select(["name"]).to_arrow().column("name").to_pylist()
        if not names:
            raise ValueError(f"There is no image with the row number {position}.")
        return names[0]

    def filter_new(self, names: Iterable[str]) -> list[str]:
        names = [*names]
        wanted, known = {*names}, set()
        for batch in self._names():
            known |= wanted.intersection(batch)
        return [name for name in names if name not in known]

    @property
    def folder(self) -> str:
        version = -1 if self.table is None else self.table.version
        if self._folder[0] != version:
            self._folder = version, common_root(parent(name) for batch in self._names() for name in batch)
        return self._folder[1]

    def _names(self) -> Iterator[list[str]]:
        batches = () if self.table is None else self.table.search().select(["name"]).to_batches()
        return (batch.column("name").to_pylist() for batch in batches)


def _connect(path: Path) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise ValueError('An index in Lance needs LanceDB: pip install "convnext-keras[index]"') from error
    # Readers see what others have written since, at every search.
    return lancedb.connect(path.parent, read_consistency_interval=datetime.timedelta(0))


def _open_table(path: Path) -> Any:
    """Returns the table at a path, None if there is none."""
    database = _connect(path)
    if not path.is_dir():
        return None
    try:
        return database.open_table(path.stem)
    except (ValueError, RuntimeError, OSError) as error:
        raise WeightsError(f"{path}: is broken or not a table of Lance: {error}") from error


def _to_record_batch(names: list[str], vectors: np.ndarray, columns: dict[str, list]) -> Any:
    import pyarrow

    flat = pyarrow.array(np.ascontiguousarray(vectors, "float32").ravel())
    vector = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pyarrow.RecordBatch.from_pydict({"name": names, "vector": vector, **columns})
