"""/docs: the OpenAPI document for people, without a byte from elsewhere; and what / says.

Whoever wants keys opens these two addresses without one all the same: a browser shows the page, whose field
takes the key, and what the page asks for comes with it.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

__all__ = ["router"]

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def show_docs() -> Response:
    """Show the page; it reads /openapi.json and works without Internet."""
    page = files("dure.serve").joinpath("docs.html").read_bytes()
    return Response(page, media_type="text/html; charset=utf-8")


@router.get("/", include_in_schema=False)
async def say_hello(request: Request) -> Response:
    """Send a browser to the page; greet others, as Ollama's clients, which ask here first."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("docs", headers={"vary": "accept"})
    return Response("dure is running: the API is described at /docs\n", media_type="text/plain")
