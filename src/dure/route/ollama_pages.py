"""Answers what Ollama's clients ask before they chat: which models there are, are loaded, and can do what.

Knows the shapes of Ollama's lists. Refuses to route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dure.http.ollama_release import OLLAMA_VERSION
from dure.route.client import UpstreamError
from dure.route.live_upstream import LiveUpstream
from dure.route.router import Router

__all__ = ["loaded", "shown", "tags", "version"]

_NO_TIME = "1970-01-01T00:00:00Z"  # when a model was made is not known here
_NEVER = "9999-12-31T23:59:59Z"
_WAIT_S = 2.0
_DETAILS: Mapping[str, Any] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}


async def version(_: Router) -> tuple[int, Any]:
    """Name the release of Ollama whose API this is."""
    return 200, {"version": OLLAMA_VERSION}


async def tags(router: Router) -> tuple[int, Any]:
    """List the models of all upstreams, and `auto`."""
    return 200, {"models": [_identity(name) for name in router.serving()]}


async def loaded(router: Router) -> tuple[int, Any]:
    """List what is loaded: as each upstream says, or else what it serves; each model once, and where."""
    up = [one for one in router.upstreams.values() if one.health.status == "up"]
    found: dict[str, dict[str, Any]] = {}
    told = await asyncio.gather(*(_loaded_by(one) for one in up))
    for live, models in zip(up, told, strict=True):
        for model in models:
            entry = found.setdefault(model["name"], {**model, "upstreams": []})
            entry["upstreams"].append(live.name)
    return 200, {"models": list(found.values())}


class _Loaded(msgspec.Struct):
    models: list[dict[str, Any]]


async def _loaded_by(live: LiveUpstream) -> list[dict[str, Any]]:
    """Return an upstream's loaded models. A service keeps no model for one customer."""
    if live.upstream.kind == "cloud":
        return []
    try:
        async with asyncio.timeout(_WAIT_S):
            answer = await live.client.send("GET", "/api/ps", live.key_headers())
            body = await answer.body()
        found = msgspec.json.decode(body, type=_Loaded).models if answer.status == 200 else None
    except (TimeoutError, UpstreamError, msgspec.MsgspecError, UnicodeDecodeError):
        found = None
    if found is not None:
        return [one for one in found if isinstance(one.get("name"), str)]
    return [_running(name, live) for name in live.models]


def shown(router: Router, model: str) -> Any:
    """Return what is known of a model whose servers do not describe it, or of all: "" stands for `auto`."""
    name = model or "auto"
    served = router.serving()
    serving = served.get(name) or served.get(name.removesuffix(":latest")) or ()
    context = _longest(serving)
    return {
        "modelfile": "",
        "parameters": f"num_ctx {context}" if context else "",
        "template": "",
        "license": "",
        "details": _DETAILS,
        "model_info": {
            "general.architecture": "unknown",
            **({"unknown.context_length": context} if context else {}),
        },
        "capabilities": _capabilities(serving),
        "modified_at": _NO_TIME,
    }


def _capabilities(serving: Sequence[LiveUpstream]) -> list[str]:
    """Return what some upstream can do; a request that needs it goes there."""
    found = ["completion"]
    if any(one.upstream.tools for one in serving):
        found.append("tools")
    return [*found, "vision"] if any(one.upstream.vision for one in serving) else found


def _longest(serving: Sequence[LiveUpstream]) -> int | None:
    return max((one.context for one in serving if one.context), default=None)


def _identity(name: str) -> dict[str, Any]:
    shared = {"size": 0, "digest": "", "details": _DETAILS, "modified_at": _NO_TIME}
    return {"name": name, "model": name, **shared}


def _running(name: str, live: LiveUpstream) -> dict[str, Any]:
    context = {"context_length": live.context} if live.context else {}
    return {**_identity(name), "size_vram": 0, "expires_at": _NEVER, **context}
