"""Builds the web application: which routes there are, how they are documented.

Knows the routers and the OpenAPI document. Refuses to know guards, sockets and engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from dure.http.body import JsonRoute
from dure.http.head_requests import HeadAsGet
from dure.http.problems import ErrorShape, install_error_handlers
from dure.serve import docs
from dure.serve.openai import (
    adapters,
    chat,
    completions,
    embeddings,
    health,
    models,
    native,
    rerank,
    tokens,
)
from dure.serve.page import routes as page_routes
from dure.serve.page.watch import PageWatch
from dure.serve.state import ServerState

__all__ = ["build_app"]

OPENAI = (
    chat.router,
    completions.router,
    embeddings.router,
    models.router,
    native.router,
    adapters.router,
    rerank.router,
    tokens.router,
    health.router,
)


def build_app(
    state: ServerState, dialects: Sequence[APIRouter] = (), page: PageWatch | None = None
) -> FastAPI:
    """Return the application of one server. dialects: routers of other APIs. page: what its page shows."""
    app = _DocumentedApi(
        title="dure", version=_version(), docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.server = state
    app.state.strict = state.strict
    app.state.page = page
    for router in (*OPENAI, *dialects, docs.router, page_routes.router):
        app.include_router(router)
    install_error_handlers(app, _shapes(dialects))
    app.add_middleware(HeadAsGet)
    return app


def _shapes(dialects: Sequence[APIRouter]) -> dict[str, ErrorShape]:
    """Return, for dialects with addresses of their own, how these begin and the shape of errors."""
    return {
        router.prefix: router.route_class.error_body
        for router in dialects
        if router.prefix and issubclass(router.route_class, JsonRoute)
    }


def _version() -> str:
    try:
        return version("dure")
    except PackageNotFoundError:  # run from a source tree
        return "0"


class _DocumentedApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the document of the API, without what FastAPI only assumes we answer."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                routes=self.routes,
                separate_input_output_schemas=False,
            )
            _drop_validation_errors(document)
            _drop_unused(document)
            self.openapi_schema = document
        return self.openapi_schema


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """Delete the 422 that FastAPI documents: we answer 400."""
    for methods in document.get("paths", {}).values():
        for operation in methods.values():
            operation.get("responses", {}).pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)


def _drop_unused(document: dict[str, Any]) -> None:
    """Delete types that are only read to be refused."""
    text = msgspec.json.encode(document).decode()
    schemas = document.get("components", {}).get("schemas", {})
    for name in [name for name in schemas if f'"#/components/schemas/{name}"' not in text]:
        del schemas[name]
