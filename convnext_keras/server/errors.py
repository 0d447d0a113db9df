"""Errors in OpenAI's form, `{"error": {"message", "type", "param", "code"}}`, with the message once more for others."""

import json
from collections.abc import Mapping

from starlette.responses import Response

# The type that OpenAI's clients see for a status, where it is not the usual one.
TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
RETRY_SECONDS = 1


class ApiError(Exception):
    """Error of a request, with the response that the client gets.

    Args:
        status: Status of the HTTP response.
        code: A short name for programs.
        message: One sentence for people, without anything of the server's inside.
        param: Dotted path of the field at fault, such as `input.1`.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param

    @property
    def body(self) -> dict:
        """Returns the JSON of the response: OpenAI's, and the message where clients of Cohere and Voyage read it."""
        kind = TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error, "message": self.message, "detail": self.message}

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns the headers of the response: when to retry, or how to authenticate."""
        if self.status in (429, 503):
            return {"retry-after": str(RETRY_SECONDS)}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def response(self, headers: Mapping[str, str] = {}) -> Response:
        """Returns the response; what clients sent, such as halves of surrogate pairs, is escaped."""
        content = json.dumps(self.body).encode()
        return Response(content, self.status, {**self.headers, **headers}, media_type="application/json")


def bad_request(code: str, message: str, param: str | None = None) -> ApiError:
    """Returns an error of status 400: the request itself is at fault."""
    return ApiError(400, code, message, param)
