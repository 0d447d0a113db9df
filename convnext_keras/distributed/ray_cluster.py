"""Shards on a cluster of Ray (https://docs.ray.io): one actor holds the model for each device.

An actor that dies is started again, and its shard done anew.
"""

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras

from convnext_keras.clip import DualEncoder
from convnext_keras.distributed.sharding import Shard
from convnext_keras.distributed.tasks import ShardResult, Task, Worker
from convnext_keras.fast_import import FAST_IMPORT_ENV

DEVICES = ("cpu", "gpu")
CPUS_PER_MODEL = 4  # of a model without a GPU, by default
PREFETCH = 2  # shards that an actor has, one of them in work
CONNECT_SECONDS = 10
PASSED_ENV_VARS = (
    "KERAS_BACKEND",
    "CONVNEXT_KERAS_CACHE",
    "CONVNEXT_KERAS_OFFLINE",
    "TF_CPP_MIN_LOG_LEVEL",
    "HF_TOKEN",
    "HF_HOME",
)


class RemoteModelInfo(DualEncoder):
    """Facts about a ConvNeXt-CLIP in other processes, for the table of its embeddings."""

    def __init__(self, card: dict[str, Any]) -> None:
        self.name, self.card = card["name"], card
        self.pretrained_info = card["pretrained_info"]

    @property
    def embed_dim(self) -> int:
        """Returns the dimension of the embeddings."""
        return self.card["width"]

    def fingerprint(self) -> str:
        """Returns the identifier of the weights."""
        return self.card["model"]


class ModelActor:
    """Ray actor with a worker, and the facts about its model."""

    def __init__(self, task: Task) -> None:
        self.worker = Worker(task)

    def card(self) -> dict[str, Any]:
        """Returns the facts of `RemoteModelInfo` and the process id."""
        model: Any = self.worker.model
        known = {"name": model.name, "width": model.embed_dim, "pretrained_info": model.pretrained_info}
        return {**known, "model": self.worker.fingerprint(), "process": os.getpid()}

    def run(self, shard: Shard, folder: Path | None) -> ShardResult:
        """Does a shard."""
        return self.worker(shard, folder)


class ActorPool:
    """Pool of models on the devices of a cluster, as a context manager.

    Args:
        task: What they do.
        address: See `embed`.
        devices: See `embed`.

    Attributes:
        card: What is known of the model.

    Raises:
        ValueError: If Ray is missing, the devices are not valid or not there, or the model cannot be had.
        ConnectionError: If there is no cluster at the address.
    """

    def __init__(self, task: Task, address: str | None, devices: str) -> None:
        self.task, self.address, self.devices = task, address, devices
        self.handles: list[Any] = []

    def __enter__(self) -> "ActorPool":
        self.ray, self.was_connected = _connect(self.address)
        try:
            count, options = plan_workers(self.devices, self.ray.cluster_resources())
            actor = self.ray.remote(ModelActor).options(
                max_restarts=-1, max_task_retries=-1, runtime_env={"env_vars": worker_env()}, **options
            )
            self.handles = [actor.remote(self.task) for _ in range(count)]
            self.card = self.ray.get([handle.card.remote() for handle in self.handles])[0]
        except self.ray.exceptions.RayError as error:
            self.__exit__()
            raise ValueError(f"{self.task.weights} cannot be used on the cluster: {root_cause(error)}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            self.ray.kill(handle)
        if not self.was_connected:
            self.ray.shutdown()

    def embedder(self) -> DualEncoder | None:
        """Returns the model as far as its vectors go; None if it makes none."""
        return RemoteModelInfo(self.card) if self.task.kind == "embed" else None

    def map(self, shards: Iterable[Shard], folder: Path | None) -> Iterator[tuple[Shard, ShardResult]]:
        """Returns shards with what they gave, in the order in which they are done.

        Raises:
            RuntimeError: If a shard cannot be done.
        """
        waiting, running = iter(shards), {}

        def begin(handle: Any) -> None:
            with contextlib.suppress(StopIteration):
                shard = next(waiting)
                running[handle.run.remote(shard, folder)] = (handle, shard)

        for _ in range(PREFETCH):
            for handle in self.handles:
                begin(handle)
        while running:
            (done, *_), _ = self.ray.wait([*running], num_returns=1)
            handle, shard = running.pop(done)
            try:
                rows = self.ray.get(done)
            except self.ray.exceptions.RayError as error:
                raise RuntimeError(f"{shard.names[0]} and following: {root_cause(error)}") from error
            begin(handle)
            yield shard, rows


def worker_env() -> dict[str, str]:
    """Returns variables of the environment for every process of a cluster, most of them as this one has them."""
    kept = {name: os.environ[name] for name in PASSED_ENV_VARS if name in os.environ}
    return {**kept, **FAST_IMPORT_ENV, "KERAS_BACKEND": keras.backend.backend()}


def root_cause(error: Exception) -> str:
    """Returns the cause of an error in an actor, in one sentence."""
    return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]


def plan_workers(devices: str, resources: dict[str, float]) -> tuple[int, dict[str, float]]:
    """Returns the number of models on a cluster, and the resources of each.

    Args:
        devices: See `embed`.
        resources: Resources of the cluster, as Ray counts them.

    Raises:
        ValueError: If the words are not valid, or the cluster has less.

    Example:
        >>> plan_workers("", {"CPU": 8.0})
        (2, {'num_cpus': 4, 'num_gpus': 0})
        >>> plan_workers("gpu:2", {"CPU": 8.0, "GPU": 4.0})
        (2, {'num_cpus': 1, 'num_gpus': 1})
    """
    processors, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    kind, _, number = (devices or ("gpu" if gpus else "cpu")).partition(":")
    if kind not in DEVICES or (number and (not number.isdigit() or number == "0")):
        raise ValueError(f"devices must be 'cpu' or 'gpu', or such as 'cpu:4'. Received: devices={devices!r}")
    there = gpus if kind == "gpu" else processors
    count = int(number) if number else gpus if kind == "gpu" else max(1, math.ceil(processors / CPUS_PER_MODEL))
    if not 0 < count <= there:
        raise ValueError(f"The cluster has {there} of {kind}. Received: devices={devices!r}")
    return count, {"num_cpus": 1 if kind == "gpu" else processors // count, "num_gpus": int(kind == "gpu")}


def _connect(address: str | None) -> tuple[Any, bool]:
    """Connects Ray to a cluster, or starts one; also returns whether it was connected before."""
    try:
        import ray
    except ImportError as error:
        raise ValueError('A cluster needs Ray: pip install "convnext-keras[ray]"') from error
    if ray.is_initialized():
        return ray, True
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(f"There is no cluster of Ray at {address or 'this machine'}: {error}") from error
    return ray, False


def _check_reachable(address: str | None) -> None:
    """Raises OSError if nobody listens there: Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
