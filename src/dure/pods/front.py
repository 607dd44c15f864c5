"""Stands before a pod's server, at the one port that the provider shows to the world. Runs in the pod.

    python3 -c "$(cat front.py)" KEY_FILE PUBLIC_PORT SERVER_PORT

Lets through /v1/... with the key, and /health; answers everything else itself. Knows nothing but Python
3.8 and its library, as images have what they have. Refuses to know models.
"""

from __future__ import annotations

import hmac
import http.client
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["ALLOWED"]

ALLOWED = re.compile(r"/v1(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")
"""The paths of the API: no empty part, none that leads upwards, nothing that is written in percents."""
_MOST_BODY_BYTES = 32 << 20
_MOST_CONNECTIONS = 256
_HANGS_S = 60.0  # a client that sends nothing
_SILENT_S = 3600.0  # a long prompt: the provider's proxy gives up sooner
_PIECE_BYTES = 65536
_PASSED_ON = ("content-type", "accept")


class _PublicHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _HANGS_S
    key = b""
    server_port = 0

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the base class
        """Keep quiet: a line is work for the guard, and anybody can ask."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        length = self.headers.get("content-length") or "0"
        if path != "/health" and not ALLOWED.fullmatch(path):
            self._refuse(404, "there is nothing here but /v1/... and /health")
        elif path != "/health" and not self._has_key():
            self._refuse(401, "this address wants its key, as a bearer token")
        elif "transfer-encoding" in self.headers or not length.isdigit():
            self._refuse(411, "send a content-length")
        elif int(length) > _MOST_BODY_BYTES:
            self._refuse(413, "the request is larger than 32 MiB")
        else:
            self._pass_on(self.rfile.read(int(length)))

    def _has_key(self) -> bool:
        bearer = re.sub(r"^Bearer ", "", self.headers.get("authorization", "")).strip()
        given = bearer or self.headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("latin-1", "replace"), self.key)

    def _pass_on(self, body: bytes) -> None:
        kept = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        server = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=_SILENT_S)
        try:
            server.request(self.command, self.path, body or None, kept)
            answer = server.getresponse()
        except (OSError, http.client.HTTPException):
            server.close()
            self._refuse(502, "the server in the pod does not answer yet")
            return
        try:
            self._stream(answer)
        finally:
            server.close()  # so it stops if the client has hung up
            self.close_connection = True

    def _stream(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", "application/json"))
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()
        while piece := answer.read1(_PIECE_BYTES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: int, message: str) -> None:
        data = json.dumps({"error": {"message": message, "code": status}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    places = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up."""


def _run(key_file: str, public_port: str, server_port: str) -> None:
    _PublicHandler.key = Path(key_file).read_bytes().strip()
    _PublicHandler.server_port = int(server_port)
    assert _PublicHandler.key, "an empty key would let everybody in"
    host = os.environ.get("DURE_PUBLIC_HOST", "0.0.0.0")  # noqa: S104  # the provider's proxy comes here
    with _Front((host, int(public_port)), _PublicHandler) as front:
        front.serve_forever()


if __name__ == "__main__":
    _run(*sys.argv[1:])
