"""Runs programs of other people against a server of ours, as their users would.

Knows where `make clients` installs them, and an environment in which they find nothing of this machine's
user and reach nothing but this machine. Knows nothing of what they say.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dure.serve import anthropic, ollama, responses
from tests.support.serving import Script, ScriptedEngine, Served, served, state_of, vocabulary

INSTALLED = Path(__file__).parents[2] / ".clients"
PROGRAMS = Path(__file__).parents[1] / "clients" / "programs"
N_CTX = (
    200_000  # coding agents' instructions and tools have 20,000 tokens, more in small vocabularies
)
WAIT_S = 240.0  # detects a hang; nothing is measured with it

# The discard port, where nobody listens: what is not on this machine is not there.
_NOWHERE = "http://127.0.0.1:9"
_SEALED = {
    **{f"{scheme}_PROXY": _NOWHERE for scheme in ("HTTP", "HTTPS", "ALL")},
    **{f"{scheme}_proxy": _NOWHERE for scheme in ("http", "https", "all")},
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


def installed(folder: str, path: str) -> Path:
    """Return a file that `make clients` installs; skip the test if it has not done so."""
    found = INSTALLED / folder / path
    if not (INSTALLED / folder / "installed").exists():
        pytest.skip(f"not installed: make clients CLIENTS={folder}")
    return found


@dataclass(frozen=True)
class Person:
    """Somebody who has a home and a folder of work, and nothing else."""

    home: Path
    work: Path

    @classmethod
    def moved_into(cls, directory: Path) -> Person:
        """Make both folders."""
        person = cls(directory / "home", directory / "work")
        person.home.mkdir()
        person.work.mkdir()
        return person

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in the folder of work; kill it if it takes too long."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "HOME": str(self.home),
                "TMPDIR": str(self.home),
                **_SEALED,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def result_of(self, *command: object, **environment: str) -> Any:
        """Run a command that must succeed, and return the JSON that it prints last."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def speaking(*texts: str, n_ctx: int = N_CTX) -> Iterator[Served]:
    """Run a server with every API, whose model says these texts in this order, and "Hello there." then."""
    engine = ScriptedEngine(scripts=[Script(text) for text in texts])
    engine.info = msgspec.structs.replace(engine.info, n_ctx=n_ctx, n_ctx_train=n_ctx)
    dialects = [responses.router(), anthropic.router(), ollama.router()]
    with served(state_of(engine), dialects) as server:
        yield server


def last_prompt(server: Served) -> str:
    """Return the text of the prompt that the model was given last."""
    engine = server.state.model.engine
    assert isinstance(engine, ScriptedEngine)
    pieces = (vocabulary().piece(token, special=True) for token in engine.requests[-1].prompt)
    return b"".join(pieces).decode()


def call(tool: str, **arguments: object) -> str:
    """Return what the demo model writes to call a tool."""
    return f"<tool_call>\n{json.dumps({'name': tool, 'arguments': arguments})}\n</tool_call>"
