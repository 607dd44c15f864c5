"""Ranks answer the same if the kernel forbids copies between processes, as in many containers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.dure_server import Home, Serving, end
from tests.support.serving import DEMO_MODEL

FORBIDDEN = Path(__file__).parents[1] / "support" / "forbidden.py"
TIMEOUT_S = 120


def told(before: Sequence[str] = ()) -> tuple[str, str]:
    """Return the answer of two ranks to a prompt of long vectors, and what --verbose says."""
    prompt = "The old bell rings, and the goat hears it. " * 12
    words = ["run", str(DEMO_MODEL), prompt, "--ranks", "2", "--temp", "0", "--verbose"]
    ran = subprocess.run(
        [*before, sys.executable, "-m", "dure.cli.main", *words, "--max-tokens", "16"],
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


def test_no_copies_between_processes() -> None:
    """MPI would end the ranks at their first long vector."""
    free, words = told()
    forbidden, forbidden_words = told([sys.executable, str(FORBIDDEN)])
    assert forbidden == free
    assert "exchange    shared memory\n" in words
    assert "exchange    shared memory (no copies between processes here)\n" in forbidden_words


def ready_line(home: Home, before: Sequence[str], *options: object) -> str:
    """Return what `dure serve` says when the model of two ranks is loaded."""
    words = ["serve", DEMO_MODEL, "--ranks", 2, "--port", 0, "-t", 1, *options]
    server = Serving(
        subprocess.Popen(
            [*before, sys.executable, "-m", "dure.cli.main", *map(str, words)],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=home.dure.environment,
        )
    )  # fmt: skip
    try:
        server.wait_ready()
    finally:
        end(server.process)
    return server.lines[-1]


def test_a_servers_ready_line_tells_how_ranks_exchange(tmp_path: Path) -> None:
    """With --verbose only."""
    home = Home(tmp_path)
    forbidden = [sys.executable, str(FORBIDDEN)]
    how = "shared memory (no copies between processes here)"
    assert ready_line(home, [], "--verbose").startswith("ready (exchange: shared memory): ")
    assert ready_line(home, forbidden, "--verbose").startswith(f"ready (exchange: {how}): ")
    assert ready_line(home, forbidden).startswith("ready: ")
