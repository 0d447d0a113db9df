"""Tasks of a job: embeddings, classes or labels of each image, as rows of an Arrow table."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.clip import DualEncoder, ZeroShotClassifier
from convnext_keras.data.loader import iter_batches
from convnext_keras.distributed.sharding import Item, Shard
from convnext_keras.files import atomic_path
from convnext_keras.inference import softmax
from convnext_keras.predictors import Classifier, load_predictor
from convnext_keras.problem_types import SINGLE_LABEL, select_labels
from convnext_keras.retrieval.vector_types import quantize, vector_width


@dataclasses.dataclass(frozen=True)
class Task:
    """Serializable description of the work per image.

    Attributes:
        kind: `"embed"`, `"classify"` or `"zero_shot"`.
        weights: The model's name, see `load_predictor`; other machines must find the same under it.
        batch_size: Maximum number of images at a time.
        dtype: Type of vectors, one of `VECTOR_TYPES`.
        quantization: Type of the vectors in the index of a table of Lance, see `LanceIndex`.
        top_k: Maximum number of classes or labels per image; None for the default of `select_labels`.
        labels: Labels of `zero_shot`.
        templates: Templates of `zero_shot`.
        runtime: See `load_predictor`.
        exif_transpose: Whether images are rotated as their EXIF orientation says.
    """

    kind: str
    weights: str
    batch_size: int = 32
    dtype: str = "float32"
    quantization: str | None = None
    top_k: int | None = None
    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    runtime: str | None = None
    exif_transpose: bool = True


class ShardResult(NamedTuple):
    """Result of one shard.

    Attributes:
        images: Number of images in the shard.
        errors: Number of images that could not be read.
        table: The rows, as an Arrow table; None if they are written.
    """

    images: int
    errors: int
    table: Any = None


class Worker:
    """Model that processes the shards of a task.

    Raises:
        ValueError: If there is no such model, or it is of another kind.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        model = load_predictor(task.weights, task.runtime)
        if not isinstance(model, Classifier if task.kind == "classify" else DualEncoder):
            kind = "classifier" if task.kind == "classify" else "ConvNeXt-CLIP"
            raise ValueError(f"{task.kind} takes a {kind}; {task.weights} is none.")
        self.model: Classifier | DualEncoder = model
        if isinstance(self.model, DualEncoder) and task.kind == "zero_shot":
            self.zero_shot = ZeroShotClassifier(self.model, task.labels, task.templates)

    def fingerprint(self) -> str:
        """Returns an identifier of the model's weights, see `DualEncoder`; of a classifier, its SHA-256 or name."""
        if isinstance(self.model, DualEncoder):
            return self.model.fingerprint()
        known = self.model.pretrained_info
        return (known and known.sha256) or self.model.name

    def __call__(self, shard: Shard, folder: Path | None = None) -> ShardResult:
        """Does a shard, and writes its rows into a folder if there is one."""
        table = self.rows(shard)
        counts = len(table), len(table) - table.column("error").null_count
        if folder is None:
            return ShardResult(*counts, table)
        write_part(folder, shard, table)
        return ShardResult(*counts)

    def rows(self, shard: Shard) -> Any:
        """Returns an Arrow table with a row for each image of a shard, in order.

        Its columns are `key`; those of the list that the images come from; the task's own, null for an image that
        could not be read; and `error`, which says why, and else is null.
        """
        import pyarrow

        rows: dict[int, Any] = {}
        errors: dict[int, str] = {}
        keys: list[str] = []

        def numbered() -> Iterator[tuple[int, Item]]:
            for number, item in enumerate(shard.items()):
                keys.append(item.key)
                yield number, item

        def failed(item: tuple[int, Item], error: ValueError) -> None:
            errors[item[0]] = str(error)

        for numbers, results in self._results(numbered(), failed):
            rows |= dict(zip(numbers, results, strict=True))
        order = range(len(keys))
        own = self._columns([rows.get(number) for number in order])
        listed = (
            {} if shard.columns is None else dict(zip(shard.columns.column_names, shard.columns.columns, strict=True))
        )
        if taken := sorted(listed.keys() & {"key", "error", *own}):
            raise ValueError(f"The list of images has the column {taken[0]!r}, which the result has too. Rename it.")
        errors_column = pyarrow.array([errors.get(number) for number in order], pyarrow.string())
        return pyarrow.table({"key": pyarrow.array(keys, pyarrow.string()), **listed, **own, "error": errors_column})

    def _results(self, items: Iterable[tuple[int, Item]], failed: Any) -> Iterator[tuple[list[int], Any]]:
        """Returns numbers of images, and what the model gives for each: a vector, or scores."""
        size = self.task.batch_size
        transform = self.model.transform._replace(exif_transpose=self.task.exif_transpose)
        decode = lambda item: transform(item[1].source(), item[1].key)  # noqa: E731
        for batch, pixels in iter_batches(items, decode, size, failed):
            yield [number for number, _ in batch], self.model.encode_pixels(pixels, size)

    def _columns(self, results: list[np.ndarray | None]) -> dict[str, Any]:
        if self.task.kind == "embed":
            return {"vector": vectors_column(results, self.model.embed_dim, self.task.dtype)}
        if isinstance(self.model, Classifier):
            names, model = [name for _, name in self.model.classes], self.model
            best = [
                row if row is None else select_labels(row, model.problem_type, model.thresholds, self.task.top_k)
                for row in results
            ]
            return _ranked(best, names, {"scores": results})
        classifier = self.zero_shot
        cosines = [row if row is None else row @ classifier.classes.T for row in results]
        scores = [row if row is None else softmax(classifier.logit_scale * row) for row in cosines]
        best = [row if row is None else select_labels(row, SINGLE_LABEL, top_k=self.task.top_k) for row in scores]
        return _ranked(best, list(classifier.labels), {"scores": scores, "cosines": cosines})


def _ranked(best: list[np.ndarray | None], names: list[str], columns: dict[str, list]) -> dict[str, Any]:
    """Returns the names of the selected labels of each image, and their values in each of the columns."""
    import pyarrow

    labels = [order if order is None else [names[index] for index in order] for order in best]
    values = {
        key: pyarrow.array(
            [row if order is None else row[order].tolist() for row, order in zip(rows, best, strict=True)],
            pyarrow.list_(pyarrow.float32()),
        )
        for key, rows in columns.items()
    }
    return {"labels": pyarrow.array(labels, pyarrow.list_(pyarrow.string())), **values}


def vectors_column(vectors: list[np.ndarray | None], width: int, dtype: str) -> Any:
    """Returns vectors as a column of lists of one length, null where there is none."""
    import pyarrow

    filled = [np.zeros(width) if vector is None else vector for vector in vectors]
    flat = pyarrow.array(quantize(np.asarray(filled, "float32").reshape(-1, width), dtype).reshape(-1))
    mask = pyarrow.array([vector is None for vector in vectors], pyarrow.bool_())
    return pyarrow.FixedSizeListArray.from_arrays(flat, vector_width(width, dtype), mask=mask)


def write_part(folder: Path, shard: Shard, table: Any) -> None:
    """Writes the rows of a shard to a Parquet file, atomically."""
    import pyarrow.parquet

    with atomic_path(folder / part_name(shard)) as partial:
        pyarrow.parquet.write_table(table, partial)


def part_name(shard: Shard) -> str:
    """Returns the file name of a shard, such as `part-00007-1f0a9c3e.parquet`."""
    return f"part-{shard.number:05}-{shard.digest}.parquet"
