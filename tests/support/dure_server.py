"""Runs `dure serve` as a user does: a process on a free port, with a home of its own.

Knows how to start it, to wait until its model is there, and to end it. Knows nothing about APIs but
how to ask for a chat answer.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.dure_process import Dure

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
WAIT_S = 120.0  # a hang is told by this; nothing is measured with it
MESSAGES = [{"role": "user", "content": "Tell me a story about a goat."}]
GREEDY = {"messages": MESSAGES, "temperature": 0, "max_tokens": 24}


class Home:
    """A user's home: where dure keeps what it keeps, and the servers that run there."""

    def __init__(self, directory: Path) -> None:
        self.dure = Dure(directory / "cache")
        self.dure.environment |= {
            "DURE_RUNTIME": str(directory / "run"),
            "DURE_MODELS": str(directory / "models"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }

    @contextmanager
    def serving(self, *arguments: object, **environment: str) -> Iterator[Serving]:
        """A server on a free port, once its model is there; killed with the block."""
        self.dure.environment |= environment
        process = self.dure.start(
            "serve", DEMO, "--port", "0", "-t", "1", *arguments, stderr=subprocess.PIPE
        )
        server = Serving(process)
        try:
            server.wait_ready()
            yield server
        finally:
            for name in environment:
                del self.dure.environment[name]
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and close what it wrote to."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


class Serving:
    """A server's process, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.lines, self.url = process, list[str](), ""

    def wait_ready(self) -> None:
        """Read its words until the model is there."""
        self.read_until(lambda line: line.startswith("ready"))
        self.url = next(
            found.group(1) for line in self.lines if (found := re.search(r" at (\S+)", line))
        )

    def read_until(self, enough: Callable[[str], bool]) -> None:
        """Read lines up to one that is enough."""
        assert self.process.stderr is not None, "it is a pipe"
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if enough(self.lines[-1]):
                return
        raise AssertionError(f"the server ended: {self.lines}")

    def engine(self) -> psutil.Process:
        """The process that generates."""
        (engine,) = psutil.Process(self.process.pid).children()
        return engine

    def chat(self, **more: Any) -> dict[str, Any]:
        """An answer to a chat request."""
        response = httpx.post(
            f"{self.url}/v1/chat/completions", json={**GREEDY, **more}, timeout=WAIT_S
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer
