"""The most memory that an import takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["peak_import_bytes"]

_DURE = Path(sys.executable).with_name("dure")
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_import_bytes(source: Path, out: Path) -> int:
    """Import something in a process of its own and return the most memory that it had."""
    command = [sys.executable, "-c", _PEAK, str(_DURE), "import", str(source), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    out.unlink()
    return int(done.stdout) * 1024
