"""Runs another project's server of OpenAI's API: llama-server if DURE_LLAMA_SERVER names one.

Otherwise llama-cpp-python's own server, which the tests' packages have; it speaks fewer dialects.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import httpx

from tests.support.dure_server import DEMO, WAIT_S, end

N_CTX = 1024
_TRIES = 5


class OtherServer:
    """The server, at an address that it keeps when it is started again."""

    def __init__(self, model: str) -> None:
        self._model = model
        for _ in range(_TRIES):  # until it listens, another program may take the port
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port = free.getsockname()[1]
            self.url = f"http://127.0.0.1:{self._port}"
            self.process = self._begun()
            if self._is_up():
                return
            end(self.process)
        raise AssertionError(f"it ends {_TRIES} times: {self._command()}")

    def start(self) -> subprocess.Popen[bytes]:
        """Start it again at its address, and wait until it answers."""
        self.process = self._begun()
        assert self._is_up(), "it has ended"
        return self.process

    def _begun(self) -> subprocess.Popen[bytes]:
        nothing = subprocess.DEVNULL
        return subprocess.Popen(self._command(), stdin=nothing, stdout=nothing, stderr=nothing)

    def _is_up(self) -> bool:
        """Wait until it answers; return False if it has ended instead."""
        give_up = time.monotonic() + WAIT_S
        while not self._answers():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < give_up, "it does not start"
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """Kill it."""
        end(self.process)

    def _command(self) -> list[str]:
        own = ["--port", str(self._port), "--host", "127.0.0.1"]
        if program := os.environ.get("DURE_LLAMA_SERVER"):
            limits = ["-c", str(2 * N_CTX), "-np", "2", "-t", "1"]  # its slots share the context
            return [program, "-m", str(DEMO), "--alias", self._model, *limits, *own]
        limits = ["--n_ctx", str(N_CTX), "--n_threads", "1", "--embedding", "True"]
        limits += ["--interrupt_requests", "False"]
        named = ["--model", str(DEMO), "--model_alias", self._model]
        return [sys.executable, "-m", "llama_cpp.server", *named, *limits, *own]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/models").status_code == 200
        except httpx.TransportError:
            return False
