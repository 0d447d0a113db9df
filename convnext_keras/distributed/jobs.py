"""Any number of images through a model, in this process or on a cluster of Ray, in runs that can be interrupted."""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from convnext_keras.clip import DualEncoder
from convnext_keras.clip.zero_shot import DEFAULT_TEMPLATE, validate_labels, validate_templates
from convnext_keras.data.item_names import printable
from convnext_keras.distributed.outputs import Output, open_output
from convnext_keras.distributed.ray_cluster import ActorPool
from convnext_keras.distributed.sharding import Shard, make_shards
from convnext_keras.distributed.tasks import ShardResult, Task, Worker
from convnext_keras.retrieval.ivf_tuning import QUANTIZATIONS
from convnext_keras.retrieval.lance_index import is_lance_path
from convnext_keras.retrieval.vector_types import FLOAT_TYPES, VECTOR_TYPES, check_vector_type
from convnext_keras.validation import format_choices

CLUSTERS = (None, "ray")
ShardRunner = Callable[[Iterable[Shard], Path | None], Iterator[tuple[Shard, ShardResult]]]
DEFAULT_SHARD_SIZE = 1024  # images; two or three MB of vectors


class JobOptions(NamedTuple):
    """Options of a job: where and how it runs."""

    cluster: str | None
    address: str | None
    devices: str
    shard_size: int
    column: str
    retry_errors: bool
    verbose: bool


class JobSummary(NamedTuple):
    """Result of a job.

    Attributes:
        images: Images that were done by this run.
        errors: Number of of them could not be read; their rows say why.
        shards: Shards that were written by this run.
        skipped: Shards that an earlier run had written.
        seconds: Seconds that it took.
    """

    images: int
    errors: int
    shards: int
    skipped: int
    seconds: float


def embed(
    weights: str,
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    dtype: str = "float32",
    batch_size: int = 32,
    runtime: str | None = None,
    cluster: str | None = None,
    address: str | None = None,
    devices: str = "",
    shard_size: int = DEFAULT_SHARD_SIZE,
    column: str = "",
    exif_transpose: bool = True,
    retry_errors: bool = False,
    verbose: bool = False,
) -> JobSummary:
    """Computes the embeddings of any number of images, to Parquet files or a LanceDB table.

    The output has one row an image: `key`, its path or address (`name` in Lance); the columns of the list that it
    comes from; `vector`; and `error`, which is null, or says why there is no vector. Called again with the same
    arguments after an interruption, it goes on: what is written is not done again. Images that are new since then
    become shards of their own.

    Args:
        weights: A ConvNeXt-CLIP by its name, see `clip.create_model`, or as `export` wrote it.
        inputs: See `make_shards`.
        output: Directory for Parquet files, one per shard; or a path with the suffix `.lance`, see
            `retrieval.LanceIndex`. With several machines, in a file system that they share.
        dtype: Type of vectors, see `retrieval.quantize`: `"float32"`, `"float16"`, `"int8"`, `"uint8"`, `"binary"` or
            `"ubinary"`. A table of Lance keeps floats, for exact cosines; `"int8"` and `"binary"` are of its index of
            the vectors then.
        batch_size: Maximum number of images at a time.
        runtime: `"openvino"` or `"onnx"`, to run the model without Keras' backend; see
            `export.get_or_export_clip`.
        cluster: None for this process, or `"ray"`.
        address: Address of a cluster of Ray that runs, such as `"auto"` or `"ray://head:10001"`; None to start one
            here.
        devices: Devices of a cluster: `"gpu"` or `"cpu"`, or such as `"gpu:4"`, for how many models there are; each has
            a GPU, or an equal part of the processors. By default one for each GPU, or for each four processors.
        shard_size: Images of a shard; an archive is one.
        column: Column of a list that has the paths, addresses or images; see `make_shards`.
        exif_transpose: Whether images are rotated as their EXIF orientation says; see `open_image`.
        retry_errors: Whether shards with images that could not be read are done again.
        verbose: Whether to show progress, with images per second and the remaining time.

    Raises:
        ValueError: If an argument is not valid, an input is not there, another run writes to the output, or it was
            begun with other inputs or settings.
        ConnectionError: If there is no cluster at the address.
        RuntimeError: If a shard cannot be done; the shards before it are kept.

    Example:
        >>> from convnext_keras import distributed
        >>> distributed.embed("convnext_mini.shapes", "weights/shapes_held_out.png", "vectors").images
        1
        >>> import pyarrow.parquet
        >>> pyarrow.parquet.read_table("vectors").column("vector").type
        FixedSizeListType(fixed_size_list<element: float>[96])
    """
    known = (*FLOAT_TYPES, *QUANTIZATIONS) if is_lance_path(output) else VECTOR_TYPES
    check_vector_type(dtype, known)
    quantization = dtype if is_lance_path(output) and dtype in QUANTIZATIONS else None
    stored: dict[str, Any] = {"dtype": "float32" if quantization else dtype, "quantization": quantization}
    task = Task("embed", weights, batch_size, runtime=runtime, exif_transpose=exif_transpose, **stored)
    options = JobOptions(cluster, address, devices, shard_size, column, retry_errors, verbose)
    return _run(task, inputs, output, options)


def classify(
    weights: str,
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    top_k: int | None = None,
    batch_size: int = 32,
    cluster: str | None = None,
    address: str | None = None,
    devices: str = "",
    shard_size: int = DEFAULT_SHARD_SIZE,
    column: str = "",
    exif_transpose: bool = True,
    retry_errors: bool = False,
    verbose: bool = False,
) -> JobSummary:
    """Writes the classes of any number of images into Parquet files.

    The rows are those of `embed` with `labels`, the names of the best classes, and `scores`, their probabilities 0..1.
    A multi-label classifier gives the labels above its thresholds, and a regression the values of all outputs.

    Args:
        weights: A classifier by its name, a file or folder of one, or an exported one.
        inputs: See `embed`.
        output: A folder.
        top_k: Maximum number of classes per image; None for 5, or for all above the thresholds.
        batch_size: See `embed`.
        cluster: See `embed`.
        address: See `embed`.
        devices: See `embed`.
        shard_size: See `embed`.
        column: See `embed`.
        exif_transpose: See `embed`.
        retry_errors: See `embed`.
        verbose: See `embed`.

    Raises:
        ValueError: See `embed`.
        ConnectionError: See `embed`.
        RuntimeError: See `embed`.

    Example:
        >>> from convnext_keras import distributed
        >>> distributed.classify("convnext_mini.digits", "weights/digits_held_out.png", "digits").errors
        0
    """
    task = Task("classify", weights, batch_size, top_k=_validate_top_k(top_k), exif_transpose=exif_transpose)
    options = JobOptions(cluster, address, devices, shard_size, column, retry_errors, verbose)
    return _run(task, inputs, output, options)


def zero_shot(
    weights: str,
    labels: Sequence[str],
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    top_k: int = 5,
    batch_size: int = 32,
    runtime: str | None = None,
    cluster: str | None = None,
    address: str | None = None,
    devices: str = "",
    shard_size: int = DEFAULT_SHARD_SIZE,
    column: str = "",
    exif_transpose: bool = True,
    retry_errors: bool = False,
    verbose: bool = False,
) -> JobSummary:
    """Classifies any number of images with text labels, to Parquet files.

    The rows are those of `embed` with `labels`, the best ones, `scores`, their probabilities, and `cosines`.

    Args:
        weights: See `embed`.
        labels: See `clip.ZeroShotClassifier`.
        inputs: See `embed`.
        output: A folder.
        templates: See `clip.ZeroShotClassifier`.
        top_k: Number of labels of each image.
        batch_size: See `embed`.
        runtime: See `embed`.
        cluster: See `embed`.
        address: See `embed`.
        devices: See `embed`.
        shard_size: See `embed`.
        column: See `embed`.
        exif_transpose: See `embed`.
        retry_errors: See `embed`.
        verbose: See `embed`.

    Raises:
        ValueError: See `embed`.
        ConnectionError: See `embed`.
        RuntimeError: See `embed`.

    Example:
        >>> from convnext_keras import distributed
        >>> labels = ["a red circle", "a blue star"]
        >>> distributed.zero_shot("convnext_mini.shapes", labels, "weights/shapes_held_out.png", "shapes").images
        1
    """
    words: dict[str, Any] = {"labels": validate_labels(labels), "templates": validate_templates(templates)}
    words |= {"runtime": runtime, "exif_transpose": exif_transpose}
    task = Task("zero_shot", weights, batch_size, top_k=_validate_top_k(top_k), **words)
    options = JobOptions(cluster, address, devices, shard_size, column, retry_errors, verbose)
    return _run(task, inputs, output, options)


def _validate_top_k(top_k: int | None) -> int | None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more. Received: top_k={top_k}")
    return top_k


def _run(
    task: Task, inputs: str | os.PathLike | Sequence[str | os.PathLike], output: str | os.PathLike, options: JobOptions
) -> JobSummary:
    """Does what is left of a job."""
    cluster, shard_size = options.cluster, options.shard_size
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster must be {format_choices(CLUSTERS)}. Received: cluster={cluster!r}")
    for name, value in (("batch_size", task.batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more. Received: {name}={value}")
    if (options.address or options.devices) and cluster != "ray":
        raise ValueError("address and devices are of a cluster. Say cluster='ray' too.")
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError('A job writes files of Parquet: pip install "convnext-keras[parquet]"')
    single = isinstance(inputs, str | os.PathLike)
    names = [os.fsdecode(os.fspath(name)) for name in ([inputs] if single else inputs)]
    shards = [*make_shards(names, shard_size, options.column)]  # Before anything is fetched.
    start = time.monotonic()
    with _workers(task, cluster, options.address, options.devices) as (work, description, model):
        settings = {**dataclasses.asdict(task), "labels": [*task.labels], "templates": [*task.templates], **description}
        with open_output(Path(output), settings, model) as written:
            left = _remaining_shards(shards, written, options)
            images, errors = _run_shards(work, left, written, options.verbose)
            written.finish()
    return JobSummary(images, errors, len(left), len(shards) - len(left), time.monotonic() - start)


def _remaining_shards(shards: list[Shard], output: Output, options: JobOptions) -> list[Shard]:
    """Returns the shards that are to be done; images that are new since an earlier run become shards of their own."""
    done = output.done
    if all(done.get(shard.number) in (None, shard.digest) for shard in shards):
        again = output.failed_shards() if options.retry_errors else ()
        return [shard for shard in shards if shard.number not in done or shard.number in again]
    if options.retry_errors:
        raise ValueError(f"{output.path} has other images than the inputs. Retry errors with the inputs as they were.")
    known, numbers, alone, left = output.names(), itertools.count(max(done) + 1), [], []
    for shard in shards:
        indices = [index for index, name in enumerate(shard.names) if printable(name) not in known]
        if indices and (shard.is_archive or shard.columns is not None):
            left.append(shard.select(indices, next(numbers)))
        else:
            alone += [shard.names[index] for index in indices]
    size = options.shard_size
    starts = range(0, len(alone), size)
    return [*left, *(Shard(next(numbers), tuple(alone[start : start + size])) for start in starts)]


@contextlib.contextmanager
def _workers(
    task: Task, cluster: str | None, address: str | None, devices: str
) -> Iterator[tuple[ShardRunner, dict[str, str], DualEncoder | None]]:
    """Yields the workers: a function over shards, a description of the model, and the model for its vectors."""
    if cluster is None:
        worker = Worker(task)
        model = worker.model if isinstance(worker.model, DualEncoder) and task.kind == "embed" else None
        yield (
            lambda shards, folder: ((shard, worker(shard, folder)) for shard in shards),
            {"model": worker.fingerprint()},
            model,
        )
        return
    with ActorPool(task, address, devices) as actors:
        yield actors.map, {"model": actors.card["model"]}, actors.embedder()


def _run_shards(work: ShardRunner, shards: list[Shard], output: Output, verbose: bool) -> tuple[int, int]:
    """Does shards and writes them; gives the number of images, and of those that could not be read."""
    images = errors = 0
    start = time.monotonic()
    with tqdm(total=len(shards), unit="shard", disable=not verbose or None) as bar:
        for shard, done in work(shards, output.folder):
            output.write(shard, done.table)
            images, errors = images + done.images, errors + done.errors
            bar.set_postfix_str(f"{images / (time.monotonic() - start):.0f} images/s, {errors} errors")
            bar.update()
    return images, errors
