"""/lora-adapters: which adapters (LoRA) there are, and the scales of requests that do not say.

Knows HTTP, and llama-server's form. Refuses to know how adapters are loaded.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import MaxLen
from fastapi import APIRouter, Body, Response

from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.serve.dialect.documentation import GUARDED, OPENAI_STYLE
from dure.serve.openai.document import AdaptersChanged, LoadedAdapter
from dure.serve.openai.parameters import MOST_ADAPTERS, AdapterScale
from dure.serve.state import CurrentServer

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["llama-server"])


@router.get("/lora-adapters", **OPENAI_STYLE.route(list[LoadedAdapter], errors=GUARDED))
async def list_adapters(server: CurrentServer) -> Response:
    """List the adapters, each with the scale of requests that do not say one."""
    adapters = server.model.adapters
    pairs = zip(adapters.paths, adapters.scales, strict=True)
    return json_response(
        [{"id": n, "path": path, "scale": scale} for n, (path, scale) in enumerate(pairs)]
    )


@router.post("/lora-adapters", **OPENAI_STYLE.route(AdaptersChanged))
async def change_adapters(
    body: Annotated[list[AdapterScale], MaxLen(MOST_ADAPTERS), Body(examples=[[]])],
    server: CurrentServer,
) -> Response:
    """Set the scales of requests that do not say any; what is not named gets 0."""
    server.model.adapters.change(((one.id, one.scale) for one in body), "id")
    return json_response({"success": True})
