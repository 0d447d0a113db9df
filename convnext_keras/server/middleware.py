"""The layers around every request: keys, the size and the pace of bodies, and a number for each request."""

import asyncio
import collections
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from convnext_keras.server.errors import ApiError
from convnext_keras.server.limits import ServerLimits

# Routes without a key: whether the server lives, its page, and the description of its routes.
OPEN_ROUTES = frozenset({"/", "/health", "/health/ready", "/docs", "/openapi.json"})
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d+)?")
KEYS_VARIABLE = "CONVNEXT_KERAS_API_KEYS"
log = logging.getLogger("convnext_keras.server")


class ApiKeys:
    """Accepted API keys, stored as digests only.

    Args:
        keys: Keys of which each request needs one; none to let everyone in.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self.digests)

    def is_allowed(self, authorization: str) -> bool:
        """Returns whether a request with this header is let in; takes as long for every key, right or wrong."""
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        is_known = False
        for known in self.digests:
            is_known |= hmac.compare_digest(known, digest)
        return not self.digests or (is_known and scheme.lower() == "bearer")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class AllowedHosts:
    """Accepted Host headers, which protect against DNS rebinding.

    A page whose name is made to lead to this machine (DNS rebinding) could read from a server without keys whatever its
    visitor can; its requests name another host.

    Args:
        names: Names or addresses, beside those of this machine and the address that a connection came in at.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = {name.lower().strip("[]").rstrip(".") for name in (*LOOPBACK, *names)}

    def is_allowed(self, headers: Iterable[tuple[bytes, bytes]], server: tuple[str, int] | None) -> bool:
        """Returns whether a request's one header `Host` is a known name, with or without a port.

        Args:
            headers: Headers of the request.
            server: Address and port that its connection came in at, if known.
        """
        given = [value.decode("latin-1") for name, value in headers if name.lower() == b"host"]
        parsed = HOST.fullmatch(given[0]) if len(given) == 1 else None
        if not parsed:
            return False
        name = (parsed["address"] or parsed["name"]).lower().rstrip(".")
        return name in self.names or bool(server and name == server[0].lower())


def configured_keys(file: str | os.PathLike | None = None) -> list[str]:
    """Reads API keys from a file, one per line, or from `CONVNEXT_KERAS_API_KEYS`, separated by commas.

    Raises:
        ValueError: If the file has none.
    """
    if file is None:
        return [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    keys = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    keys = [key for key in keys if key and not key.startswith("#")]
    if not keys:
        raise ValueError(f"{file} has no keys. Write one a line.")
    return keys


class GuardMiddleware:
    """Outermost middleware: request ids, API keys, limits of bodies, and the access log.

    Args:
        app: The application inside.
        keys: Keys that are let in.
        hosts: Hosts that the server answers to.
        limits: Limits of bodies and of requests at a time.
        observe: Function called with each response's route, status and seconds.
    """

    def __init__(
        self,
        app: Any,
        keys: ApiKeys,
        hosts: AllowedHosts,
        limits: ServerLimits,
        observe: Callable[[str, int, float], None],
    ) -> None:
        self.app, self.keys, self.hosts, self.limits, self.observe = app, keys, hosts, limits, observe
        self.requests = self.bytes = 0  # that are being answered
        self.clients: collections.Counter[str] = collections.Counter()  # their bytes, by address

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Handles a request, and records it in the log and the metrics."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, number, status = time.perf_counter(), f"req_{secrets.token_hex(8)}", 0

        async def send_with_request_id(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took = f"{1000 * (time.perf_counter() - start):.1f}"
                extra = [(b"x-request-id", number.encode()), (b"x-processing-ms", took.encode())]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await self._answer(scope, receive, send_with_request_id)
        except ApiError as error:
            await send_error(error, send_with_request_id)
        except Exception:
            log.exception("%s failed", number)
            if not status:
                message = f"The server failed. Tell its operator the number {number}."
                await send_error(ApiError(500, "internal_error", message), send_with_request_id)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self.observe(route, status, seconds)
            log.info(json.dumps({"request": number, "route": route, "status": status, "seconds": round(seconds, 4)}))

    async def _answer(self, scope: dict, receive: Any, send: Any) -> None:
        """Lets a request in if it may come in, and gives its work up if its sender goes away."""
        if not self.hosts.is_allowed(scope["headers"], scope.get("server")):
            message = "The header Host names another server. Its operator can allow the name with --allow-host NAME."
            raise ApiError(421, "misdirected_request", message)
        if scope["path"] in OPEN_ROUTES:
            await self.app(scope, receive, send)
            return
        self._check_headers(scope)
        if self.requests >= self.limits.max_requests:
            raise self._busy()
        client, size = str((scope.get("client") or [""])[0]), 0
        self.requests += 1

        def count(added: int) -> None:
            """Counts bytes of the body as they arrive."""
            nonlocal size
            size, self.bytes = size + added, self.bytes + added
            self.clients[client] += added
            is_full = self.bytes > self.limits.max_body_bytes_in_flight
            if is_full or self.clients[client] > self.limits.max_client_bytes:
                raise self._busy()

        try:
            body = await self._body(receive, count)
            await asyncio.to_thread(self._check_parts, body)
            gone = asyncio.ensure_future(receive())
            work = asyncio.ensure_future(self.app(scope, _replay_body(body, gone), send))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in {work, gone}:
                    task.cancel()
                results = await asyncio.gather(work, gone, return_exceptions=True)
            if isinstance(results[0], Exception):
                raise results[0]
        finally:
            self.requests, self.bytes = self.requests - 1, self.bytes - size
            self.clients[client] -= size
            if self.clients[client] <= 0:
                del self.clients[client]

    def _check_headers(self, scope: dict) -> None:
        """Raises ApiError unless key, length and type are in order."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self.keys.is_allowed(headers.get(b"authorization", "")):
            message = "Send a valid key in the header 'Authorization: Bearer KEY'."
            raise ApiError(401, "invalid_api_key", message)
        if scope["method"] != "POST":  # which no route takes with a body
            if headers.get(b"content-length", "0").strip("0") or b"transfer-encoding" in headers:
                raise ApiError(400, "invalid_value", f"A {scope['method']} request must not have a body.")
            return
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            message = f"The body must be JSON. Received: {kind or 'no type'}. Send 'Content-Type: application/json'."
            raise ApiError(415, "unsupported_media_type", message)
        length = headers.get(b"content-length", "0")
        if not length.isdecimal():
            raise ApiError(400, "invalid_value", "The header Content-Length must be a whole number.")
        if len(length) > 20 or int(length) > self.limits.max_body_bytes:
            raise self._too_large()

    async def _body(self, receive: Any, count: Callable[[int], None]) -> bytes:
        """Returns the whole body, if it is small enough and comes in time."""
        body, limits = bytearray(), self.limits
        start = time.monotonic()
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    # Time for the first byte, and for each further part so much that the rate is kept.
                    until = start + limits.first_byte_seconds + len(body) / limits.min_body_rate
                    async with asyncio.timeout(max(0.0, until - time.monotonic())):
                        message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "invalid_value", "The request ended before its body did.")
                    body += message.get("body", b"")
                    count(len(message.get("body", b"")))
                    if len(body) > self.limits.max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError as error:
            message = f"The body did not arrive within {limits.body_seconds:.0f} seconds, or in pieces too small."
            raise ApiError(400, "request_timeout", message) from error

    def _check_parts(self, body: bytes) -> None:
        """Raises ApiError for a body that takes long to parse, by its number of commas and brackets."""
        if sum(map(body.count, (b",", b"[", b"{"))) > self.limits.max_json_parts:
            message = f"The body has more than {self.limits.max_json_parts} values. Send fewer at a time."
            raise ApiError(400, "too_many_inputs", message)

    def _busy(self) -> ApiError:
        return ApiError(429, "queue_full", "Too many requests are being answered. Try again in a moment.")

    def _too_large(self) -> ApiError:
        return ApiError(413, "request_too_large", f"The body has more than {self.limits.max_body_bytes} bytes.")


def _replay_body(body: bytes, gone: asyncio.Future) -> Any:
    """Returns a `receive` function that replays the body, followed by the end of the connection."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict:
        return messages.pop() if messages else await asyncio.shield(gone)

    return replay


async def send_error(error: ApiError, send: Any) -> None:
    """Sends an error as a response of its own."""
    body = json.dumps(error.body).encode()
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
