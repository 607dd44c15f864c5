"""Names the release of Ollama whose API servers and routers speak; clients ask what they may send."""

from __future__ import annotations

__all__ = ["OLLAMA_VERSION"]

OLLAMA_VERSION = "0.12.6"
