"""Anthropic's Messages API: content blocks in, content blocks out."""

from dure.serve.anthropic.errors import anthropic_error
from dure.serve.anthropic.routes import router

__all__ = ["anthropic_error", "router"]
