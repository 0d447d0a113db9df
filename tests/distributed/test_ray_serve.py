"""Two replicas under Ray Serve answer as one server does, also while one of them is killed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil
import pytest
from serving import KEY, data_uri, free_port, png, post
from waiting import TIMEOUT, wait_until

from convnext_keras import distributed, retrieval

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
PROGRAM = Path(__file__).with_name("replicas.py")


@pytest.fixture(scope="module")
def lance_index(model, held_out, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "shapes.lance"
    retrieval.LanceIndex(path, model).add(held_out[0][:12], [str(number) for number in range(12)])
    return path


@pytest.fixture
def replicas(cluster, lance_index, tmp_path):
    """The address of a server in two replicas."""
    port = free_port()
    command = [sys.executable, PROGRAM, cluster.address, str(port), KEY, lance_index]
    paths = os.pathsep.join([str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")])
    with (
        (tmp_path / "log.txt").open("w") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        ) as process,
    ):
        assert process.stdout.readline() == "ready\n", (tmp_path / "log.txt").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}"
        process.stdin.close()
        process.wait(TIMEOUT)


def of_replicas(cluster):
    return [child for child in psutil.Process(cluster.pid).children(recursive=True) if "ServeReplica" in child.name()]


@pytest.mark.cluster
def test_killed_replica_loses_only_its_requests(cluster, replicas, model, held_out):
    expected = model.encode_image(held_out[0][:8])
    images = [data_uri(png(np.asarray(image))) for image in held_out[0][:8]]
    answers, stop = [], threading.Event()

    def ask(number):
        while not stop.is_set():
            place = number % 8
            body = {"model": "convnext_mini.shapes", "input": [{"image": images[place]}]}
            try:
                answer = post(replicas, "/v1/embeddings", body)
            except httpx.TransportError:
                answers.append((place, 0, None))
                continue
            vector = answer.json()["data"][0]["embedding"] if answer.status_code == 200 else None
            answers.append((place, answer.status_code, vector))

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) >= 20)
    processes = of_replicas(cluster)
    assert len(processes) == 2
    os.kill(processes[0].pid, signal.SIGKILL)
    before = len(answers)
    wait_until(lambda: sum(status == 200 for _, status, _ in answers[before:]) >= 60)
    stop.set()
    for thread in threads:
        thread.join()
    for place, status, vector in answers:
        if status == 200:
            np.testing.assert_allclose(vector, expected[place], atol=1e-5)
    assert sum(status != 200 for _, status, _ in answers) <= len(threads)  # those that the replica had in work
    assert all(status == 200 for _, status, _ in answers[-20:])
    found = post(replicas, "/v1/indexes/shapes/search", {"query": {"image": images[3]}, "top_k": 1}).json()
    assert found["data"][0]["id"] == "3"
    assert post(replicas, "/v1/embeddings", {"input": "a"}, key="another").status_code == 401


def test_serve_deployment_rejects_invalid_replicas():
    with pytest.raises(ValueError, match="min_replicas <= max_replicas"):
        distributed.serve_deployment(min_replicas=3, max_replicas=2)
