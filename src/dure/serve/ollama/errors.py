"""A problem as Ollama tells it. Refuses to know what went wrong."""

from __future__ import annotations

from typing import Any

from dure.http.problems import Problem

__all__ = ["ollama_error"]


def ollama_error(problem: Problem) -> dict[str, Any]:
    """The body of an error, and the line of one in a stream."""
    return {"error": problem.message}
