"""Runs `dure serve` as a user does: a process on a free port, with its own home.

Knows how to start it, to wait for its model, and to end it. Of the APIs it knows only how to request a
chat answer.
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
WAIT_S = 120.0  # detects a hang; nothing is measured with it
MESSAGES = [{"role": "user", "content": "Tell me a story about a goat."}]
GREEDY = {"messages": MESSAGES, "temperature": 0, "max_tokens": 24}


class Home:
    """A user's home with dure's directories, and the servers that run there."""

    def __init__(self, directory: Path) -> None:
        self.dure = Dure(directory / "cache")
        self.dure.environment |= {
            "DURE_RUNTIME": str(directory / "run"),
            "DURE_PAGE": str(directory / "page"),
            "DURE_MODELS": str(directory / "models"),
            "DURE_UI": str(directory / "ui.json"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }

    @contextmanager
    def serving(
        self, *arguments: object, model: Path = DEMO, **environment: str
    ) -> Iterator[Serving]:
        """Start a server on a free port and wait for its model; kill it with the block."""
        self.dure.environment |= environment
        process = self.dure.start(
            "serve", model, "--port", "0", "-t", "1", *arguments, stderr=subprocess.PIPE
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
    """Kill a process, and close its output."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


class Serving:
    """A server's process, and its output so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.lines, self.url = process, list[str](), ""

    def wait_ready(self) -> None:
        """Read its output until the model is loaded."""
        self.read_until(lambda line: line.startswith("ready"))
        self.url = next(
            found.group(1) for line in self.lines if (found := re.search(r" at (\S+)", line))
        )

    def read_until(self, enough: Callable[[str], bool]) -> None:
        """Read lines until one meets the condition."""
        assert self.process.stderr is not None, "it is a pipe"
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if enough(self.lines[-1]):
                return
        raise AssertionError(f"the server ended: {self.lines}")

    def engine(self) -> psutil.Process:
        """Return the engine's process."""
        children = psutil.Process(self.process.pid).children()
        (engine,) = (one for one in children if "dure.worker.process" in one.cmdline())
        return engine

    def chat(self, **more: Any) -> dict[str, Any]:
        """Return the answer to a chat request."""
        response = httpx.post(
            f"{self.url}/v1/chat/completions", json={**GREEDY, **more}, timeout=WAIT_S
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer
