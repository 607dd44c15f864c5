"""Writes an error as Ollama's API does. Refuses to know what went wrong."""

from __future__ import annotations

from typing import Any

from dure.http.problems import Problem

__all__ = ["ollama_error"]


def ollama_error(problem: Problem) -> dict[str, Any]:
    """Return the body of an error, which is also its line in a stream."""
    return {"error": problem.message}
