"""Runs llama.cpp's server tests and scripts, and says how every case ended.

Knows where they are in a tree of llama.cpp's sources and how they report.
Refuses to judge: which outcome is right is another file's matter.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.compat import plugin, shim

__all__ = ["SCRIPTS", "TEST_FILES", "Outcome", "SuiteError", "run_suite"]

TESTS = Path("tools/server/tests")
TEST_FILES = (
    "test_chat_completion.py",
    "test_completion.py",
    "test_tokenize.py",
    "test_security.py",
    "test_embedding.py",
    "test_template.py",
    "test_compat_anthropic.py",
    "test_compat_oai_responses.py",
)
SCRIPTS = (
    "server-test-function-call.py",
    "server-test-structured.py",
    "server-test-parallel-tc.py",
)
CASE_TIMEOUT_S = 180
SCRIPT_TIMEOUT_S = 1800
START_TIMEOUT_S = 120


class SuiteError(Exception):
    """The suite itself cannot run; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended: "passed", "failed" or "skipped", and the last words where it did not pass."""

    result: str
    message: str = ""


def run_suite(
    source: Path, model: Path, names: Sequence[str], *, llama_server: Path | None = None
) -> Iterator[tuple[str, Outcome]]:
    """Run the named test files and scripts of the tree `source`; yields cases as files end.

    A case is called `file::test[parameters]`. With `llama_server` that program answers.
    Raises SuiteError where a file is missing or reports nothing.
    """
    with tempfile.TemporaryDirectory(prefix="dure-compat-") as directory:
        launcher = _launcher(Path(directory))
        environment = _environment(model, llama_server)
        for name in names:
            if name in SCRIPTS:
                yield from _run_script(source, name, launcher, environment)
            else:
                yield from _run_tests(source, name, launcher, environment)


def _launcher(directory: Path) -> Path:
    """The tests start one program, by its path."""
    path = directory / "llama-server"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.compat.shim "$@"\n')
    path.chmod(0o755)
    return path


def _environment(model: Path, llama_server: Path | None) -> dict[str, str]:
    ours = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        shim.MODEL_VARIABLE: str(model.resolve()),
    }
    if llama_server is not None:
        environment[shim.LLAMA_SERVER_VARIABLE] = str(llama_server.resolve())
    return environment


def _run_tests(
    source: Path, name: str, launcher: Path, environment: dict[str, str]
) -> Iterator[tuple[str, Outcome]]:
    tests = source / TESTS
    if not (tests / "unit" / name).is_file():
        raise SuiteError(f"{tests / 'unit' / name} is missing: name a tree of llama.cpp's sources")
    outcomes = launcher.with_name(f"{name}.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"unit/{name}", "-m", "not slow", "-q",
         "-p", "tests.compat.plugin", "-p", "no:cacheprovider", "-p", "no:randomly",
         "--timeout", str(CASE_TIMEOUT_S)],
        cwd=tests, check=False, capture_output=True, text=True,
        env={**environment, "LLAMA_SERVER_BIN_PATH": str(launcher), "PORT": str(_free_port()),
             plugin.OUTCOMES_VARIABLE: str(outcomes)},
    )  # fmt: skip
    if not outcomes.exists():
        raise SuiteError(f"{name} reported nothing:\n{(done.stdout + done.stderr)[-2000:]}")
    for line in outcomes.read_text().splitlines():
        note = json.loads(line)
        case = note["case"].removeprefix("unit/")
        yield case, Outcome(note["outcome"], note["message"])


def _run_script(
    source: Path, name: str, launcher: Path, environment: dict[str, str]
) -> Iterator[tuple[str, Outcome]]:
    script = source / "scripts" / name
    if not script.is_file():
        raise SuiteError(f"{script} is missing: name a tree of llama.cpp's sources")
    port = _free_port()
    with _server(launcher, port, environment):
        done = subprocess.run(
            [sys.executable, str(script), "--host", "127.0.0.1", "--port", str(port)],
            env=environment, check=False, capture_output=True, text=True,
            timeout=SCRIPT_TIMEOUT_S,
        )  # fmt: skip
    found = list(_script_outcomes(done.stdout))
    if not found:
        raise SuiteError(f"{name} reported nothing:\n{(done.stdout + done.stderr)[-2000:]}")
    for case, outcome in found:
        yield f"{name}::{case}", outcome


_COLOUR = re.compile(r"\x1b\[\d+m")
_HEADER = re.compile(r"│ +(.+?) *│$")
_VERDICT = re.compile(r"[✔✘] (PASS|FAIL) +(.*)")


def _script_outcomes(text: str) -> Iterator[tuple[str, Outcome]]:
    """The scripts print a frame with each case's name, and later its verdict.

    A request that fails prints a verdict of its own before the case's: the first reason is kept.
    """
    case, verdicts = "", list[tuple[str, str]]()
    for line in [*_COLOUR.sub("", text).splitlines(), "│ end │"]:
        if header := _HEADER.match(line):
            if case and verdicts:
                passed = verdicts[-1][0] == "PASS"
                yield case, Outcome("passed" if passed else "failed", verdicts[0][1])
            case, verdicts = " ".join(header[1].split()), []
        elif verdict := _VERDICT.search(line):
            verdicts.append((verdict[1], verdict[2]))


@contextmanager
def _server(launcher: Path, port: int, environment: dict[str, str]) -> Iterator[None]:
    command = [str(launcher), "--host", "127.0.0.1", "--port", str(port), "--parallel", "1"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_healthy(process, port)
            yield
        finally:
            process.send_signal(signal.SIGTERM)


def _wait_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SuiteError(f"the server did not become healthy (status {process.poll()})")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
