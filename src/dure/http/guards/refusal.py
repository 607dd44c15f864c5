"""Answers instead of the API if a guard refuses a request, in the caller's own dialect.

Knows the shape of an error for every dialect: llama-server's and OpenAI's envelope, Anthropic's and
Ollama's. Refuses to know why a request is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from dure.http.guards.asgi import Headers, Send

__all__ = ["Refusal", "refuse", "stream_error"]

# status: type in the OpenAI envelope (llama-server's names), type in Anthropic's
_KINDS = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    408: ("timeout_error", "timeout_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    431: ("invalid_request_error", "request_too_large"),
    500: ("server_error", "api_error"),
    502: ("server_error", "api_error"),
    503: ("unavailable_error", "overloaded_error"),
}


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered. retry_after_s None: the same request is refused again.

    close: the connection cannot be used for another request.
    """

    status: int
    message: str
    retry_after_s: float | None = None
    close: bool = False

    def body(self, path: str) -> bytes:
        """Return the error as the dialect of `path` writes it."""
        return json.dumps(self._error(path)).encode()

    def headers(self) -> Headers:
        """Return headers that tell a client whether to try again. Source: the openai client's retries."""
        headers = [(b"content-type", b"application/json")]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_after_s is None:
            headers.append((b"x-should-retry", b"false"))
        else:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))))
        if self.close:
            headers.append((b"connection", b"close"))
        return headers

    def stream_end(self, path: str, content_type: bytes) -> bytes:
        """Return what ends a stream that has begun: an event, or a line of JSON; b"" for other types."""
        return stream_error(self.body(path), path, content_type)

    def _error(self, path: str) -> dict[str, Any]:
        kind, anthropic = _KINDS[self.status]
        if _is_anthropic(path):
            return {"type": "error", "error": {"type": anthropic, "message": self.message}}
        if path.startswith("/api/"):
            return {"error": self.message}
        error = {"code": self.status, "message": self.message, "type": kind, "param": None}
        return {"error": error}


def stream_error(body: bytes, path: str, content_type: bytes) -> bytes:
    """Return an error, as the dialect of `path` writes it, as the end of a stream; b"" for other types."""
    line = b" ".join(body.splitlines())
    if content_type.startswith(b"text/event-stream"):
        event = b"event: error\n" if _is_anthropic(path) else b""
        return event + b"data: " + line + b"\n\n"
    return line + b"\n" if content_type.startswith(b"application/x-ndjson") else b""


def _is_anthropic(path: str) -> bool:
    return path.startswith("/v1/messages")


async def refuse(send: Send, refusal: Refusal, path: str) -> None:
    """Send the refusal as a whole answer."""
    body = refusal.body(path)
    headers = [*refusal.headers(), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
