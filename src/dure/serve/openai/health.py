"""/health, /props and /slots: how a server is doing, for load balancers and people."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from dure.chat.task import GenerationOptions
from dure.errors import NotReadyError
from dure.http.body import JsonRoute
from dure.http.problems import ForbiddenError, json_response
from dure.serve.openai.answers import GUARDED, Health, Properties, Slot, documented
from dure.serve.openai.native import generation_settings
from dure.serve.state import State

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["server"])
LOADING = {503: "the model is being loaded; progress is told from 0 to 1"}
NOT_YET = GUARDED | LOADING


@router.get("/health", **documented(Health, errors=LOADING))
@router.get("/v1/health", **documented(Health, alias=True))
async def show_health(state: State) -> Response:
    """Whether requests are answered now."""
    state.ready()
    if state.engine.state == "restarting":
        raise NotReadyError(f"Loading model: {state.engine.doing}", progress=state.engine.progress)
    return json_response({"status": "ok"})


@router.get("/props", **documented(Properties, errors=NOT_YET))
async def show_properties(state: State) -> Response:
    """What is served, and how answers are generated where a request says nothing."""
    info = state.engine.info
    params = generation_settings(GenerationOptions(state.sampling), {})
    return json_response(
        {
            "default_generation_settings": {"n_ctx": info.n_ctx, "params": params},
            "total_slots": info.n_sequences,
            "model_path": info.path,
            "model_alias": state.model,
            "chat_template": state.vocabulary.chat_template(),
            "bos_token": state.vocabulary.bos_text,
            "eos_token": state.vocabulary.eos_text,
            "modalities": {"vision": False, "audio": False},
            "build_info": state.fingerprint,
            "is_sleeping": False,
        }
    )


@router.get("/slots", **documented(list[Slot], errors=NOT_YET | {501: "the server hides them"}))
async def list_slots(state: State, fail_on_no_slot: str | None = None) -> Response:
    """How many answers are being written; which slot is which says nothing."""
    if not state.slots:
        raise ForbiddenError("this server does not tell its slots")
    info, stats = state.engine.info, state.engine.stats
    if fail_on_no_slot and stats.running >= info.n_sequences:
        raise NotReadyError("no slot is free", progress=1.0)
    slots: list[dict[str, Any]] = [
        {"id": index, "n_ctx": info.n_ctx, "is_processing": index < stats.running}
        for index in range(info.n_sequences)
    ]
    return json_response(slots)
