"""/health, /props and /slots: how a server is doing, for load balancers and people."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from dure.chat.task import GenerationOptions
from dure.errors import NotReadyError
from dure.http.body import JsonRoute
from dure.http.problems import ForbiddenError, json_response
from dure.serve.dialect.documentation import GUARDED, OPENAI_STYLE
from dure.serve.openai.document import HealthStatus, Properties, SlotStatus
from dure.serve.openai.native_answer import generation_settings
from dure.serve.state import CurrentServer

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["server"])
HIDDEN = {501: "the server hides them"}
LOADING = {503: "the model is being loaded; progress is told from 0 to 1"}
NOT_YET = GUARDED | LOADING


@router.get("/health", **OPENAI_STYLE.route(HealthStatus, errors=LOADING))
@router.get("/v1/health", **OPENAI_STYLE.route(HealthStatus, alias=True))
async def show_health(server: CurrentServer) -> Response:
    """Whether requests are answered now."""
    server.model.check_ready()
    if server.model.engine.state == "restarting":
        raise NotReadyError(
            f"Loading model: {server.model.engine.doing}", progress=server.model.engine.progress
        )
    return json_response({"status": "ok"})


@router.get("/props", **OPENAI_STYLE.route(Properties, errors=NOT_YET))
async def show_properties(server: CurrentServer) -> Response:
    """What is served, and how answers are generated where a request says nothing."""
    info = server.model.engine.info
    params = generation_settings(GenerationOptions(server.sampling), {})
    return json_response(
        {
            "default_generation_settings": {"n_ctx": info.n_ctx, "params": params},
            "total_slots": info.n_sequences,
            "model_path": info.path,
            "model_alias": server.model.name,
            "chat_template": server.model.vocabulary.chat_template(),
            "bos_token": server.model.vocabulary.bos_text,
            "eos_token": server.model.vocabulary.eos_text,
            "modalities": {"vision": False, "audio": False},
            "build_info": server.fingerprint,
            "is_sleeping": False,
        }
    )


@router.get(
    "/slots",
    **OPENAI_STYLE.route(list[SlotStatus], errors=NOT_YET | HIDDEN),
)
async def list_slots(server: CurrentServer, fail_on_no_slot: str | None = None) -> Response:
    """How many answers are being written; which slot is which says nothing."""
    if not server.slots:
        raise ForbiddenError("this server does not tell its slots")
    info, stats = server.model.engine.info, server.model.engine.stats
    if fail_on_no_slot and stats.running >= info.n_sequences:
        raise NotReadyError("no slot is free", progress=1.0)
    slots: list[dict[str, Any]] = [
        {"id": index, "n_ctx": info.n_ctx, "is_processing": index < stats.running}
        for index in range(info.n_sequences)
    ]
    return json_response(slots)
