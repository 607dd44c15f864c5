"""A pytest plugin inside llama.cpp's server tests: no downloads, and every outcome as a line of JSON.

Knows the few places where that suite reaches for the network before its first test.
Refuses to change what a test does or asserts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

OUTCOMES_VARIABLE = "DURE_COMPAT_OUTCOMES"
SERVER_ENDED = "Server process died"

# The suite downloads files with this package; the chosen tests never do.
sys.modules.setdefault("wget", ModuleType("wget"))


def pytest_sessionstart() -> None:
    """Leave out the suite's own first step, which starts every preset to download its model."""
    presets = sys.modules["utils"].ServerPreset
    presets.load_all = staticmethod(lambda: None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a case when it has been called, or when it ended before or after that by an error."""
    if report.when == "call" or report.outcome != "passed":
        _note(report.nodeid, report.outcome, _last_line(report))


def _note(case: str, outcome: str, message: str) -> None:
    line = json.dumps({"case": case, "outcome": outcome, "message": message})
    with Path(os.environ[OUTCOMES_VARIABLE]).open("a") as file:
        file.write(line + "\n")


def _last_line(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(crash.message) if crash else str(report.longrepr or "")
    return message + _servers_words(report) if SERVER_ENDED in message else message


def _servers_words(report: pytest.TestReport) -> str:
    lines = [line for line in report.capstdout.splitlines() if line.startswith("error:")]
    return f" ({lines[-1]})" if lines else ""
