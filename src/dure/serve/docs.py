"""/docs: the OpenAPI document for people, without a byte from elsewhere; and a greeting at /."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

__all__ = ["router"]

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def show_docs() -> Response:
    """Show the page; it reads /openapi.json and works without Internet."""
    page = files("dure.serve").joinpath("docs.html").read_bytes()
    return Response(page, media_type="text/html; charset=utf-8")


@router.get("/", include_in_schema=False)
async def say_hello() -> Response:
    """Greet people who open the address in a browser, and Ollama's clients, which ask here first."""
    return Response("dure is running: the API is described at /docs\n", media_type="text/plain")
