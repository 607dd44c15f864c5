"""Adapters (LoRA): which there are, the scales of requests that do not say, and loading while it runs.

Knows HTTP, llama-server's form of /lora-adapters, and vLLM's of loading. Refuses to know how it is done.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import MaxLen, MinLen
from fastapi import APIRouter, Body, Response

from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.http.request_model import RequestBody, examples
from dure.serve.dialect.documentation import ERRORS, GUARDED, OPENAI_STYLE
from dure.serve.openai.document import AdapterAdded, AdaptersChanged, LoadedAdapter
from dure.serve.openai.fields import ADAPTER_FIELDS
from dure.serve.openai.parameters import MOST_ADAPTERS, AdapterScale
from dure.serve.state import CurrentServer

__all__ = ["LoadAdapterRequest", "UnloadAdapterRequest", "router"]

Name = Annotated[str, MinLen(1), MaxLen(256)]
LOADING = ERRORS | {501: "the server was started without --lora-dir"}
UNLOADING = LOADING | {404: "there is no such adapter"}

router = APIRouter(route_class=JsonRoute, tags=["adapters"])


class LoadAdapterRequest(RequestBody):
    """An adapter to load: its name for clients, and its file in the server's directory.

    load_inplace: the adapter that has the name already is replaced.
    """

    FIELDS = ADAPTER_FIELDS

    model_config = examples({"lora_name": "stories", "lora_path": "stories.gguf"})

    lora_name: Name
    lora_path: Annotated[str, MinLen(1), MaxLen(4096)]
    load_inplace: bool = False


class UnloadAdapterRequest(RequestBody):
    """The name of an adapter that is not needed any more."""

    FIELDS = ADAPTER_FIELDS

    model_config = examples({"lora_name": "stories"})

    lora_name: Name


@router.get("/lora-adapters", **OPENAI_STYLE.route(list[LoadedAdapter], errors=GUARDED))
async def list_adapters(server: CurrentServer) -> Response:
    """List the adapters, each with the scale of requests that do not say one."""
    pairs = server.model.adapters.scales().items()
    return json_response([{"id": n, "path": path, "scale": scale} for n, (path, scale) in pairs])


@router.post("/lora-adapters", **OPENAI_STYLE.route(AdaptersChanged))
async def change_adapters(
    body: Annotated[list[AdapterScale], MaxLen(MOST_ADAPTERS), Body(examples=[[]])],
    server: CurrentServer,
) -> Response:
    """Set the scales of requests that do not say any; what is not named gets 0."""
    server.model.adapters.change(((one.id, one.scale) for one in body), "id")
    return json_response({"success": True})


@router.post("/v1/load_lora_adapter", **OPENAI_STYLE.route(AdapterAdded, errors=LOADING))
async def load_adapter(body: LoadAdapterRequest, server: CurrentServer) -> Response:
    """Load an adapter into every rank, while the model runs; requests use it by its name, or its number."""
    server.model.check_ready()
    number = await server.adapter_loading.load(
        server.model, body.lora_name, body.lora_path, in_place=body.load_inplace
    )
    return json_response({"success": True, "id": number, "name": body.lora_name})


@router.post("/v1/unload_lora_adapter", **OPENAI_STYLE.route(AdaptersChanged, errors=UNLOADING))
async def unload_adapter(body: UnloadAdapterRequest, server: CurrentServer) -> Response:
    """Serve an adapter no more; answers that use it are finished first."""
    server.model.check_ready()
    await server.adapter_loading.unload(server.model, body.lora_name)
    return json_response({"success": True})
