"""Fetching of images by URL, limited to the public internet.

The name is resolved once, every address that it has is checked, and the checked address itself is dialled, so that no
second answer of the name server can lead elsewhere; redirects are followed by hand through the same check.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import httpcore2

from convnext_keras.server.errors import ApiError, bad_request

# Ranges that `ipaddress` calls global or does not know, and that lead to private hosts or to no host.
BLOCKED_NETWORKS = [
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "::/96", "64:ff9b::/96", "64:ff9b:1::/48")
]
PORTS = {"http": 80, "https": 443}
MAX_REDIRECTS = 3
MAX_KEPT_CONNECTIONS = "%/?:@!$&'()*+,;=~"  # characters of paths and queries that mean something as they are
REDIRECTS = (301, 302, 303, 307, 308)
MODES = ("public", "allowlist", "off")
CHUNK_TIMEOUTS = {"connect": 3.0, "read": 5.0, "write": 5.0, "pool": 5.0}


class ImageURLPolicy(NamedTuple):
    """Policy of the URLs that may be fetched; `ImageURLPolicy.of` validates mode and hosts.

    Attributes:
        mode: `"public"`, every public host; `"allowlist"`, the hosts named; `"off"`, none.
        hosts: Hosts for `"allowlist"`.
        is_blocked: Whether an address of the network may not be dialled.
        ports: Ports that may be dialled; None for any.
    """

    mode: str = "public"
    hosts: frozenset[str] = frozenset()
    is_blocked: Callable[[str], bool] = lambda address: is_private(address)
    ports: frozenset[int] | None = frozenset(PORTS.values())

    @classmethod
    def of(cls, mode: str, hosts: Iterable[str] = ()) -> "ImageURLPolicy":
        """Returns the policy of a mode.

        Raises:
            ValueError: If there is no such mode, or hosts are named for another mode than `"allowlist"` or not for it.
        """
        known = frozenset(host.lower() for host in hosts)
        if mode not in MODES:
            raise ValueError(f"The policy for addresses of images must be one of {MODES}. Received: {mode!r}")
        if bool(known) != (mode == "allowlist"):
            raise ValueError(f"Hosts are needed for 'allowlist', and for it only. Received: {mode!r}, {sorted(known)}")
        return cls(mode, known)


class FetchBlockedError(Exception):
    """Error of a fetch that is blocked or failed; the client does not learn which."""


def is_private(address: str) -> bool:
    """Returns whether an IP address is not public, also if it is embedded in an IPv6 address."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.sixtofour or parsed.teredo:
            return True
        parsed = parsed.ipv4_mapped or parsed
    special = not parsed.is_global or parsed.is_multicast or parsed.is_reserved
    return special or any(parsed in network for network in BLOCKED_NETWORKS if network.version == parsed.version)


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Network backend that connects only to addresses that it resolved and checked itself."""

    def __init__(self, policy: ImageURLPolicy) -> None:
        self.policy = policy
        self.network: Any = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        """Resolves, checks every answer, and connects to the first that answers."""
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise FetchBlockedError from error
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        if not addresses or any(self.policy.is_blocked(address) for address in addresses):
            raise FetchBlockedError
        failure: Exception = FetchBlockedError()
        for address in addresses[:2]:
            try:
                return await self.network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, path, timeout=None, socket_options=None):
        """Refuses: nothing behind a socket of this machine is fetched."""
        raise FetchBlockedError

    async def sleep(self, seconds):
        """Waits as long as the pool asks for."""
        await asyncio.sleep(seconds)


class Fetcher:
    """Fetches images by URL under a policy.

    Args:
        policy: Policy which addresses may be fetched.
        seconds: Seconds for the whole of one fetch.
        max_bytes: Max bytes of one image.
    """

    def __init__(self, policy: ImageURLPolicy, seconds: float, max_bytes: int) -> None:
        self.policy, self.seconds, self.max_bytes = policy, seconds, max_bytes
        self.pool = httpcore2.AsyncConnectionPool(network_backend=PinnedBackend(policy), max_connections=32)

    async def close(self) -> None:
        """Closes all connections."""
        await self.pool.aclose()

    async def __call__(self, url: str, param: str) -> bytes:
        """Returns the bytes at an address.

        Raises:
            ApiError: If addresses are not allowed at all, or this one could not be had; one wording for all causes.
        """
        if self.policy.mode == "off":
            message = f"{param}: addresses are not fetched here. Send the image itself as a data URI."
            raise bad_request("image_url_not_allowed", message, param)
        try:
            async with asyncio.timeout(self.seconds):
                return await self._follow(url)
        except (FetchBlockedError, TimeoutError, OSError, ValueError, *HTTP_FAILURES) as error:
            raise fetch_failed_error(param) from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._get(url)
            if isinstance(answer, bytes):
                return answer
            if urlsplit(url).scheme == "https" and urlsplit(answer).scheme != "https":
                raise FetchBlockedError
            url = answer
        raise FetchBlockedError

    async def _get(self, url: str) -> bytes | str:
        """Returns the content, or the address that it has moved to."""
        checked = self._checked(url)
        extensions = {"timeout": CHUNK_TIMEOUTS}
        headers = [("accept-encoding", "identity"), ("accept", "image/*")]
        async with self.pool.stream("GET", checked, headers=headers, extensions=extensions) as response:
            fields = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in fields:
                return urljoin(url, fields[b"location"].decode("latin-1"))
            if response.status != 200 or int(fields.get(b"content-length", b"0")) > self.max_bytes:
                raise FetchBlockedError
            content = bytearray()
            async for chunk in response.aiter_stream():
                content += chunk
                if len(content) > self.max_bytes:
                    raise FetchBlockedError
            return bytes(content)

    def _checked(self, url: str) -> httpcore2.URL:
        """Parses a URL once and checks it against the policy; returns its parts."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or parts.username or parts.password or not parts.hostname:
            raise FetchBlockedError
        port = PORTS[parts.scheme] if parts.port is None else parts.port
        if self.policy.ports is not None and port not in self.policy.ports:
            raise FetchBlockedError
        if self.policy.mode == "allowlist" and parts.hostname not in self.policy.hosts:
            raise FetchBlockedError
        target = quote(parts.path or "/", safe=MAX_KEPT_CONNECTIONS) + (
            f"?{quote(parts.query, safe=MAX_KEPT_CONNECTIONS)}" if parts.query else ""
        )
        return httpcore2.URL(scheme=parts.scheme, host=parts.hostname.encode("idna"), port=port, target=target)


HTTP_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
)


def fetch_failed_error(param: str) -> ApiError:
    """Returns the one error of all fetches that did not succeed."""
    return bad_request("image_fetch_failed", f"{param}: the image could not be fetched. Send it as a data URI.", param)
