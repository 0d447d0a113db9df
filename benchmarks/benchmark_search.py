"""Search among a million vectors: NumPy, FAISS and LanceDB, at the same recall.

python benchmarks/benchmark_search.py            # one million vectors of 640; half an hour and 12 GB of disk
python benchmarks/benchmark_search.py --rows 100000 --engines numpy "numpy binary" "lance int8" "lance binary"

The vectors are made up: clusters within clusters, in 64 of the 640 dimensions, with noise in all of them, as embeddings
of images have; queries come from the same clusters and are not in the table. Each engine is a process of its own, so
that its memory can be measured.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from benchmark_report import machine

WIDTH, INNER, TOP = 640, 64, 10
QUERIES = 200
RECALLS = (0.95, 0.99)
ENGINES = ("numpy", "numpy binary", "faiss ivf", "faiss hnsw", "lance int8", "lance binary")
CANDIDATES = (40, 100, 200, 400, 1000, 2000)  # of a search by bits, whose exact cosines are taken


def vectors(rows: int, seed: int) -> np.ndarray:
    """Unit vectors `(rows, WIDTH)` float32."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    outer, inner = shared.normal(size=(200, INNER)), shared.normal(size=(5000, INNER))
    basis = shared.normal(size=(INNER, WIDTH)).astype("float32") / INNER**0.5
    result = np.empty((rows, WIDTH), "float32")
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        chosen = own.integers(5000, size=count)
        points = outer[chosen % 200] + 0.5 * inner[chosen] + own.normal(size=(count, INNER))
        part = points.astype("float32") @ basis + 0.15 * own.standard_normal((count, WIDTH), "float32")
        result[start : start + count] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return result


def recall(found: Iterable[Iterable[int]], exact: np.ndarray) -> float:
    return float(np.mean([len({*row} & {*best}) / TOP for row, best in zip(found, exact.tolist(), strict=True)]))


def timed(search: Callable[[np.ndarray], list[int]], queries: np.ndarray) -> tuple[list[list[int]], float]:
    """Answers, and the median milliseconds of one."""
    search(queries[0])
    found, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query))
        seconds.append(time.perf_counter() - start)
    return found, 1000 * float(np.median(seconds))


def exact_search(table: np.ndarray) -> Callable[[np.ndarray], list[int]]:
    def search(query: np.ndarray) -> list[int]:
        cosines = table @ query
        best = np.argpartition(-cosines, TOP)[:TOP]
        return best[np.argsort(-cosines[best])].tolist()

    return search


def engine_numpy(folder: Path, queries: np.ndarray) -> tuple[float, Iterable[tuple[str, Callable]]]:
    return 0.0, [("exact", exact_search(np.load(folder / "table.npy")))]


def engine_numpy_binary(folder: Path, queries: np.ndarray) -> tuple[float, Iterable[tuple[str, Callable]]]:
    """One bit a value in memory; the floats stay in their file, from which those of the candidates are read."""
    from convnext_keras.retrieval import quantize

    table = np.load(folder / "table.npy", mmap_mode="r")
    start = time.perf_counter()
    starts = range(0, len(table), 50_000)
    codes = np.concatenate([quantize(table[first : first + 50_000], "ubinary") for first in starts])
    codes = codes.view("uint64")
    built = time.perf_counter() - start

    def settings():
        for count in CANDIDATES:

            def search(query: np.ndarray, count: int = count) -> list[int]:
                wanted = quantize(query[None], "ubinary").view("uint64")
                distances = np.bitwise_count(codes ^ wanted).sum(axis=1, dtype="uint16")
                near = np.sort(np.argpartition(distances, count)[:count])
                cosines = table[near] @ query
                return near[np.argsort(-cosines)[:TOP]].tolist()

            yield f"{count} candidates", search

    return built, settings()


def engine_faiss(folder: Path, kind: str) -> tuple[float, Iterable[tuple[str, Callable]]]:
    import faiss

    table = np.load(folder / "table.npy", mmap_mode="r")
    lists = int(4 * len(table) ** 0.5)
    faiss.omp_set_num_threads(2)
    text = f"IVF{lists},SQ8" if kind == "ivf" else "HNSW32,SQ8"
    index = faiss.index_factory(WIDTH, text, faiss.METRIC_INNER_PRODUCT)
    start = time.perf_counter()
    index.train(table[: min(len(table), 40 * lists)])
    for first in range(0, len(table), 50_000):
        index.add(table[first : first + 50_000])
    built = time.perf_counter() - start
    name, values = (
        ("nprobe", (4, 8, 16, 32, 64, 128, 256)) if kind == "ivf" else ("efSearch", (16, 32, 64, 128, 256, 512))
    )

    def settings():
        space = faiss.ParameterSpace()
        for value in values:
            space.set_index_parameter(index, name, value)
            yield f"{name} {value}", lambda query: index.search(query[None], TOP)[1][0].tolist()

    return built, settings()


def engine_lance(folder: Path, quantization: str) -> tuple[float, Iterable[tuple[str, Callable]]]:
    import pyarrow

    from convnext_keras.retrieval import lance_index

    class Named(lance_index.DualEncoder):
        name = "made up"

        @property
        def embed_dim(self) -> int:
            return WIDTH

        def fingerprint(self) -> str:
            return "0" * 64

    table = np.load(folder / "table.npy", mmap_mode="r")
    path = folder / f"{quantization}.lance"
    index = lance_index.LanceIndex(path, Named(), quantization)
    start = time.perf_counter()
    for first in range(0, len(table), 50_000):
        part = np.ascontiguousarray(table[first : first + 50_000])
        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.ravel()), WIDTH)
        names = [str(number) for number in range(first, first + len(part))]
        batch = pyarrow.RecordBatch.from_pydict({"name": names, "vector": column})
        index.append([batch])
    print(f"lance: appended in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    start = time.perf_counter()

    index.build_vector_index(RECALLS[0])
    built = time.perf_counter() - start

    def settings():
        for wanted in (*RECALLS, 0.995):
            tuned = index.tune_nprobes(wanted)
            print(f"lance: {tuned}", file=sys.stderr, flush=True)
            yield (
                f"{tuned.probes} of {tuned.partitions} partitions, {tuned.refine_factor * TOP} candidates",
                lambda query: [int(hit.name) for hit in index.search_by_vector(query, TOP)],
            )

    return built, settings()


def measured(engine: str, folder: Path) -> dict:
    """Seconds to build, and the first setting that reaches each recall."""
    queries, exact = np.load(folder / "queries.npy"), np.load(folder / "exact.npy")
    program, _, kind = engine.partition(" ")
    if program == "numpy":
        built, settings = (engine_numpy_binary if kind else engine_numpy)(folder, queries)
    else:
        built, settings = {"faiss": engine_faiss, "lance": engine_lance}[program](folder, kind)
    rows, wanted = [], list(RECALLS)
    for name, search in settings:
        found, milliseconds = timed(search, queries)
        reached = recall(found, exact)
        print(engine, name, f"recall {reached:.3f}, {milliseconds:.1f} ms", file=sys.stderr, flush=True)
        while wanted and reached >= wanted[0]:
            rows.append({"wanted": wanted.pop(0), "setting": name, "recall": reached, "ms": milliseconds})
    memory = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    indices = [*folder.glob(f"{kind}.lance/**/_indices/**/*")] if program == "lance" else []
    size = sum(file.stat().st_size for file in indices if file.is_file()) / 2**20
    return {"engine": engine, "built": built, "rows": rows, "MB": memory, "index": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measured(options.engines[0], options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table, queries = vectors(options.rows, 1), vectors(QUERIES, 2)
        np.save(folder / "table.npy", table)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "exact.npy", np.array([exact_search(table)(query) for query in queries]))
        del table
        print(
            f"{machine()}\n\n{options.rows:,} vectors of {WIDTH}, {QUERIES} queries one after another, {TOP} nearest.\n"
        )
        print("|  | built in s | recall wanted | setting | recall | ms (median) | MB at most | MB of index files |")
        print("|---|---:|---:|---|---:|---:|---:|---:|")
        for engine in options.engines:
            command = [sys.executable, __file__, "--in", name, "--engines", engine]
            result = json.loads(subprocess.check_output(command, text=True))
            for row in result["rows"]:
                values = f"{row['wanted']} | {row['setting']} | {row['recall']:.3f} | {row['ms']:.1f}"
                size = f"{result['index']:.0f}" if result["index"] else ""
                print(f"| {engine} | {result['built']:.0f} | {values} | {result['MB']:.0f} | {size} |", flush=True)


if __name__ == "__main__":
    main()
