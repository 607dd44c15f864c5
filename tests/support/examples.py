"""Runs the project's examples as a reader would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["EXAMPLES", "run_example"]

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, in a directory that keeps its cache too."""
    return subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=directory,
        env={**os.environ, "DURE_CACHE": str(directory), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
