"""The account over HTTP: RunPod's paths below /v2, and what moves the emulator below /emulator.

Needs the key, as the real one does; a pod's own key may see and end that pod alone.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from dure.pods.emulator.account import Account
from dure.pods.emulator.faults import ApiRefusal, Fault
from dure.pods.emulator.volumes import DATA_CENTERS

__all__ = ["EmulatorServer"]

_RETRY_AFTER_S = 1
_MAKING = ("/v2/pods", "/v2/network-volumes")


class EmulatorServer:
    """Serve an account on this machine while a block runs. requests: method and path of each, in order."""

    def __init__(self, account: Account, port: int = 0) -> None:
        self.account = account
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._http = _Server(self, port)

    @property
    def url(self) -> str:
        """Where it is: a value for RUNPOD_API_BASE_URL."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.account.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, emulator: EmulatorServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.emulator = emulator

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the base class
        """Keep quiet."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the emulator's time for the header Date."""
        now = self.server.emulator.account.clock.now()
        return super().date_time_string(now if timestamp is None else timestamp)

    # ------------------------------------------------------------ one request

    def _answer(self) -> None:
        split = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        emulator = self.server.emulator
        try:
            body = json.loads(raw) if raw else {}
            with emulator.lock:
                if split.path.startswith("/emulator"):
                    self._send(200, self._moved(split.path, body))
                    return
                emulator.requests.append(f"{self.command} {self.path}")
                found = self._called(split.path.removeprefix("/v2"), parse_qs(split.query), body)
            if found is None:
                self._hang_up()
            elif isinstance(found, list):
                self._stream(found)
            else:
                status = 201 if self.command == "POST" and split.path in _MAKING else 200
                self._send(status, found)
        except ApiRefusal as refusal:
            self._send(refusal.status, refusal.body)
        except ValueError as error:
            self._send(422, {"title": "Unprocessable Entity", "status": 422, "detail": str(error)})

    def _called(self, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """Return the answer; None if it is lost on the way. Raises ApiRefusal."""
        account, faults = self.server.emulator.account, self.server.emulator.account.faults
        if faults.happens(Fault.DOWN):
            return None
        if faults.happens(Fault.BROKEN) or (
            self.command != "GET" and faults.happens(Fault.BROKEN_CHANGE)
        ):
            raise ApiRefusal(500, "Internal Server Error", "something broke")
        if faults.happens(Fault.TOO_MANY):
            raise ApiRefusal(429, "Too Many Requests", "slow down")
        words = path.strip("/").split("/")
        self._check_key(account, words)
        if faults.happens(Fault.FORBIDDEN):
            raise ApiRefusal(403, "Forbidden", "this key may not do that")
        if faults.happens(Fault.REPEATS_KEY):
            raise ApiRefusal(403, "Forbidden", f"not with {self.headers.get('authorization')}")
        found = self._routed(account, words, query, body)
        lost = (
            Fault.LOST_CREATE
            if self.command == "POST" and f"/v2{path}" in _MAKING
            else Fault.LOST_ANSWER
        )
        return None if self.command != "GET" and faults.happens(lost) else found

    def _check_key(self, account: Account, words: list[str]) -> None:
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if given == account.key:
            return
        owner = next((pod for pod in account.pods.values() if pod.key == given), None)
        if owner is None:
            raise ApiRefusal(401, "Unauthorized", "unknown key")
        if words[:2] != ["pods", owner.id] or self.command == "PATCH":
            raise ApiRefusal(403, "Forbidden", "this key is for one pod")

    def _routed(
        self, account: Account, words: list[str], query: dict[str, list[str]], body: Any
    ) -> Any:
        if self.command == "GET":
            return self._read(account, words, query)
        match (self.command, *words):
            case ("POST", "pods"):
                return account.create(body)
            case ("PATCH", "pods", pod_id):
                return account.change(pod_id, body)
            case ("DELETE", "pods", pod_id):
                account.terminate(pod_id)
                return {}
            case ("POST", "network-volumes"):
                return account.volumes.create(body)
            case ("PATCH", "network-volumes", volume_id):
                return account.volumes.change(volume_id, body)
            case ("DELETE", "network-volumes", volume_id):
                account.volumes.delete(volume_id)
                return {}
            case ("POST", "pods", pod_id, "action"):
                return account.act(pod_id, str(body.get("action")))
            case _:
                raise ApiRefusal(404, "Not Found", self.path)

    def _read(self, account: Account, words: list[str], query: dict[str, list[str]]) -> Any:
        match words:
            case ["catalog", "gpus"]:
                return {"gpus": account.offers()}
            case ["network-volumes"]:
                return {"networkVolumes": list(account.volumes.by_id.values())}
            case ["network-volumes", volume_id]:
                return account.volumes.find(volume_id)
            case ["catalog", "datacenters"]:
                return {"dataCenters": [{"id": one, "name": one} for one in DATA_CENTERS]}
            case ["billing", "pods"]:
                pod_id = query.get("podId", [""])[0]
                amount = account.billed(pod_id).dollars
                record = {"podId": pod_id, "totalAmount": amount, "gpuAmount": amount}
                return {"records": [record], "metadata": {"totalAmount": amount}}
            case ["pods"]:
                return {"pods": account.listed()}
            case ["pods", pod_id]:
                return account.shown(account.find(pod_id))
            case ["pods", pod_id, "logs"]:
                machine = account.find(pod_id).machine
                return machine.log() if machine else ["the container has started"]
            case _:
                raise ApiRefusal(404, "Not Found", self.path)

    def _moved(self, path: str, body: Any) -> Any:
        """Move the emulator: /emulator/clock, /emulator/faults, /emulator/pods/ID."""
        account = self.server.emulator.account
        match path.strip("/").split("/"):
            case ["emulator", "clock"]:
                account.clock.forward(float(body.get("forward_s", 0)))
                return {"now": account.clock.now()}
            case ["emulator", "faults"]:
                account.faults.set(body)
                return {}
            case ["emulator", "pods", pod_id]:
                pod = account.find(pod_id)
                pod.gpu_percent = float(body.get("gpu_percent", pod.gpu_percent))
                pod.cpu_percent = float(body.get("cpu_percent", pod.cpu_percent))
                pod.locked = bool(body.get("locked", pod.locked))
                return account.shown(pod)
            case _:
                return {
                    "now": account.clock.now(),
                    "billed": account.billed().dollars,
                    "billing": [pod.name for pod in account.billing()],
                }

    # ------------------------------------------------------------ bytes

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if status == 429:
            self.send_header("retry-after", str(_RETRY_AFTER_S))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: list[str]) -> None:
        """Send lines as server-sent events, after the one that the client had last."""
        after = int(self.headers.get("last-event-id") or 0)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number, line in enumerate(lines[after:], after + 1):
            self.wfile.write(f"id: {number}\ndata: {line}\n\n".encode())
        self.close_connection = True

    def _hang_up(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
