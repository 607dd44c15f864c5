"""The most memory this process ever had."""

from __future__ import annotations

import resource
import sys

__all__ = ["peak_bytes"]


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
