"""/docs: the OpenAPI document for people, without a byte from elsewhere.

Whoever wants keys opens it without one all the same: a browser shows the page, whose field takes the key,
and what the page asks for comes with it.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

__all__ = ["router"]

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def show_docs() -> Response:
    """Show the page; it reads /openapi.json and works without Internet."""
    page = files("dure.serve").joinpath("docs.html").read_bytes()
    headers = {"content-security-policy": "frame-ancestors 'none'"}  # nobody may click there unseen
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)
