"""The framing of OpenAI's streams, and of llama-server's."""

from __future__ import annotations

from dure.serve.dialect.answering import StreamFraming

__all__ = ["LLAMA_SERVER_STREAM", "OPENAI_STREAM"]

OPENAI_STREAM = StreamFraming(last=b"data: [DONE]\n\n")
LLAMA_SERVER_STREAM = StreamFraming()
