"""One cluster of Ray for the whole session."""

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from waiting import TIMEOUT

MEMORY = 3 * 2**30  # bytes that a cluster with two models needs
# Ray's own limits are of seconds, and a busy machine is slower than that.
PATIENT = dict.fromkeys(
    (
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S",
        "RAY_gcs_rpc_server_reconnect_timeout_s",
        "RAY_gcs_server_request_timeout_seconds",
    ),
    str(int(TIMEOUT)),
)


class Cluster(NamedTuple):
    """Address of a cluster, and the id of its process."""

    address: str
    pid: int


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A cluster on this machine."""
    available = psutil.virtual_memory().available
    assert available > MEMORY, (
        f"Ray needs {MEMORY / 2**30:.0f} GiB of free memory; {available / 2**30:.1f} GiB are free."
    )
    log = tmp_path_factory.mktemp("cluster") / "log.txt"
    # The token lets the programs of the tests in, and nobody else.
    os.environ.update(PATIENT, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex())
    command = [sys.executable, Path(__file__).with_name("head.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors, **pipes) as process:
        address = process.stdout.readline().strip()
        assert address, log.read_text()[-2000:]
        yield Cluster(address, process.pid)
        process.stdin.close()
        process.wait(TIMEOUT)
