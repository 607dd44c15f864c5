"""Ollama's API: lines of JSON, and lists of the models there are."""

from dure.serve.ollama.errors import ollama_error
from dure.serve.ollama.routes import OLLAMA_VERSION, router

__all__ = ["OLLAMA_VERSION", "ollama_error", "router"]
