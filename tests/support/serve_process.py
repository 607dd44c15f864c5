"""Runs `dure serve` as users do: in its own process, with its engine and all guards.

Knows how to start and end it. Knows nothing of its answers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.dure_process import Dure

DEMO_MODEL = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
WAIT_S = 120.0  # detects a hang; nothing is measured with it


@contextmanager
def dure_serve(directory: Path, *options: object, model: Path = DEMO_MODEL) -> Iterator[str]:
    """Yield the URL of a ready server, which must end cleanly with the block."""
    dure = Dure(directory / "cache")
    dure.environment["DURE_RUNTIME"] = str(directory / "run")
    stderr = directory / "stderr"
    arguments = ("serve", model, "--threads", 1, "--port", 0, "--log-file", directory / "log")
    with (
        stderr.open("wb") as errors,
        dure.start(*arguments, *options, stderr=errors) as process,
    ):
        try:
            end = time.monotonic() + WAIT_S
            while "ready" not in stderr.read_text():
                assert process.poll() is None, stderr.read_text()
                assert time.monotonic() < end, stderr.read_text()
                time.sleep(0.02)
            found = re.search(r"https?://\S+", stderr.read_text())
            assert found, stderr.read_text()
            yield found[0]
            process.terminate()
            assert process.wait(WAIT_S) == 0, stderr.read_text()
        finally:
            process.kill()
    assert dure.left_behind() == []
