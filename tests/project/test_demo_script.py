"""`make demo`'s script does what the README promises of it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.examples import run_example


def test_the_demo_runs_on_one_rank_and_two_and_finds_the_same_text(tmp_path: Path) -> None:
    """It exits with 0, shows the text, both runs' figures, and that the texts are the same."""
    done = run_example("demo.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Both wrote the same text" in done.stdout
    for ranks in ("1 rank", "2 ranks"):
        figures = rf"{ranks}: \d+ tokens at [\d.]+ tokens/s; .*compute [\d.]+ ms, sync"
        assert re.search(figures, done.stdout), done.stdout
    assert len(done.stdout.split("\n\n")[1].split()) > 20


def test_the_demo_fails_where_dure_fails(tmp_path: Path) -> None:
    """Without mpiexec it ends with dure's own line and code."""
    done = run_example("demo.py", tmp_path, DURE_MPIEXEC="/nonexistent")
    assert done.returncode == 1
    assert "dure: DURE_MPIEXEC=/nonexistent" in done.stderr
    assert "Traceback" not in done.stderr
