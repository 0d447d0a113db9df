"""Loads the server with many clients at once, and checks every answer against the library's own vector.

    KERAS_BACKEND=torch python benchmarks/load_server.py --write    # for 60 s with batching and without, then a stop

Loopback only; bounded in clients, time and requests. The clients share the processors with the server, so they send
bytes that are ready, and look at the answers when the time is over. Needs the extra `server`, and httpx2.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import keras
import numpy as np
from benchmark_report import machine, write_section
from PIL import Image

from convnext_keras import clip, samples

CLIENTS, SECONDS, MOST_REQUESTS = 32, 60.0, 200_000
BEFORE = 6.0  # seconds of load before it is measured, in which the sizes of batch that came up have run
TOLERANCE = 1e-5  # of a unit vector's elements: float32 sums in batches of other sizes
HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
END, LENGTH = b"\r\n\r\n", re.compile(rb"content-length: (\d+)", re.IGNORECASE)
HEADS = ("", "requests/s", "items/s", "ms: median, 99 %", "errors", "`/health` ms: median, 99 %", "MB over time")
STEADY = 2  # seconds into a run, when its memory is looked at first


def requests_and_answers() -> list[tuple[bytes, np.ndarray]]:
    """Requests with one to three texts and images each, and the vectors that belong to them."""
    model = clip.create_model("shapes")
    images, captions = samples.load_shapes()
    images, captions = images[:200], captions[:200]
    of_images, of_texts = model.encode_image(images), model.encode_text(captions)
    generator, found = random.Random(0), []
    for _ in range(400):
        items, vectors = [], []
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(captions))
            if generator.random() < 0.5:
                items.append(captions[place])
                vectors.append(of_texts[place])
            else:
                buffer = io.BytesIO()
                Image.fromarray(images[place]).save(buffer, "PNG")
                items.append({"image": base64.b64encode(buffer.getvalue()).decode()})
                vectors.append(of_images[place])
        body = json.dumps({"input": items, "encoding_format": "base64"}).encode()
        found.append((HEAD % len(body) + body, np.stack(vectors)))
    return found


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen, Path]]:
    """A server on loopback once it is ready: its address, its process and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("convnext-keras"), "serve", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with log.open("w") as stream:
            process = subprocess.Popen([*command, *arguments], stderr=stream, env={**os.environ, **environment})
        try:
            address = f"http://127.0.0.1:{port}"
            while True:
                if process.poll() is not None:
                    raise ChildProcessError(log.read_text())
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{address}/health/ready").status_code == 200:
                        break
                time.sleep(0.2)
            yield address, process, log
        finally:
            process.kill()
            process.wait()


class Load:
    """Clients that ask one server as fast as it answers.

    Attributes:
        answers: right ones.
        items: in them.
        errors: of status or of numbers; each ends nothing.
        received: head and body of each answer and what belongs into it, until they are looked at.
        refused: requests that the server hung up on without an answer.
        seconds: of each answer.
        health: seconds of each answer of `/health`.
        memory: MB of the server, early and late.
    """

    def __init__(self, address: str) -> None:
        self.address, self.answers, self.items, self.refused = address, 0, 0, 0
        self.received: list[tuple[bytes, bytes, np.ndarray]] = []
        self.errors: list[str] = []
        self.seconds: list[float] = []
        self.health: list[float] = []
        self.memory: list[float] = []

    async def run(self, seconds: float, wanted: list[tuple[bytes, np.ndarray]]) -> None:
        """All clients and a watcher, until the time is over; then a look at every answer."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(end, random.Random(number), wanted))
            group.create_task(asyncio.to_thread(self._watch, end))
        for answer in self.received:
            self._check(*answer)
        self.received.clear()

    async def _client(self, end: float, generator: random.Random, wanted: list[tuple[bytes, np.ndarray]]) -> None:
        reader, writer = await asyncio.open_connection(*self.address.removeprefix("http://").split(":"))
        with contextlib.closing(writer):
            while time.monotonic() < end and len(self.received) < MOST_REQUESTS:
                request, vectors = generator.choice(wanted)
                start = time.perf_counter()
                try:
                    writer.write(request)
                    head = await reader.readuntil(END)
                    body = await reader.readexactly(int(LENGTH.search(head)[1]))
                except (OSError, asyncio.IncompleteReadError):
                    self.refused += 1
                    return
                self.seconds.append(time.perf_counter() - start)
                self.received.append((head, body, vectors))

    def _check(self, head: bytes, body: bytes, vectors: np.ndarray) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            self.errors.append(body.decode())
            return
        rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in json.loads(body)["data"]]
        if len(rows) != len(vectors) or np.abs(np.stack(rows) - vectors).max() > TOLERANCE:
            self.errors.append("a vector of something else")
            return
        self.answers += 1
        self.items += len(rows)

    def _watch(self, end: float) -> None:
        """Runs in a separate thread, so that it does not wait for the clients' event loop."""
        start = time.monotonic()
        with httpx.Client(base_url=self.address, timeout=60) as client, contextlib.suppress(httpx.TransportError):
            while time.monotonic() < end:
                begun = time.perf_counter()
                client.get("/health")
                self.health.append(time.perf_counter() - begun)
                if time.monotonic() - start > STEADY * (1 + 14 * len(self.memory)):
                    told = client.get("/metrics").text
                    self.memory.append(float(re.search(r"^memory_bytes (.+)$", told, re.MULTILINE)[1]) / 2**20)
                time.sleep(0.1)


def row(name: str, load: Load, seconds: float) -> str:
    """One line of the table."""
    times, health = np.array(load.seconds) * 1000, np.array(load.health) * 1000
    cells = [name, f"{load.answers / seconds:.0f}", f"{load.items / seconds:.0f}"]
    cells += [f"{np.median(times):.0f}, {np.percentile(times, 99):.0f}", str(len(load.errors))]
    cells += [f"{np.median(health):.1f}, {np.percentile(health, 99):.1f}"]
    cells += [", ".join(f"{value:.0f}" for value in load.memory)]
    return f"| {' | '.join(cells)} |"


def stopped_in_the_middle(wanted: list[tuple[bytes, np.ndarray]]) -> str:
    """SIGTERM while all clients ask: what the server's log says it answered, and what the clients got."""

    async def ask_and_stop(load: Load, process: subprocess.Popen) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(30, wanted))
            await asyncio.sleep(5)
            process.send_signal(signal.SIGTERM)

    with serving() as (address, process, log):
        load = Load(address)
        asyncio.run(ask_and_stop(load, process))
        process.wait(timeout=60)
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    accepted = [line for line in lines if line.get("route") == "/v1/embeddings"]
    answered = sum(line["status"] == 200 for line in accepted)
    return (
        f"SIGTERM after 5 s of the same load: {len(accepted)} requests accepted, {answered} answered, {load.answers} "
        f"right answers received, {len(load.errors)} errors; {load.refused} connections closed before a request was "
        "accepted."
    )


# What the towers run on, the server's options, and the backend that Keras is imported with.
ENGINES = (
    ("Keras on JAX", (), "jax"),
    ("Keras on TensorFlow", (), "tensorflow"),
    ("Keras on PyTorch", (), "torch"),
    ("OpenVINO", ("--runtime", "openvino"), "openvino"),
    ("OpenVINO, two streams", ("--runtime", "openvino", "--streams", "2"), "openvino"),
    ("ONNX Runtime", ("--runtime", "onnx"), "openvino"),
)


def compare_runtimes(wanted: list[tuple[bytes, np.ndarray]], seconds: float) -> list[str]:
    """A table of the programs that can run the model, in turn, twice; the better run of each counts."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {"CONVNEXT_KERAS_CACHE": cache}
        for _, arguments, backend in ENGINES:  # What is written or compiled once is there already.
            with serving(*arguments, **environment, KERAS_BACKEND=backend):
                pass
        runs: dict[str, list[tuple[Load, float]]] = {name: [] for name, _, _ in ENGINES}
        for _ in range(2):
            for name, arguments, backend in ENGINES:
                start = time.monotonic()
                with serving(*arguments, **environment, KERAS_BACKEND=backend) as (address, _, _):
                    ready, load = time.monotonic() - start, Load(address)
                    asyncio.run(Load(address).run(BEFORE, wanted))
                    asyncio.run(load.run(seconds, wanted))
                    runs[name].append((load, ready))
                print(name, load.items, f"{ready:.1f}", load.errors[:1], flush=True)
    best = {name: max(both, key=lambda run: run[0].items) for name, both in runs.items()}
    of_keras = max(best[name][0].items for name, arguments, _ in ENGINES if not arguments)
    clients = f"{CLIENTS} clients for {seconds:.0f} s, after {BEFORE:.0f} s of the same load"
    report = [machine(), "", f"{clients}; one to three texts and images a request.", ""]
    report.append(f"| {' | '.join(['', 'seconds to ready', *HEADS[1:], 'times the best of Keras'])} |")
    report += ["|---|---:" + "|---:" * len(HEADS) + "|"]
    for name, (load, _) in best.items():
        ready = min(seconds for _, seconds in runs[name])
        cells = row(name, load, seconds).strip("| ").split(" | ")
        report.append(f"| {' | '.join([cells[0], f'{ready:.1f}', *cells[1:], f'{load.items / of_keras:.2f}'])} |")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--runtimes", action="store_true", help="compare the programs that a server can run a model by")
    options = parser.parse_args()
    wanted = requests_and_answers()
    if options.runtimes:
        report = compare_runtimes(wanted, options.seconds)
        print("\n".join(report))
        if options.write:
            write_section("server runtimes", report)
        return
    report = [machine(), ""]
    clients = f"{keras.backend.backend()}, {CLIENTS} clients for {options.seconds:.0f} s"
    report += [f"{clients}, one to three texts and images a request.", ""]
    report += [f"| {' | '.join(HEADS)} |", "|---|---:|---:|---:|---:|---:|---:|"]
    speeds = []
    for name, arguments in (("batching", ()), ("one item at a time", ("--no-batching",))):
        with serving(*arguments) as (address, _, _):
            load = Load(address)
            asyncio.run(load.run(options.seconds, wanted))
        report.append(row(name, load, options.seconds))
        speeds.append(load.items)
        print(report[-1], load.errors[:1], flush=True)
    report += ["", f"Batching answers {speeds[0] / speeds[1]:.1f} times as many items."]
    report += ["", stopped_in_the_middle(wanted)]
    print("\n".join(report))
    if options.write:
        write_section(f"server {keras.backend.backend()}", report)


if __name__ == "__main__":
    main()
