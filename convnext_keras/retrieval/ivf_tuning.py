"""The vectors of a table of LanceDB in partitions, of which a search looks into a few: split, measured, chosen."""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.inference import l2_normalize

MIN_ROWS = 1000  # rows, from which partitions can be learned
RECALL_K = 10  # that are looked for where recall is measured
DEFAULT_RECALL = 0.95
SAMPLE_SIZE = 100  # vectors, by which it is measured
NPROBES_KEY = "probes"  # in the metadata of the column of vectors: how many partitions a search looks into


class VectorIndexStats(NamedTuple):
    """Facts about a vector index.

    Attributes:
        rows: Rows that it covers.
        partitions: Partitions that it has.
        probes: Partitions that a search looks into.
        recall: Part 0..1 of the ten nearest that a search finds, measured on vectors beside those of the table.
    """

    rows: int
    partitions: int
    probes: int
    recall: float


def create_partitions(table: Any, rows: int) -> None:
    """Trains one partition per square root of the number of rows, and stores vectors with 8 bits per value."""
    from lancedb.index import IvfSq

    table.create_index("vector", config=IvfSq(distance_type="dot", num_partitions=round(rows**0.5)))


def get_nprobes(table: Any) -> int:
    """Returns the number of partitions that a search probes; 0 if none was chosen."""
    return int((table.schema.field("vector").metadata or {}).get(NPROBES_KEY.encode(), b"0"))


def tune_nprobes(
    table: Any, partitions: int, search: Callable[[np.ndarray, int], Collection[str]], recall: float = DEFAULT_RECALL
) -> VectorIndexStats:
    """Chooses the minimum number of partitions to probe for a recall, and stores it in the table.

    Args:
        table: Table of Lance.
        partitions: Partitions that it has.
        search: A vector and a number of partitions to the names that are found.
        recall: Part 0..1 of the nearest that is to be found.

    Raises:
        ValueError: If `recall` is not valid.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1. Received: recall={recall}")
    rows = table.count_rows()
    sample = table.take_offsets([*range(0, rows, max(1, rows // SAMPLE_SIZE))]).select(["vector"]).to_arrow()
    queries = perturb(to_matrix(sample.column("vector").combine_chunks().drop_null()))
    exact, probes = exact_neighbors(table, queries), 1
    while True:
        found = [{*search(query, probes)} for query in queries]
        measured = float(np.mean([len(one & best) / len(best) for one, best in zip(found, exact, strict=True)]))
        if measured >= recall or probes == partitions:
            break
        probes = min(partitions, math.ceil(probes * 1.5))
    table.update_field_metadata({"path": "vector", "metadata": {NPROBES_KEY: str(probes)}})
    return VectorIndexStats(rows, partitions, probes, measured)


def exact_neighbors(table: Any, queries: np.ndarray) -> list[set[str]]:
    """Returns names of the nearest of each query, in one pass over the table."""
    best = np.full((len(queries), 0), -np.inf, "float32")
    names = np.empty((len(queries), 0), object)
    for batch in table.search().select(["name", "vector"]).to_batches():
        kept = batch.filter(batch.column("vector").is_valid())
        cosines = np.concatenate([best, queries @ to_matrix(kept.column("vector")).T], axis=1)
        new = np.broadcast_to(np.array(kept.column("name").to_pylist(), object), (len(queries), len(kept)))
        order = np.argsort(-cosines, axis=1)[:, :RECALL_K]
        best = np.take_along_axis(cosines, order, axis=1)
        names = np.take_along_axis(np.concatenate([names, new], axis=1), order, axis=1)
    return [{*row} for row in names]


def to_matrix(column: Any) -> np.ndarray:
    """Returns a column of vectors without nulls as `(N, D)` float32."""
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype("float32", copy=False)


def perturb(vectors: np.ndarray) -> np.ndarray:
    """Adds random noise of half the norm, to simulate queries that are not in the table."""
    noise = np.random.default_rng(0).normal(size=vectors.shape)
    return l2_normalize(vectors + l2_normalize(noise) / 2).astype("float32")
