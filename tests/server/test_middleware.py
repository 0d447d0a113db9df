"""Attacks by request: endless and slow bodies, keys, host names."""

import asyncio
import json
import socket
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from serving import KEY, post, running
from waiting import TIMEOUT

from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.middleware import AllowedHosts, ApiKeys, GuardMiddleware, configured_keys

pytestmark = pytest.mark.any_backend


def raw(address, head, body=b"", half_closed=True):
    """The status line of what a server answers to bytes, or nothing if it only hangs up."""
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=TIMEOUT) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.decode()


HEAD = f"POST /v1/embeddings HTTP/1.1\nHost: localhost\nAuthorization: Bearer {KEY}\nContent-Type: application/json\n"


@pytest.mark.integration
def test_invalid_content_lengths_are_rejected(address):
    too_large = raw(address, HEAD + f"Content-Length: {ServerLimits().max_body_bytes + 1}\n")
    assert too_large.startswith("HTTP/1.1 413")
    assert json.loads(too_large.split("\r\n\r\n")[1])["error"]["code"] == "request_too_large"
    assert raw(address, HEAD + "Content-Length: 100\n", b'{"input"').split("\r\n")[0] in (
        "",
        "HTTP/1.1 400 Bad Request",
    )
    for length in ("-5", "abc", "1, 2", "1e3", "\u0663"):
        assert raw(address, HEAD + f"Content-Length: {length}\n", b"{}").startswith("HTTP/1.1 400")
    assert post(address, "/v1/embeddings", {"input": "the next request"}).status_code == 200


@pytest.mark.integration
def test_a_chunked_body_is_counted_as_it_comes(address):
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    chunks = (b" " * 2**20 for _ in range(40))
    answer = httpx.post(address + "/v1/embeddings", headers=headers, content=chunks, timeout=TIMEOUT)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_bodies_of_other_types(kind, address):
    answer = post(address, "/v1/embeddings", b'{"input": "a"}', headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


HEADERS = [(b"content-type", b"application/json"), (b"host", b"localhost")]


def whole(body):
    """Returns a receiver with one body."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    return receive


def answered(guard, receive, headers=HEADERS, method="POST"):
    """Status and body of what a guard answers."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/v1/embeddings", "headers": list(headers)}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def never_called(*arguments):
    raise AssertionError


def test_slow_body_ends_at_the_deadline():
    async def drip():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    guard = GuardMiddleware(never_called, ApiKeys(), AllowedHosts(), ServerLimits(body_seconds=0.3), lambda *told: None)
    assert answered(guard, drip) == (400, "request_timeout")
    assert (guard.requests, guard.bytes) == (0, 0)


def test_requests_and_bytes_in_flight_are_bounded():
    for limits in (
        ServerLimits(max_requests=0),
        ServerLimits(max_body_bytes_in_flight=10),
        ServerLimits(max_client_bytes=10),
    ):
        guard = GuardMiddleware(never_called, ApiKeys(), AllowedHosts(), limits, lambda *told: None)
        assert answered(guard, whole(b" " * 11)) == (429, "queue_full")
        assert (guard.requests, guard.bytes, guard.clients) == (0, 0, {})


def test_the_share_of_one_client_leaves_room_for_others():
    """A client whose bytes are at their limit is refused, another one at the same time is answered."""

    async def held(scope, receive, send):
        await receive()
        entered.set()
        await left.wait()

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    async def together():
        for number, (application, client) in enumerate(((held, "one"), (answer, "one"), (answer, "two"))):
            guard.app = application
            scope = {"type": "http", "method": "POST", "path": "/x", "headers": HEADERS, "client": (client, 1)}
            task = asyncio.create_task(guard(scope, whole(b" " * 8), sent[number].append_async))
            await (entered.wait() if application is held else task)
        left.set()

    class Messages(list):
        async def append_async(self, message):
            self.append(message)

    entered, left, sent = asyncio.Event(), asyncio.Event(), [Messages() for _ in range(3)]
    guard = GuardMiddleware(answer, ApiKeys(), AllowedHosts(), ServerLimits(max_client_bytes=10), lambda *told: None)
    asyncio.run(together())
    assert [messages[0]["status"] for messages in sent[1:]] == [429, 200]


def test_declared_bytes_are_not_reserved():
    """Any number of requests that declare the most and send nothing leave room for others."""

    async def silent():
        await asyncio.Event().wait()

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    limits = ServerLimits(max_body_bytes_in_flight=100, max_body_bytes=60, first_byte_seconds=1000, body_seconds=1000)
    guard = GuardMiddleware(answer, ApiKeys(), AllowedHosts(), limits, lambda *told: None)
    sent = []

    async def send(message):
        sent.append(message)

    async def together():
        scope = {"type": "http", "method": "POST", "path": "/x", "headers": [*HEADERS, (b"content-length", b"60")]}
        waiting = [asyncio.create_task(guard(scope, silent, send)) for _ in range(16)]
        await asyncio.sleep(0)
        assert (guard.requests, guard.bytes) == (16, 0)
        await guard({**scope, "headers": HEADERS}, whole(b"{}"), send)
        found = [message.get("status") or message["body"] for message in sent]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return found

    assert asyncio.run(together()) == [200, b"{}"]


@pytest.mark.parametrize(
    "limits", [ServerLimits(first_byte_seconds=0.05), ServerLimits(first_byte_seconds=0.05, min_body_rate=10)]
)
def test_bodies_that_do_not_begin_or_come_too_slowly(limits):
    sent = []

    async def drip():
        await asyncio.sleep(1000 if sent else 0)
        sent.append(True)
        return {"type": "http.request", "body": b" ", "more_body": True}

    guard = GuardMiddleware(never_called, ApiKeys(), AllowedHosts(), limits, lambda *told: None)
    assert answered(guard, drip) == (400, "request_timeout")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"])
@pytest.mark.parametrize("header", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
def test_bodies_of_other_methods_are_refused(method, header):
    guard = GuardMiddleware(never_called, ApiKeys(), AllowedHosts(), ServerLimits(), lambda *told: None)
    assert answered(guard, never_called, [*HEADERS, header], method) == (400, "invalid_value")


def test_lengths_of_thousands_of_digits():
    guard = GuardMiddleware(never_called, ApiKeys(), AllowedHosts(), ServerLimits(), lambda *told: None)
    headers = [*HEADERS, (b"content-length", b"9" * 5000)]
    assert answered(guard, never_called, headers) == (413, "request_too_large")


@pytest.mark.parametrize("body", [b"[" * 1001, b"{" * 1001, b"[" + b"1," * 1001])
def test_bodies_that_take_long_to_parse(body):
    guard = GuardMiddleware(
        never_called, ApiKeys(), AllowedHosts(), ServerLimits(max_json_parts=1000), lambda *told: None
    )
    assert answered(guard, whole(body)) == (400, "too_many_inputs")


def test_disconnected_clients_cancel_their_work():
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]
    ended = []

    async def works(scope, receive, send):
        await receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(True)
            raise

    async def receive():
        await asyncio.sleep(0.01)
        return messages.pop(0)

    guard = GuardMiddleware(works, ApiKeys(), AllowedHosts(), ServerLimits(), lambda *told: None)
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": HEADERS}
    asyncio.run(guard(scope, receive, never_called))
    assert ended == [True]


def test_api_keys_are_required(tmp_path, monkeypatch):
    keys = ApiKeys(["one", "zw\u00f6lf"])
    assert keys.is_allowed("Bearer one")
    assert keys.is_allowed("bearer zw\u00f6lf")
    for wrong in ("", "one", "Bearer", "Bearer ", "Basic one", "Bearer oneone", "Bearer on\u00e9", "Bearer two"):
        assert not keys.is_allowed(wrong)
    assert ApiKeys().is_allowed("")
    monkeypatch.setenv("CONVNEXT_KERAS_API_KEYS", " a, b ,")
    assert configured_keys() == ["a", "b"]
    file = tmp_path / "keys.txt"
    file.write_text("# of the team\nkey one\n\n")
    assert configured_keys(file) == ["key one"]
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="has no keys"):
        configured_keys(file)


HOSTS = {
    "localhost": True,
    "LOCALHOST.:8000": True,
    "127.0.0.1:8000": True,
    "[::1]:8000": True,
    "named.example": True,
    "named.example:443": True,
    "192.168.1.5": True,  # the address that the connection came in at
    "evil.example": False,
    "127.0.0.1.evil.example": False,
    "localhost.evil.example": False,
    "named.example.evil.example": False,
    "192.168.1.6": False,
    "0.0.0.0": False,
    "localhost evil.example": False,
    "localhost@evil.example": False,
    "localhost:80:80": False,
    "": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_host_names_are_checked(host):
    hosts = AllowedHosts(["Named.example"])
    assert hosts.is_allowed([(b"Host", host.encode())], ("192.168.1.5", 8000)) is HOSTS[host]


def test_exactly_one_host_is_named():
    hosts = AllowedHosts()
    assert not hosts.is_allowed([], ("127.0.0.1", 80))
    assert not hosts.is_allowed([(b"host", b"localhost"), (b"host", b"localhost")], None)
    assert AllowedHosts(["::2"]).is_allowed([(b"host", b"[::2]:80")], None)


@pytest.mark.integration
@pytest.mark.parametrize("path", ["/", "/v1/models", "/health", "/docs", "/openapi.json", "/metrics"])
def test_unknown_hosts_get_421(path, address):
    """DNS rebinding: a web page's own name that leads to this machine. With keys too."""
    head = f"GET {path} HTTP/1.1\nHost: {{}}\nAuthorization: Bearer {KEY}\nConnection: close\n"
    refused = raw(address, head.format("evil.example"), half_closed=False)
    assert refused.startswith("HTTP/1.1 421")
    assert json.loads(refused.split("\r\n\r\n")[1])["error"]["code"] == "misdirected_request"
    assert raw(address, head.format("localhost"), half_closed=False).startswith("HTTP/1.1 200")
    assert raw(address, head.format(urlsplit(address).netloc), half_closed=False).startswith("HTTP/1.1 200")
    twice = head.replace("Host: {}", "Host: localhost\nHost: evil.example")
    assert raw(address, twice, half_closed=False).startswith(("HTTP/1.1 400", "HTTP/1.1 421"))


@pytest.mark.integration
def test_allowed_host_is_accepted(tmp_path):
    with running(tmp_path / "log.txt", "--allow-host", "clip.example") as (address, _):
        head = f"GET /v1/models HTTP/1.1\nHost: {{}}\nAuthorization: Bearer {KEY}\nConnection: close\n"
        assert raw(address, head.format("clip.example:8000"), half_closed=False).startswith("HTTP/1.1 200")
        assert raw(address, head.format("evil.example"), half_closed=False).startswith("HTTP/1.1 421")


@pytest.mark.integration
@pytest.mark.parametrize(
    "head", ["x: " + "a" * 1_000_000 + "\n", "x: y\n" * 100_000], ids=["one header", "many headers"]
)
def test_large_headers_are_refused_before_anything_else(head, address):
    """The server hangs up while bytes still come, so that the answer may be lost on the way."""
    try:
        answer = raw(address, "GET /v1/models HTTP/1.1\nHost: localhost\n" + head, half_closed=False)
    except ConnectionError:
        answer = ""
    assert not answer or answer.startswith("HTTP/1.1 431")
    assert post(address, "/v1/embeddings", {"input": "the next request"}).status_code == 200
