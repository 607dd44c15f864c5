"""The models on this machine as the page lists them, each with its cards if it has them: of its quality,
and of its tuning.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from dure.errors import DureError
from dure.evaluate.card import card_paths
from dure.http.file_stamp import FileStamp, stamp_of
from dure.model.gguf import open_gguf
from dure.model.store import Library, ModelFacts, StoredModel, facts_at
from dure.tune.result.card import read_card

__all__ = ["is_known", "models_shown"]

_MOST_FILES = 256  # whose headers are not read again


def models_shown(served: Path | None) -> list[dict[str, Any]]:
    """Return the models of the library, and the one that is served, if any, though it lies elsewhere."""
    stored = Library().models()
    shown = [_model(one, served) for one in stored]
    if served is not None and not any(one["is_served"] for one in shown):
        shown.insert(0, _model(StoredModel(served.name, (served,), _size(served)), served))
    return shown


def is_known(model: Path, served: Path | None) -> bool:
    """Return whether a path is that of a model which `models_shown` lists and which is whole."""
    whole = (one.path for one in Library().models() if not one.unfinished)
    return model == served or model in whole


def _model(model: StoredModel, served: Path | None) -> dict[str, Any]:
    facts = _facts(model)
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
        "tuning": None if model.unfinished else _tuning(model.path, stamp_of(*model.paths)),
    }


def _facts(model: StoredModel) -> ModelFacts | None:
    if model.unfinished:
        return None
    if model.record is not None:
        return facts_at(model)
    return _facts_in_file(model.path, stamp_of(*model.paths))


@lru_cache(maxsize=_MOST_FILES)
def _facts_in_file(path: Path, _stamp: FileStamp) -> ModelFacts | None:
    """Return what a file's header says. It has the whole vocabulary, and an open page asks every second."""
    return facts_at(StoredModel(path.name, (path,), 0))


def _card(model: Path) -> Any:
    """Return what `dure eval --card` wrote about a model, None if there is nothing readable."""
    try:
        return msgspec.json.decode(card_paths(model)[1].read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


@lru_cache(maxsize=_MOST_FILES)
def _tuning(model: Path, _stamp: FileStamp) -> Any:
    """Return what a model was tuned with, None if its file does not say. Each file is read once."""
    try:
        with open_gguf(model) as gguf:
            card = read_card(gguf)
    except DureError:
        return None
    return None if card is None else msgspec.to_builtins(card)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
