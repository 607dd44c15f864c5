"""Skips tools that the caller's server would have to run: this one runs none.

Refuses to know any dialect.
"""

from __future__ import annotations

from dure.http.unused_fields import let_through

__all__ = ["skip_tool"]


def skip_tool(index: int, kind: str) -> None:
    """Note a tool that the model is not shown. Raises ParameterError if the server is strict."""
    let_through(f"tools.{index}", f"this server cannot run a tool of type {kind!r}")
