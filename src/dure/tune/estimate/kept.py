"""Where measured times of steps are kept. Needs no torch: `dure cache` lists them without it."""

from __future__ import annotations

from pathlib import Path

from dure.kept_work import KeptWork, work_in
from dure.places import cache_directory

__all__ = ["kept_times", "times_directory"]


def times_directory() -> Path:
    """Return where they are kept."""
    return cache_directory() / "tune"


def kept_times() -> list[KeptWork]:
    """Return them: each is of a model, its settings and its rows."""
    return work_in("measured times of tuning", times_directory().glob("*.json"))
