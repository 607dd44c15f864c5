"""Runs a Hugging Face hub on this machine, with the faults that a test names.

Implements the API's listing of a repository and its downloads with ranges, and redirects large files to
a second server of another origin, as the real one does. Knows nothing about models.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Fault", "HubServer", "Repo", "Request"]

COMMIT = "a" * 40
NEXT_COMMIT = "b" * 40


@dataclass
class Repo:
    """A repository: its files, and who may read them."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    commit: str = COMMIT
    wrong_sha256: str | None = None


@dataclass(frozen=True)
class Fault:
    """A fault of one response: a status instead of it, or a break after some bytes of its body.

    `headers` are sent too; an empty one removes that header.

    `hold` waits at the break until the server's `release` is set; otherwise the connection is closed.
    `spoil` changes a byte. `ignore_range` answers 200 with the whole file.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None
    hold: bool = False
    spoil: bool = False
    ignore_range: bool = False


@dataclass(frozen=True)
class Request:
    """A received request, to the hub or to its content network."""

    to: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """The hub and its content network; downloads consume `faults`, listings `api_faults`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.plain: dict[str, bytes] = {}  # files at their own URLs
        self.etags: dict[str, str] = {}
        self.tokens = {"hf_good"}
        self.accepted = {"hf_good"}  # of an account that accepted the terms of gated repositories
        self.faults: deque[Fault] = deque()
        self.api_faults: deque[Fault] = deque()
        self.requests: list[Request] = []
        self.release = threading.Event()
        self._servers = [_Server(self, "hub"), _Server(self, "cdn")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def downloads(self) -> list[Request]:
        """Return the requests for files' bytes."""
        return [r for r in self.requests if r.path.startswith(("/blobs/", "/plain/"))]

    def blob(self, sha256: str) -> bytes | None:
        every = (data for repo in self.repos.values() for data in repo.files.values())
        return next((data for data in every if hashlib.sha256(data).hexdigest() == sha256), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: HubServer, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.role = hub, role

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, parts = self.server.hub, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Request(self.server.role, self.command, self.path, headers))
        path = unquote(parts.path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._listing(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/auth-check", path):
            self._may_download(match[1])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        elif path.startswith("/plain/"):
            name = path.removeprefix("/plain/")
            self._body(hub.plain.get(name), hub.etags.get(name))
        elif path.startswith("/blobs/") and parse_qs(parts.query).get("signature") == ["right"]:
            data = hub.blob(path.removeprefix("/blobs/"))
            self._body(data, '"of-the-cdn"')
        else:
            self._answer(404, {})

    def _listing(self, name: str, revision: str | None) -> None:
        hub = self.server.hub
        if hub.api_faults:
            fault = hub.api_faults.popleft()
            self._answer(fault.status or 500, fault.headers)
            return
        repo = self._readable(name)
        if repo is None:
            return
        if revision not in (None, "main", repo.commit):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {
                    "sha256": repo.wrong_sha256 or hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                },
            }
            for path, data in repo.files.items()
        ]
        facts = {"_id": "1", "id": name, "modelId": name, "sha": repo.commit, "siblings": siblings}
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(facts).encode())

    def _readable(self, name: str) -> Repo | None:
        """Return the repository if the caller may list it, else send the refusal."""
        hub = self.server.hub
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            message = "Invalid credentials in Authorization header"
            self._answer(401, {"X-Error-Message": message})
            return None
        repo = hub.repos.get(name)
        if repo is None or (repo.private and not token):
            self._answer(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _may_download(self, name: str) -> None:
        """Say whether the caller may download: 200, or the refusal of a download."""
        repo = self._readable(name)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if repo is not None and repo.gated and token not in self.server.hub.accepted:
            self._answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif repo is not None:
            self._answer(200, {"Content-Type": "application/json"}, b"{}")

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._readable(name)
        if repo is None:
            return
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if repo.gated and token not in self.server.hub.accepted:
            self._answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", repo.commit):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif path not in repo.files:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})
        else:
            sha256 = hashlib.sha256(repo.files[path]).hexdigest()
            to = f"{self.server.hub.cdn_url}/blobs/{sha256}?signature=right"
            facts = {"X-Linked-Etag": f'"{sha256}"', "X-Repo-Commit": repo.commit}
            self._answer(302, {"Location": to, **facts})

    def _body(self, data: bytes | None, etag: str | None) -> None:
        """Send a file's bytes, or the requested range, with the next fault."""
        faults = self.server.hub.faults
        fault = faults.popleft() if faults and self.command == "GET" else Fault()
        if data is None or fault.status is not None:
            self._answer(fault.status or 404, fault.headers)
            return
        first, stop = self._range(len(data), etag, ignored=fault.ignore_range)
        if first >= len(data):
            self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        headers = {"ETag": etag} if etag else {}
        partial = (first, stop) != (0, len(data))
        if partial:
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
        body = bytearray(data[first:stop])
        if fault.spoil:
            body[len(body) // 2] ^= 0xFF
        self._answer(206 if partial else 200, headers, bytes(body), fault)

    def _range(self, size: int, etag: str | None, *, ignored: bool) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        condition = self.headers.get("if-range")
        if match is None or ignored or (condition is not None and condition != etag):
            return 0, size
        return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes = b"", fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        extra = fault.headers if fault is not None else {}
        for name, value in {"Content-Length": str(len(body)), **headers, **extra}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.after is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.after])
        self.wfile.flush()
        if fault.hold:
            self.server.hub.release.wait(120)
        self.close_connection = True
