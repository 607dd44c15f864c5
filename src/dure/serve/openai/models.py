"""/v1/models: which models are served, under which names."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from dure.errors import NotReadyError
from dure.http.body import JsonRoute
from dure.http.problems import NotFoundError, json_response
from dure.serve.openai.answers import GUARDED, Model, ModelList, documented
from dure.serve.state import ServerState, State

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["models"])


@router.get("/v1/models", **documented(ModelList, errors=GUARDED))
@router.get("/models", **documented(ModelList, alias=True))
async def list_models(state: State) -> Response:
    """The models that are served."""
    return json_response({"object": "list", "data": _models(state)})


@router.get("/v1/models/{model:path}", **documented(Model, errors=GUARDED | {404: "no such model"}))
@router.get("/models/{model:path}", **documented(Model, alias=True))
async def show_model(model: str, state: State) -> Response:
    """One model, by its name or an alias."""
    for found in _models(state):
        if model == found["id"] or model in found["aliases"]:
            return json_response(found)
    raise NotFoundError(f"no model is named {model!r}: /v1/models lists what is served")


def _models(state: ServerState) -> list[dict[str, Any]]:
    models = [_model(state)]
    return models if state.embedding is None else [*models, _model(state.embedder)]


def _model(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.model,
        "object": "model",
        "created": state.created,
        "owned_by": "dure",
        "aliases": list(state.aliases),
        "tags": [],
        "meta": _meta(state),
    }


def _meta(state: ServerState) -> dict[str, Any] | None:
    try:
        info = state.engine.info
    except NotReadyError:
        return None
    return {
        "architecture": info.architecture,
        "n_vocab": info.n_vocab,
        "n_ctx": info.n_ctx,
        "n_ctx_train": info.n_ctx_train,
        "n_embd": info.n_embd,
        "n_params": info.n_params,
        "size": info.weights_bytes,
        "file_type": info.file_type,
        "n_ranks": info.n_ranks,
    }
