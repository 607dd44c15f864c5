"""The most memory this process ever had."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

__all__ = ["peak_bytes"]


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes.

    Linux's own figure for this program (VmHWM): getrusage's would count the parent's memory, where
    the parent was larger when it started us.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
