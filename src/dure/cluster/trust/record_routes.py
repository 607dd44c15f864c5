"""FastAPI routes whose bodies and answers are msgspec records, described in the OpenAPI document.

Knows how records become HTTP. Refuses to know which routes there are.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.background import BackgroundTask

from dure.cluster.trust.connection import ErrorAnswer
from dure.errors import DureError, ResourceError, UsageError

__all__ = ["RecordApp", "answer", "body_as", "described"]

T = TypeVar("T", bound=msgspec.Struct)
_SCHEMAS = "#/components/schemas/{name}"
_JSON = "application/json"
_log = logging.getLogger(__name__)


class RecordApp(FastAPI):
    """An app that answers every `DureError` as an `ErrorAnswer`, and describes its records.

    records: all that its routes take and answer.
    """

    def __init__(self, title: str, records: Iterable[type]) -> None:
        super().__init__(title=title, docs_url=None, redoc_url=None)
        self._records = [*records, ErrorAnswer]
        self.add_exception_handler(DureError, _refused)
        self.add_exception_handler(Exception, _failed)

    def openapi(self) -> dict[str, Any]:
        """Return the document, with the schemas of the records."""
        document = super().openapi()
        _, schemas = msgspec.json.schema_components(self._records, ref_template=_SCHEMAS)
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return document


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DureError), "it is installed for these"
    status = 413 if isinstance(error, ResourceError) else 400
    return answer(ErrorAnswer(str(error), error.record()), status)


def _failed(request: Request, error: Exception) -> Response:
    """Log an error of ours, which the other side is not told."""
    _log.error("%s %r failed", request.method, request.url.path, exc_info=error)
    return answer(ErrorAnswer("something went wrong on this machine: see its log"), 500)


def answer(
    record: msgspec.Struct, status: int = 200, then: Callable[[], None] | None = None
) -> Response:
    """Return a response that is a record. then: is called once it is sent."""
    after = BackgroundTask(then) if then else None
    return Response(msgspec.json.encode(record), status, media_type=_JSON, background=after)


def body_as(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """Return a FastAPI dependency that reads the body as a record, and raises UsageError if it is none."""

    async def read(request: Request) -> T:
        try:
            return msgspec.json.decode(await request.body(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"the body is no {kind.__name__}: {error}") from error

    return read


def described(
    answers: type,
    *,
    takes: type[msgspec.Struct] | None = None,
    refuses: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Return the arguments that describe a route: what it takes, what it answers, why it refuses."""
    refusals = {
        status: {"description": why, **_content(ErrorAnswer)}
        for status, why in (refuses or {}).items()
    }
    more: dict[str, Any] = {}
    if takes is not None:
        more["openapi_extra"] = {"requestBody": {"required": True, **_content(takes)}}
    return {"responses": {200: {"description": "OK", **_content(answers)}, **refusals}, **more}


def _content(record: type) -> dict[str, Any]:
    return {"content": {_JSON: {"schema": {"$ref": _SCHEMAS.format(name=record.__name__)}}}}
