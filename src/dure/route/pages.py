"""Answers what a router answers itself: its health, and the models of all upstreams as one list.

Knows the lists of OpenAI's, Anthropic's and Ollama's APIs. Refuses to route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from dure.route.live_upstream import LiveUpstream
from dure.route.router import Router

__all__ = ["PAGES"]

_NO_TIME = 0  # when a model was made is not known here


def _health(router: Router) -> tuple[int, Any]:
    states = {name: live.health.status for name, live in router.upstreams.items()}
    if any(live.health.status == "up" for live in router.upstreams.values()):
        return 200, {"status": "ok", "upstreams": states}
    message = "no upstream answers now"
    error = {"code": 503, "message": message, "type": "unavailable_error", "param": None}
    return 503, {"error": error, "upstreams": states}


def _served(router: Router) -> dict[str, list[LiveUpstream]]:
    """Return who serves each model, in the order of the rules."""
    found: dict[str, list[LiveUpstream]] = {"auto": list(router.upstreams.values())}
    for live in router.upstreams.values():
        for name in live.models:
            found.setdefault(name, []).append(live)
    return found


def _models(router: Router) -> tuple[int, Any]:
    entries = [_entry(name, serving) for name, serving in _served(router).items()]
    page = {"has_more": False, "first_id": entries[0]["id"], "last_id": entries[-1]["id"]}
    return 200, {"object": "list", "data": entries, **page}


def _entry(name: str, serving: list[LiveUpstream]) -> dict[str, Any]:
    contexts = [one.context for one in serving if one.context]
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "created": _NO_TIME,
        "created_at": datetime.fromtimestamp(_NO_TIME, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "owned_by": "dure",
        "upstreams": [one.name for one in serving],
        "meta": {"n_ctx": max(contexts)} if contexts else None,
    }


def _tags(router: Router) -> tuple[int, Any]:
    moment = datetime.fromtimestamp(_NO_TIME, UTC).isoformat()
    details = {"parent_model": "", "format": "", "family": "", "families": []}
    details |= {"parameter_size": "", "quantization_level": ""}
    shared = {"size": 0, "digest": "", "details": details, "modified_at": moment}
    return 200, {"models": [{"name": n, "model": n, **shared} for n in _served(router)]}


def _version(_: Router) -> tuple[int, Any]:
    from importlib.metadata import version

    return 200, {"version": version("dure")}


PAGES: Mapping[str, Callable[[Router], tuple[int, Any]]] = {
    "/health": _health,
    "/v1/health": _health,
    "/v1/models": _models,
    "/models": _models,
    "/api/tags": _tags,
    "/api/version": _version,
}
