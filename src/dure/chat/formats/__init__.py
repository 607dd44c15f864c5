"""Formats of tool calls, one file per kind.

`format_of` recognizes a model family by how its chat template renders a past call.
"""

from __future__ import annotations

from dure.chat.capabilities import Capabilities
from dure.chat.formats.base import CallFormat
from dure.chat.formats.function_tags import CODER, SEED
from dure.chat.formats.harmony import Harmony
from dure.chat.formats.json_calls import GENERIC, HERMES, LLAMA3

__all__ = ["CallFormat", "format_of"]

_NATIVE: tuple[CallFormat, ...] = (Harmony(), HERMES, LLAMA3, CODER, SEED)


def format_of(can: Capabilities) -> tuple[CallFormat, bool]:
    """Return the format for a template, and whether the template itself uses it."""
    for candidate in _NATIVE:
        if can.calls and can.tools and candidate.written.search(can.calls):
            return candidate, True
    return GENERIC, False
