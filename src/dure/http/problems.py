"""Tells a client what went wrong, in the shape of OpenAI's and llama-server's errors.

Knows which of our errors is which status, and what a client may try again.
Refuses to know routes; a dialect with another shape renders the same `Problem`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from dure import errors

__all__ = [
    "ErrorShape",
    "ForbiddenError",
    "NotFoundError",
    "Problem",
    "install_error_handlers",
    "json_response",
    "openai_error",
    "problem_of",
]

log = logging.getLogger(__name__)


class NotFoundError(errors.UsageError):
    """What the request names does not exist."""


class ForbiddenError(errors.UsageError):
    """The server was started without what the request asks for."""


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it. extra: more fields of the error object."""

    status: int
    type: str
    message: str
    param: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


ErrorShape = Callable[[Problem], dict[str, Any]]

FINAL = {"x-should-retry": "false"}

# The first class that fits; llama-server's names of the types, and OpenAI's if it has none.
_KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.ContextError, 400, "exceed_context_size_error"),
    (NotFoundError, 404, "not_found_error"),
    (ForbiddenError, 501, "not_supported_error"),
    (errors.UsageError, 400, "invalid_request_error"),
    (errors.BusyError, 429, "rate_limit_error"),
    (errors.NotReadyError, 503, "unavailable_error"),
    (errors.DureError, 500, "server_error"),
)


def problem_of(error: Exception) -> Problem:
    """Return an error as a client sees it. One that is not ours is a 500 without its text."""
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors())
    if isinstance(error, HTTPException):
        return _of_status(error)
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            param = error.param if isinstance(error, errors.ParameterError) else None
            return Problem(status, name, str(error), param, _extra(error), _headers(error, status))
    return Problem(500, "server_error", "something went wrong in the server: see its log")


def _extra(error: Exception) -> dict[str, Any]:
    if isinstance(error, errors.ContextError):
        return {"n_prompt_tokens": error.n_prompt, "n_ctx": error.n_ctx}
    if isinstance(error, errors.NotReadyError):
        return {"progress": round(error.progress, 4)}
    return {}


def _headers(error: Exception, status: int) -> Mapping[str, str]:
    if isinstance(error, errors.BusyError):
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, errors.NotReadyError):
        return {"retry-after": "2"}
    return FINAL if status < 500 or status == 501 else {}


def _of_status(error: HTTPException) -> Problem:
    names = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    message = str(error.detail)
    if message == HTTPStatus(error.status_code).phrase:
        hints = {404: "there is nothing at this address: /docs lists what there is"}
        hints[405] = "this address is not for this method: see the Allow header, or /docs"
        message = hints.get(error.status_code, message)
    name = names.get(error.status_code, "invalid_request_error")
    headers = {**(error.headers or {}), **(FINAL if error.status_code < 500 else {})}
    return Problem(error.status_code, name, message, headers=headers)


def _of_validation(found: Sequence[Any]) -> Problem:
    """Return the clearest complaint, and the parameter it is about."""
    first = _clearest(found)
    param = _param(first["loc"])
    what = _COMPLAINTS.get(first["type"], str(first["msg"]))
    message = f"{param}: {what}" if param else f"the body: {what}"
    return Problem(400, "invalid_request_error", message, param, headers=FINAL)


def _param(location: Sequence[int | str]) -> str | None:
    """Return the parameter's path, without pydantic's names of a union's alternatives."""
    path: list[str] = []
    for part in map(str, location[1:]):  # the first is "body", "query" or "path"
        tagged = path and (path[-1].isdigit() or path[-1] == "response_format")
        if part in _TYPES or not (part.isidentifier() or part.isdigit()) or part[0].isupper():
            continue
        if not (tagged and part in _TAGS):
            path.append(part)
    return ".".join(path) or None


_TYPES = frozenset({"str", "int", "float", "bool", "none", "dict"})
_TAGS = frozenset(
    {"system", "developer", "user", "assistant", "tool", "text", "refusal", "json_object"}
    | {"json_schema"}
)

_COMPLAINTS = {
    "extra_forbidden": "there is no such parameter; remove it, or see /docs",
    "missing": "this parameter is required",
    "none_required": "this is not supported: leave it out",
}


def _clearest(found: Sequence[Any]) -> Any:
    """Return a complaint of the union's alternative that went deepest."""
    return max(found, key=lambda complaint: len(complaint["loc"]))


def openai_error(problem: Problem) -> dict[str, Any]:
    """Return the error object of OpenAI's API, with llama-server's numeric code."""
    return {
        "error": {
            "code": problem.status,
            "message": problem.message,
            "type": problem.type,
            "param": problem.param,
            **problem.extra,
        }
    }


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON body, encoded quickly."""
    return Response(
        msgspec.json.encode(content), status, dict(headers or {}), media_type="application/json"
    )


def install_error_handlers(app: FastAPI, shapes: Mapping[str, ErrorShape]) -> None:
    """Answer errors that no route answers, such as that there is none, in the shape of their path.

    shapes: the beginning of a path, without a slash at its end, to the shape of errors below it;
    others are in OpenAI's.
    """

    async def answer(request: Request, error: Exception) -> Response:
        problem, path = problem_of(error), f"{request.url.path}/"
        shape = next((shapes[at] for at in shapes if path.startswith(f"{at}/")), openai_error)
        return json_response(shape(problem), problem.status, problem.headers)

    for kind in (errors.DureError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)
