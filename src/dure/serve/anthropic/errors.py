"""Writes an error as Anthropic's API does. Refuses to know what went wrong."""

from __future__ import annotations

from typing import Any

from dure.http.problems import Problem

__all__ = ["anthropic_error"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_error(problem: Problem) -> dict[str, Any]:
    """Return the body of an error, which is also the data of an error event."""
    fallback = "invalid_request_error" if problem.status < 500 else "api_error"
    kind = _TYPES.get(problem.status, fallback)
    return {"type": "error", "error": {"type": kind, "message": problem.message}}
