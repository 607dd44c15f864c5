"""Ranks answer the same if the kernel forbids copies between processes, as in many containers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
