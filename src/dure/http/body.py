"""Reads a request's body: strict JSON of any content type, with errors in a dialect's shape.

Knows bytes, JSON and the route that turns errors into answers. Refuses to know what a body means:
`request_model` has its models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException

from dure.errors import DureError
from dure.http.access_log import record_of
from dure.http.problems import Problem, json_response, openai_error, problem_of
from dure.http.unused_fields import HEADER, UnusedFields, collecting

__all__ = ["JsonRoute", "decode_json"]

log = logging.getLogger(__name__)

MAX_MEMBERS = 4096


def decode_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises HTTPException (400) if it is none: not UTF-8, NaN, numbers beyond a float, nested too deep.
    """
    try:
        return _not_too_wide(msgspec.json.decode(body))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except msgspec.MsgspecError as error:  # malformed, truncated or a number out of range
        reason = str(error)
    raise HTTPException(400, f"the body is no valid JSON: {reason}")


def _not_too_wide(value: Any) -> Any:
    """Raise HTTPException (400) if an object has more members than any request needs."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if len(found) > MAX_MEMBERS:
                raise HTTPException(400, f"an object has more than {MAX_MEMBERS} members")
            waiting += found.values()
        elif isinstance(found, list):
            waiting += [part for part in found if isinstance(part, dict | list)]
    return value


class _JsonRequest(Request):
    """Reads the body as JSON, whatever its content type says (`curl -d` says a form's)."""

    def __init__(self, request: Request) -> None:
        headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
        scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
        super().__init__(scope, request.receive)

    async def json(self) -> Any:
        return decode_json(await self.body())


class JsonRoute(APIRoute):
    """A route that reads JSON strictly, and answers errors in the shape of `error_body`."""

    @staticmethod
    def error_body(problem: Problem) -> dict[str, Any]:
        """Return the body of an error; a dialect with another shape overrides it."""
        return openai_error(problem)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, between our reading and our errors."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            unused = UnusedFields(strict=getattr(request.app.state, "strict", False))
            with collecting(unused):
                try:
                    response = await handle(_JsonRequest(request))
                except (DureError, RequestValidationError, StarletteHTTPException) as error:
                    response = self._failed(error)
                except Exception as error:
                    log.exception("%s %s failed", request.method, request.url.path)
                    response = self._failed(error)
            _tell(unused, request, response)
            return response

        return handler

    def _failed(self, error: Exception) -> Response:
        problem = problem_of(error)
        return json_response(self.error_body(problem), problem.status, problem.headers)


def _tell(unused: UnusedFields, request: Request, response: Response) -> None:
    """Name what was let through, to the client and in the request's record."""
    if not unused.names:
        return
    response.headers[HEADER] = unused.header()
    record = record_of(request.scope)
    if record is not None:
        record.ignored = unused.labels()
