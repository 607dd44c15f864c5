"""/docs: the OpenAPI document for people, without a byte from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

__all__ = ["router"]

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def show_docs() -> Response:
    """The page; it reads /openapi.json and works in a home without Internet."""
    page = files("dure.serve").joinpath("docs.html").read_bytes()
    return Response(page, media_type="text/html; charset=utf-8")
