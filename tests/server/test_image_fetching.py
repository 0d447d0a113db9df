"""Attacks by URL: private addresses, endless and slow bodies."""

import asyncio
import http.server
import socket
import ssl
import threading
import time

import httpcore2
import numpy as np
import pytest
import trustme
from serving import png, post

from convnext_keras.server.errors import ApiError
from convnext_keras.server.image_fetching import Fetcher, ImageURLPolicy

pytestmark = pytest.mark.any_backend

PUBLIC, OTHER, INSIDE = "93.184.216.34", "151.101.1.69", "127.0.0.1"
IMAGE = png(np.zeros((4, 4, 3), "uint8"))
HOSTS = {
    "img.example": [[PUBLIC]],
    "other.example": [[OTHER]],
    "inside.example": [[INSIDE]],
    "both.example": [[PUBLIC, INSIDE]],
    "rebinding.example": [[PUBLIC], [INSIDE]],
}


class Images(http.server.BaseHTTPRequestHandler):
    """An image, and what a hostile server would answer in its place."""

    def do_GET(self):
        redirect = {
            "/moved": "http://other.example/ok.png",
            "/inside": "http://127.0.0.1/ok.png",
            "/metadata": "http://169.254.169.254/",
            "/named": "http://inside.example/",
            "/file": "file:///etc/passwd",
            "/loop": "/loop",
        }.get(self.path)
        if redirect:
            self.send_response(302)
            self.send_header("location", redirect)
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        else:
            self.send_response(200)
            lengths = {"/ok.png": len(IMAGE), "/large": 10**9}
            if self.path in lengths:
                self.send_header("content-length", str(lengths[self.path]))
            self.end_headers()
            self.answer()

    def answer(self):
        if self.path == "/ok.png":
            self.wfile.write(IMAGE)
        while self.path in ("/endless", "/drip"):
            try:
                self.wfile.write(b"x" * (10_000 if self.path == "/endless" else 1))
            except OSError:
                return
            time.sleep(0.1 if self.path == "/drip" else 0)

    def log_message(self, *arguments):
        pass


class Wire(httpcore2.AsyncNetworkBackend):
    """Leads every dial to one server on loopback, and remembers who was dialled."""

    def __init__(self, port):
        self.port, self.dialled, self.network = port, [], httpcore2.AnyIOBackend()

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.dialled.append((host, port))
        return await self.network.connect_tcp("127.0.0.1", self.port, timeout, local_address, socket_options)

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


@pytest.fixture(scope="module")
def elsewhere():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.server_port
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def elsewhere_with_tls():
    """The same with a certificate for img.example: its port, and a context that trusts it."""
    authority = trustme.CA()
    inside, outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("img.example").configure_cert(inside)
    authority.configure_trust(outside)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images) as listening:
        listening.socket = inside.wrap_socket(listening.socket, server_side=True)
        listening.handle_error = lambda *arguments: None  # of handshakes that the client breaks off
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.server_port, outside
        listening.shutdown()
        thread.join()


@pytest.fixture
def resolved(monkeypatch):
    """Names are resolved by `HOSTS`, one answer after the other; the names that were asked for."""
    real, asked = socket.getaddrinfo, []

    def resolve(host, port, *arguments, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in HOSTS:
            return real(host, port, *arguments, **options)
        answers = HOSTS[name]
        answer = answers[min(asked.count(name), len(answers) - 1)]
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def fetched(url, port, policy=ImageURLPolicy(), seconds=5.0, trusted=None):  # noqa: B008 - immutable
    """Returns the result or error of a fetch, and the addresses that were contacted."""

    async def fetch():
        fetcher = Fetcher(policy, seconds, max_bytes=50_000)
        wire = fetcher.pool._network_backend.network = Wire(port)
        fetcher.pool._ssl_context = trusted
        try:
            return await fetcher(url, "input.0"), wire.dialled
        except ApiError as error:
            return error, wire.dialled
        finally:
            await fetcher.close()

    return asyncio.run(fetch())


@pytest.mark.parametrize(
    ("url", "dialled"),
    [
        ("http://img.example/ok.png", [(PUBLIC, 80)]),
        ("HTTP://IMG.example:80/ok.png", [(PUBLIC, 80)]),
        (f"http://{PUBLIC}/ok.png", [(PUBLIC, 80)]),
        ("http://img.example/moved", [(PUBLIC, 80), (OTHER, 80)]),
    ],
)
def test_public_addresses_are_fetched(url, dialled, elsewhere, resolved):
    assert fetched(url, elsewhere) == (IMAGE, dialled)


def test_a_name_is_resolved_once_and_the_checked_address_is_dialled(elsewhere, resolved):
    assert fetched("http://rebinding.example/ok.png", elsewhere) == (IMAGE, [(PUBLIC, 80)])
    assert resolved == ["rebinding.example"]


def test_certificates_are_for_the_name_and_not_for_the_address(elsewhere_with_tls, resolved):
    port, trusted = elsewhere_with_tls
    url = "https://img.example/ok.png"
    assert fetched(url, port, trusted=trusted) == (IMAGE, [(PUBLIC, 443)])
    for wrong in (fetched(url, port), fetched("https://other.example/ok.png", port, trusted=trusted)):
        assert isinstance(wrong[0], ApiError)
        assert wrong[1]


NEVER_DIALLED = [
    "http://127.0.0.1/ok.png",
    "http://localhost/ok.png",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://127.1/",
    "http://0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[::169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://192.88.99.1/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://inside.example/ok.png",
    "http://both.example/ok.png",
    "http://user:password@img.example/ok.png",
    "http://img.example:22/ok.png",
    "http://img.example:0/ok.png",
    "http://img.example:99999/ok.png",
    "http://img.example\\@127.0.0.1/ok.png",
    "http://127.0.0.1\\@img.example/ok.png",
    "ftp://img.example/ok.png",
    "file:///etc/passwd",
    "gopher://img.example/",
    "http://",
    "http:///ok.png",
    "http://[::1/",
]


@pytest.mark.parametrize("url", NEVER_DIALLED)
def test_private_addresses_are_never_contacted(url, elsewhere, resolved):
    error, dialled = fetched(url, elsewhere)
    assert isinstance(error, ApiError)
    assert error.code == "image_fetch_failed"
    assert not dialled


ONCE_DIALLED = ["inside", "metadata", "named", "file", "missing", "large", "endless"]


@pytest.mark.parametrize("path", ONCE_DIALLED)
def test_hostile_answers_are_refused(path, elsewhere, resolved):
    error, dialled = fetched(f"http://img.example/{path}", elsewhere)
    assert isinstance(error, ApiError)
    assert error.message == "input.0: the image could not be fetched. Send it as a data URI."
    assert dialled == [(PUBLIC, 80)]


def test_redirects_are_limited(elsewhere, resolved):
    error, dialled = fetched("http://img.example/loop", elsewhere)
    assert isinstance(error, ApiError)
    assert set(dialled) == {(PUBLIC, 80)}


def test_slow_response_ends_at_the_deadline(elsewhere, resolved):
    """Without one, the fetch would never end."""
    error, _ = fetched("http://img.example/drip", elsewhere, seconds=0.5)
    assert isinstance(error, ApiError)


def test_https_does_not_lead_to_http(monkeypatch):
    async def moved(self, url):
        return "http://img.example/ok.png" if url.startswith("https") else IMAGE

    monkeypatch.setattr(Fetcher, "_get", moved)
    assert fetched("http://img.example/", 0)[0] == IMAGE
    assert isinstance(fetched("https://img.example/", 0)[0], ApiError)


def test_fetching_can_be_switched_off_or_kept_to_some_hosts(elsewhere, resolved):
    error, dialled = fetched("http://img.example/ok.png", elsewhere, ImageURLPolicy.of("off"))
    assert isinstance(error, ApiError)
    assert (error.code, dialled) == ("image_url_not_allowed", [])
    only = ImageURLPolicy.of("allowlist", ["IMG.example"])
    assert fetched("http://img.example/ok.png", elsewhere, only)[0] == IMAGE
    for url in ("http://other.example/ok.png", "http://img.example/moved", "http://img.example.inside.example/"):
        assert isinstance(fetched(url, elsewhere, only)[0], ApiError)
    for mode, hosts in (("all", []), ("allowlist", []), ("public", ["img.example"])):
        with pytest.raises(ValueError, match="Received"):
            ImageURLPolicy.of(mode, hosts)


@pytest.mark.integration
def test_the_server_fetches_nothing_from_inside(address, elsewhere):
    """The same through a real server: what listens on loopback is not reached."""
    body = {"image": f"http://127.0.0.1:{elsewhere}/ok.png", "texts": ["a"]}
    error = post(address, "/v1/similarity", body).json()["error"]
    assert (error["code"], error["param"]) == ("image_fetch_failed", "image.0")
