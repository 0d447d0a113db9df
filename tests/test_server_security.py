"""What strangers may try: addresses that lead inside, endless and slow bodies, keys."""

import asyncio
import base64
import http.server
import io
import json
import re
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

import httpcore2
import httpx2 as httpx
import numpy as np
import pytest
import trustme
from PIL import Image
from serving import KEY, MODEL, png, post

from convnext_keras import server
from convnext_keras.server.errors import ApiError
from convnext_keras.server.fetching import Fetcher, Policy
from convnext_keras.server.limits import Limits
from convnext_keras.server.security import Guard, Keys, configured_keys

pytestmark = pytest.mark.any_backend

PUBLIC, OTHER, INSIDE = "93.184.216.34", "151.101.1.69", "127.0.0.1"
PICTURE = png(np.zeros((4, 4, 3), "uint8"))
HOSTS = {
    "img.example": [[PUBLIC]],
    "other.example": [[OTHER]],
    "inside.example": [[INSIDE]],
    "both.example": [[PUBLIC, INSIDE]],
    "rebinding.example": [[PUBLIC], [INSIDE]],
}


class Pictures(http.server.BaseHTTPRequestHandler):
    """A picture, and what a hostile server would answer in its place."""

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
            lengths = {"/ok.png": len(PICTURE), "/large": 10**9}
            if self.path in lengths:
                self.send_header("content-length", str(lengths[self.path]))
            self.end_headers()
            self.answer()

    def answer(self):
        if self.path == "/ok.png":
            self.wfile.write(PICTURE)
        for _ in range(100 if self.path in ("/endless", "/drip") else 0):
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
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as listening:
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
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as listening:
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


def fetched(url, port, policy=Policy(), seconds=5.0, trusted=None):  # noqa: B008 - immutable
    """What a fetch gives, or its error, and who was dialled."""

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
    assert fetched(url, elsewhere) == (PICTURE, dialled)


def test_a_name_is_resolved_once_and_the_checked_address_is_dialled(elsewhere, resolved):
    assert fetched("http://rebinding.example/ok.png", elsewhere) == (PICTURE, [(PUBLIC, 80)])
    assert resolved == ["rebinding.example"]


def test_certificates_are_for_the_name_and_not_for_the_address(elsewhere_with_tls, resolved):
    port, trusted = elsewhere_with_tls
    url = "https://img.example/ok.png"
    assert fetched(url, port, trusted=trusted) == (PICTURE, [(PUBLIC, 443)])
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
def test_private_addresses_are_never_dialled(url, elsewhere, resolved):
    error, dialled = fetched(url, elsewhere)
    assert isinstance(error, ApiError)
    assert error.code == "image_fetch_failed"
    assert not dialled


ONCE_DIALLED = ["inside", "metadata", "named", "file", "missing", "large", "endless"]


@pytest.mark.parametrize("path", ONCE_DIALLED)
def test_hostile_answers_are_refused(path, elsewhere, resolved):
    error, dialled = fetched(f"http://img.example/{path}", elsewhere)
    assert isinstance(error, ApiError)
    assert error.message == "input.0: the picture could not be fetched. Send it as a data URI."
    assert dialled == [(PUBLIC, 80)]


def test_redirects_end(elsewhere, resolved):
    error, dialled = fetched("http://img.example/loop", elsewhere)
    assert isinstance(error, ApiError)
    assert set(dialled) == {(PUBLIC, 80)}


def test_a_dripping_answer_ends_at_the_deadline(elsewhere, resolved):
    start = time.monotonic()
    error, _ = fetched("http://img.example/drip", elsewhere, seconds=0.5)
    assert isinstance(error, ApiError)
    assert time.monotonic() - start < 5


def test_https_does_not_lead_to_http(monkeypatch):
    async def moved(self, url):
        return "http://img.example/ok.png" if url.startswith("https") else PICTURE

    monkeypatch.setattr(Fetcher, "_get", moved)
    assert fetched("http://img.example/", 0)[0] == PICTURE
    assert isinstance(fetched("https://img.example/", 0)[0], ApiError)


def test_fetching_can_be_switched_off_or_kept_to_some_hosts(elsewhere, resolved):
    error, dialled = fetched("http://img.example/ok.png", elsewhere, Policy.of("off"))
    assert isinstance(error, ApiError)
    assert (error.code, dialled) == ("image_url_not_allowed", [])
    only = Policy.of("allowlist", ["IMG.example"])
    assert fetched("http://img.example/ok.png", elsewhere, only)[0] == PICTURE
    for url in ("http://other.example/ok.png", "http://img.example/moved", "http://img.example.inside.example/"):
        assert isinstance(fetched(url, elsewhere, only)[0], ApiError)
    for mode, hosts in (("all", []), ("allowlist", []), ("public", ["img.example"])):
        with pytest.raises(ValueError, match="Received"):
            Policy.of(mode, hosts)


def test_the_server_fetches_nothing_from_inside(address, elsewhere):
    """The same through a real server: what listens on loopback is not reached."""
    body = {"image": f"http://127.0.0.1:{elsewhere}/ok.png", "texts": ["a"]}
    error = post(address, "/v1/similarity", body).json()["error"]
    assert (error["code"], error["param"]) == ("image_fetch_failed", "image.0")


def raw(address, head, body=b""):
    """The status line of what a server answers to bytes, or nothing if it only hangs up."""
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.decode()


HEAD = f"POST /v1/embeddings HTTP/1.1\nHost: x\nAuthorization: Bearer {KEY}\nContent-Type: application/json\n"


def test_bodies_with_odd_lengths(address):
    too_large = raw(address, HEAD + f"Content-Length: {Limits().max_body_bytes + 1}\n")
    assert too_large.startswith("HTTP/1.1 413")
    assert json.loads(too_large.split("\r\n\r\n")[1])["error"]["code"] == "request_too_large"
    assert raw(address, HEAD + "Content-Length: 100\n", b'{"input"').split("\r\n")[0] in (
        "",
        "HTTP/1.1 400 Bad Request",
    )
    for length in ("-5", "abc", "1, 2", "1e3", "\u0663"):
        assert raw(address, HEAD + f"Content-Length: {length}\n", b"{}").startswith("HTTP/1.1 400")
    assert post(address, "/v1/embeddings", {"input": "the next request"}).status_code == 200


def test_a_chunked_body_is_counted_as_it_comes(address):
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    chunks = (b" " * 2**20 for _ in range(40))
    answer = httpx.post(address + "/v1/embeddings", headers=headers, content=chunks, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_bodies_of_other_types(kind, address):
    answer = post(address, "/v1/embeddings", b'{"input": "a"}', headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def answered(guard, receive, headers=((b"content-type", b"application/json"),)):
    """Status and body of what a guard answers."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": list(headers)}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def never_called(*arguments):
    raise AssertionError


def test_a_slow_body_ends_at_its_deadline():
    async def drip():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    guard = Guard(never_called, Keys(), Limits(body_seconds=0.3), lambda *told: None)
    assert answered(guard, drip) == (400, "request_timeout")
    assert (guard.requests, guard.bytes) == (0, 0)


def test_requests_and_bytes_in_flight_are_bounded():
    for limits in (Limits(max_requests=0), Limits(max_body_bytes_in_flight=10)):
        guard = Guard(never_called, Keys(), limits, lambda *told: None)
        assert answered(guard, never_called) == (429, "queue_full")


def test_work_ends_when_its_sender_goes_away():
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]
    ended = []

    async def works(scope, receive, send):
        await receive()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    async def receive():
        await asyncio.sleep(0.01)
        return messages.pop(0)

    guard = Guard(works, Keys(), Limits(), lambda *told: None)
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"content-type", b"application/json")]}
    start = time.monotonic()
    asyncio.run(guard(scope, receive, never_called))
    assert ended == [True]
    assert time.monotonic() - start < 10


def test_keys(tmp_path, monkeypatch):
    keys = Keys(["one", "zw\u00f6lf"])
    assert keys.accept("Bearer one")
    assert keys.accept("bearer zw\u00f6lf")
    for wrong in ("", "one", "Bearer", "Bearer ", "Basic one", "Bearer oneone", "Bearer on\u00e9", "Bearer two"):
        assert not keys.accept(wrong)
    assert Keys().accept("")
    monkeypatch.setenv("CONVNEXT_KERAS_API_KEYS", " a, b ,")
    assert configured_keys() == ["a", "b"]
    file = tmp_path / "keys.txt"
    file.write_text("# of the team\nkey one\n\n")
    assert configured_keys(file) == ["key one"]
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="has no keys"):
        configured_keys(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_nobody_else_may_listen_without_a_key(host, monkeypatch):
    monkeypatch.delenv("CONVNEXT_KERAS_API_KEYS", raising=False)
    monkeypatch.setattr("convnext_keras.server.run.create_app", never_called)
    with pytest.raises(ValueError, match=f"Received: host={host!r}"):
        server.serve(MODEL, host=host)


@pytest.mark.parametrize("index", ["folder", "=folder", "a=", "a/b=c"])
def test_indexes_are_named(index, monkeypatch):
    monkeypatch.setattr("convnext_keras.server.run.create_app", never_called)
    with pytest.raises(ValueError, match=re.escape(repr(index))):
        server.serve(MODEL, indexes=[index])


ODD = {
    "grey": ("L", "PNG"),
    "16 bits": ("I;16", "PNG"),
    "one bit": ("1", "PNG"),
    "palette with transparency": ("P", "GIF"),
    "with alpha": ("RGBA", "PNG"),
    "CMYK": ("CMYK", "JPEG"),
    "WebP": ("RGB", "WEBP"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_pictures_give_the_librarys_vectors(case, address, model, tmp_path):
    mode, kind = ODD[case]
    buffer = io.BytesIO()
    noise = Image.effect_noise((90, 70), 60)
    (noise if mode == "I;16" else noise.convert("RGB")).convert(mode).save(buffer, kind)
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(buffer.getvalue())
    body = {"input": [{"image": base64.encodebytes(buffer.getvalue()).decode()}]}  # with line breaks
    found = post(address, "/v1/embeddings", body).json()["data"][0]["embedding"]
    np.testing.assert_allclose(found, model.encode_image(path)[0], atol=1e-5)
