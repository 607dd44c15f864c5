"""Finds a model to plan for: a file here, the sizes of a published one, or a header at the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.cli.terminal.pull_progress import pull_progress
from dure.errors import UsageError
from dure.model.gguf import GgufFile, open_gguf
from dure.model.store import Library, Name, located
from dure.model.store.names import short_names
from dure.plan.outline import near_outlines, outline_named, outlined_model, requantized

__all__ = ["planned_model", "published_model"]

_DEFAULT = "Q4_K_M"


@contextmanager
def planned_model(text: str, quantization: str | None = None) -> Iterator[GgufFile]:
    """Open what is known of a model without its weights, in its own types or in a quantization's.

    Raises UsageError if there is no model of this name, and what reading a header raises.
    """
    name = _located(text)
    if isinstance(name, Path):
        with open_gguf(name) as model:
            yield _typed(model, quantization)
        return
    if published := published_model(text, quantization):
        yield published
        return
    assert name is not None, "else it is published"
    from dure.model.store.remote import opened_remote

    with pull_progress() as watch, opened_remote(name, watch) as model:
        yield _typed(model, quantization)


def published_model(text: str, quantization: str | None = None) -> GgufFile | None:
    """Return a published model by its short name, with a quantization behind it or not; else None."""
    base, _, last = text.rpartition(":")
    if outline := outline_named(text):
        usual = outline.native or _usual(text.lower())
        return outlined_model(text.lower(), outline, quantization or usual)
    if outline := outline_named(base):
        return outlined_model(base.lower(), outline, quantization or last)
    return None


def _located(text: str) -> Path | Name | None:
    """Return where a model is; None if only its sizes are known."""
    try:
        return located(text, Library())
    except UsageError as error:
        if published_model(text):
            return None
        near = ", ".join(near_outlines(text)[:3])
        raise UsageError(error.problem, f"{error.cure}; or plan for {near}") from error


def _usual(short: str) -> str:
    """Return the quantization that `dure pull` takes."""
    known = short_names().get(short, "").rpartition(":")[2]
    return known or _DEFAULT


def _typed(model: GgufFile, quantization: str | None) -> GgufFile:
    return model if quantization is None else requantized(model, quantization)
