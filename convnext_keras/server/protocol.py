"""HTTP connections whose headers are bounded before anything else is known of their sender."""

import json
from typing import Any

from convnext_keras.server.errors import ApiError

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # httptools is not installed: uvicorn takes h11, which bounds headers by itself
    HttpToolsProtocol = None

READ_BYTES = 256 * 2**10  # that asyncio gives at a time; they may hold the end of a body and the next request


def bounded_protocol(max_header_bytes: int) -> Any:
    """Returns a class of connections for `uvicorn.run(http=...)`, which answers larger headers with the status 431."""
    if HttpToolsProtocol is None:
        return "h11"

    class BoundedProtocol(HttpToolsProtocol):
        """Counts the bytes of a request line and its headers as they arrive."""

        head = 0  # bytes of headers, as far as they are parsed
        unparsed = 0  # bytes that came since the last complete header
        is_blocked = False

        def data_received(self, data: bytes) -> None:
            """Takes bytes, unless the headers were too large."""
            if self.is_blocked:
                return
            self.unparsed += len(data)
            if self.unparsed > max_header_bytes + READ_BYTES:
                self._reject()
                return
            super().data_received(data)

        def on_message_begin(self) -> None:
            """Returns a request begins."""
            self.head = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            """Returns a part of the request line."""
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            """Returns a header is complete."""
            self._count(len(name) + len(value) + 4)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            """Returns all headers are there."""
            self.unparsed = 0
            if not self.is_blocked:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            """Returns a part of the body, which `GuardMiddleware` counts."""
            self.unparsed = 0
            if not self.is_blocked:
                super().on_body(body)

        def on_message_complete(self) -> None:
            """Returns a request ends."""
            self.unparsed = 0
            if not self.is_blocked:
                super().on_message_complete()

        def _count(self, size: int) -> None:
            self.head, self.unparsed = self.head + size, 0
            if self.head > max_header_bytes and not self.is_blocked:
                self._reject()

        def _reject(self) -> None:
            """Returns answers and hangs up."""
            self.is_blocked = True
            message = f"The headers have more than {max_header_bytes} bytes."
            body = json.dumps(ApiError(431, "headers_too_large", message).body).encode()
            head = (
                "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return BoundedProtocol
