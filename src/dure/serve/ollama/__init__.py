"""Ollama's API: lines of JSON, and lists of the models there are."""

from dure.serve.ollama.errors import ollama_error
from dure.serve.ollama.routes import router

__all__ = ["ollama_error", "router"]
