"""Describes the served model as Ollama does, from its own file.

Refuses to know HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from dure.errors import ModelError
from dure.generate.request import ModelInfo
from dure.model.gguf import open_gguf

__all__ = ["described", "listed", "running"]

NEVER = "9999-12-31T23:59:59Z"  # the model stays loaded as long as the server runs
_LONG = 64  # more elements of a list are shown on demand only

Entry = dict[str, Any]


def listed(info: ModelInfo, name: str) -> Entry:
    """Return the model's entry in a list of models."""
    return {**_identity(info, name), "modified_at": _modified(info)}


def running(info: ModelInfo, name: str) -> Entry:
    """Return the model's entry in a list of loaded models. It is in main memory."""
    return {
        **_identity(info, name),
        "size": info.weights_bytes,
        "size_vram": 0,
        "expires_at": NEVER,
        "context_length": info.n_ctx,
    }


def described(info: ModelInfo, *, verbose: bool) -> Entry:
    """Return all that is known of the model. Reads the header of its file."""
    metadata, template = _metadata(info.path, verbose)
    return {
        "modelfile": f"FROM {Path(info.path).name}\n",
        "parameters": f"num_ctx {info.n_ctx}",
        "template": template,
        "license": str(metadata.get("general.license", "")),
        "details": _details(info),
        "model_info": {**metadata, **_facts(info)},
        "capabilities": _capabilities(info, template),
        "modified_at": _modified(info),
    }


def _identity(info: ModelInfo, name: str) -> Entry:
    return {
        "name": name,
        "model": name,
        "size": _size(info),
        "digest": _digest(info),
        "details": _details(info),
    }


def _details(info: ModelInfo) -> Entry:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": _billions(info.n_params),
        "quantization_level": info.file_type,
    }


def _facts(info: ModelInfo) -> Entry:
    return {
        "general.architecture": info.architecture,
        "general.parameter_count": info.n_params,
        f"{info.architecture}.context_length": info.n_ctx_train,
        f"{info.architecture}.embedding_length": info.n_embd,
    }


def _capabilities(info: ModelInfo, template: str) -> list[str]:
    """Return what clients ask for before they offer tools or thoughts."""
    found = ["completion"]
    if "tools" in template:
        found.append("tools")
    if "<think>" in template or "reasoning" in template:
        found.append("thinking")
    return [*found, "embedding"] if info.embeds else found


def _billions(n_params: int) -> str:
    """Return a number of parameters as Ollama writes it: 751.63M, 30.5B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n_params >= size:
            return f"{n_params / size:.4g}{unit}"
    return str(n_params)


def _size(info: ModelInfo) -> int:
    try:
        return Path(info.path).stat().st_size
    except OSError:  # moved since it was loaded
        return info.weights_bytes


def _modified(info: ModelInfo) -> str:
    try:
        seconds = Path(info.path).stat().st_mtime
    except OSError:
        seconds = 0.0
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _digest(info: ModelInfo) -> str:
    """Return a digest that differs between models; not of their bytes, which would take minutes."""
    known = f"{info.path}\n{_size(info)}\n{_modified(info)}\n{info.n_params}"
    return hashlib.sha256(known.encode()).hexdigest()


@lru_cache(maxsize=4)
def _metadata(path: str, verbose: bool) -> tuple[Mapping[str, Any], str]:
    """Return the metadata, long lists as null, and the chat template."""
    try:
        with open_gguf(Path(path)) as gguf:
            values = {
                key: value.value if verbose or value.count <= _LONG else None
                for key, value in gguf.metadata.items()
            }
    except ModelError:  # moved since it was loaded
        return {}, ""
    return values, str(values.pop("tokenizer.chat_template", "") or "")
