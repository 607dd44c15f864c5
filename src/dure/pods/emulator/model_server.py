"""Stands in for a pod's llama-server or vLLM: it answers every chat with one sentence, and logs as they do.

    python -P model_server.py -hf MODEL --port 8080

Knows as much of OpenAI's API as a router and a client need to see an answer. Needs nothing but Python.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["ANSWER"]

ANSWER = "The pod has answered."
_CHAT = "/v1/chat/completions"


class _ModelHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = "emulated"

    def do_GET(self) -> None:
        pages: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": self.model, "object": "model"}]},
        }
        page = pages.get(self.path)
        self._send(404 if page is None else 200, page or {"error": {"message": self.path}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != _CHAT:
            self._send(404, {"error": {"message": self.path}})
            return
        wants_stream = bool(json.loads(body or b"{}").get("stream"))
        usage = {"prompt_tokens": 1 + len(body) // 4, "completion_tokens": len(ANSWER.split())}
        head = {"id": "emulated", "model": self.model}
        if not wants_stream:
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._send(200, whole)
            return
        choice = {"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice], "usage": usage}
        events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        self._write(200, "text/event-stream", events.encode())

    def _send(self, status: int, page: Any) -> None:
        self._write(status, "application/json", json.dumps(page).encode())

    def _write(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002  # the base's
        """Log it as llama-server does."""
        sys.stderr.write(f"srv  log_server_r: done request: {self.command} {self.path} {code}\n")


def _run(words: list[str]) -> None:
    options = dict(itertools.pairwise(words))
    served = options.get("-hf") or options.get("serve") or _ModelHandler.model
    _ModelHandler.model = served
    if token := os.environ.get("HF_TOKEN"):
        sys.stderr.write(f"it downloads with a token of {len(token)} characters\n")
    with ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), _ModelHandler) as server:
        server.serve_forever(0.1)


if __name__ == "__main__":
    _run(sys.argv[1:])
