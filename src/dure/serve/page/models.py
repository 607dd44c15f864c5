"""The models on this machine as the page lists them, each with its quality card if it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dure.evaluate.card import card_paths
from dure.model.store import Library, StoredModel, facts_at

__all__ = ["models_shown"]


def models_shown(served: Path) -> list[dict[str, Any]]:
    """Return the models of the library, and the one that is served if it lies elsewhere."""
    stored = Library().models()
    shown = [_model(one, served) for one in stored]
    if not any(one["is_served"] for one in shown):
        shown.insert(0, _model(StoredModel(served.name, (served,), _size(served)), served))
    return shown


def _model(model: StoredModel, served: Path) -> dict[str, Any]:
    facts = None if model.unfinished else facts_at(model)
    return {
        "name": model.short_name or model.name,
        "path": str(model.path),
        "size_bytes": model.size_bytes,
        "is_unfinished": model.unfinished,
        "architecture": facts.architecture if facts else None,
        "file_type": facts.quantization if facts else None,
        "n_params": facts.parameters if facts else None,
        "n_ctx_train": facts.context_length if facts else None,
        "is_served": any(path == served for path in model.paths),
        "card": _card(model.path),
    }


def _card(model: Path) -> Any:
    """Return what `dure eval --card` wrote about a model, None if there is nothing readable."""
    try:
        return msgspec.json.decode(card_paths(model)[1].read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
