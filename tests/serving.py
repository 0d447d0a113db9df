"""A real server for the tests: a uvicorn process on loopback with the bundled model. A plugin of pytest."""

import asyncio
import base64
import contextlib
import functools
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image
from waiting import TIMEOUT, wait_until

from convnext_keras import clip, retrieval, samples
from convnext_keras.clip.constructors import BUNDLED_CLIP
from convnext_keras.server.limits import ServerLimits

KEY = "a key for the tests"
MODEL = BUNDLED_CLIP
SAME = 1e-5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="session")
def model():
    return clip.create_model("shapes")


@pytest.fixture(scope="session")
def images():
    return samples.load_shapes()


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory, model, images):
    folder = tmp_path_factory.mktemp("index")
    for number, pixels in enumerate(images[0][:12]):
        (folder / f"{number:02}.png").write_bytes(png(pixels))
    index = retrieval.InMemoryIndex(model)
    index.add(folder)
    index.save(folder / "index")
    return folder / "index"


@contextlib.contextmanager
def running(log, *arguments, key=KEY):
    """A server in a process of its own, ready; its address and the process."""
    port = free_port()
    command = [Path(sys.executable).with_name("convnext-keras"), "serve", "--port", str(port)]
    environment = {**os.environ, "CONVNEXT_KERAS_API_KEYS": key}
    with (
        log.open("w") as stream,
        subprocess.Popen([*command, *map(str, arguments)], env=environment, stderr=stream, stdout=stream) as process,
    ):
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def wait_until_ready(process, address, log):
    def is_ready():
        if process.poll() is not None:
            raise ChildProcessError(log.read_text())
        with contextlib.suppress(httpx.TransportError):
            return get(f"{address}/health/ready").status_code == 200

    wait_until(is_ready)


@pytest.fixture(scope="session")
def address(index_folder, tmp_path_factory):
    with running(tmp_path_factory.mktemp("log") / "log.txt", "--index", f"shapes={index_folder}") as (address, process):
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == -signal.SIGTERM


@pytest.fixture(scope="session")
def client(address):
    import openai  # For nearly a second: few processes need it.

    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


get = functools.partial(httpx.get, timeout=TIMEOUT)


def post(address, path, body, key=KEY, **options):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx.post(
        address + path, headers=headers | options.pop("headers", {}), **content, timeout=TIMEOUT, **options
    )


@contextlib.asynccontextmanager
async def client_of(app, started=True):
    """A client of an application in this process, after its start or without one."""
    async with contextlib.AsyncExitStack() as stack:
        if started:
            await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=TIMEOUT)
        )


def asked(app, path, body, meanwhile=lambda engine: None, started=True):
    """The answer of an application in this process."""

    async def request():
        async with client_of(app, started) as client:
            meanwhile(app.state.engine)
            await asyncio.sleep(0.01)  # in which what was cancelled ends
            return await (client.get(path) if body is None else client.post(path, json=body))

    return asyncio.run(request())


SMALL = ServerLimits(image_batch=1, text_batch=1)  # whose first run of every shape is short
