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
REFINE_FACTOR = 4  # times as many rows as are wanted, whose exact cosines are taken in the end
# In the metadata of the column of vectors: how many partitions a search looks into, how many rows it looks at exactly
# for each that is wanted, and the type of the vectors in the partitions.
NPROBES_KEY, REFINE_KEY, QUANTIZATION_KEY = "probes", "refine", "quantization"
QUANTIZATIONS = ("int8", "binary")


class VectorIndexStats(NamedTuple):
    """Facts about a vector index.

    Attributes:
        rows: Rows that it covers.
        partitions: Partitions that it has.
        probes: Partitions that a search looks into.
        refine_factor: Rows for each one that is wanted, whose exact cosines are taken in the end.
        recall: Part 0..1 of the ten nearest that a search finds, measured on vectors beside those of the table.
    """

    rows: int
    partitions: int
    probes: int
    refine_factor: int
    recall: float


def create_partitions(table: Any, rows: int, quantization: str) -> None:
    """Trains one partition per square root of the number of rows, of vectors with 8 bits or 1 bit per value."""
    from lancedb.index import IvfRq, IvfSq

    kind = IvfRq if quantization == "binary" else IvfSq  # RabitQ, arXiv:2405.12497, or scalar quantization
    table.create_index("vector", config=kind(distance_type="dot", num_partitions=round(rows**0.5)))


def get_search_options(table: Any) -> tuple[int, int]:
    """Returns the number of partitions that a search probes, 0 if none was chosen, and the factor of refinement."""
    chosen = table.schema.field("vector").metadata or {}
    return int(chosen.get(NPROBES_KEY.encode(), b"0")), int(chosen.get(REFINE_KEY.encode(), REFINE_FACTOR))


def get_quantization(table: Any) -> str:
    """Returns the type of the vectors in the partitions, as it was chosen for the table."""
    return (table.schema.field("vector").metadata or {}).get(QUANTIZATION_KEY.encode(), b"int8").decode()


def tune_nprobes(
    table: Any,
    partitions: int,
    search: Callable[[np.ndarray, int, int], Collection[str]],
    recall: float = DEFAULT_RECALL,
    quantization: str = "int8",
) -> VectorIndexStats:
    """Chooses the factor of refinement and the minimum number of partitions for a recall; stores them in the table.

    Args:
        table: Table of Lance.
        partitions: Partitions that it has.
        search: A vector, a number of partitions and a factor of refinement to the names that are found.
        recall: Part 0..1 of the nearest that is to be found.
        quantization: Type of the vectors in the partitions.

    Raises:
        ValueError: If `recall` is not valid.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1. Received: recall={recall}")
    rows = table.count_rows()
    sample = table.take_offsets([*range(0, rows, max(1, rows // SAMPLE_SIZE))]).select(["vector"]).to_arrow()
    queries = perturb(to_matrix(sample.column("vector").combine_chunks().drop_null()))
    exact, probes, refine = exact_neighbors(table, queries), 1, REFINE_FACTOR

    def measure(probes: int, refine: int) -> float:
        found = [{*search(query, probes, refine)} for query in queries]
        return float(np.mean([len(one & best) / len(best) for one, best in zip(found, exact, strict=True)]))

    # One bit a value orders the nearest roughly: as many rows are looked at again as the recall needs.
    while quantization == "binary" and refine * RECALL_K < rows and measure(partitions, refine) < recall:
        refine *= 2
    while (measured := measure(probes, refine)) < recall and probes < partitions:
        probes = min(partitions, math.ceil(probes * 1.5))
    chosen = {NPROBES_KEY: str(probes), REFINE_KEY: str(refine), QUANTIZATION_KEY: quantization}
    table.update_field_metadata({"path": "vector", "metadata": chosen})
    return VectorIndexStats(rows, partitions, probes, refine, measured)


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
