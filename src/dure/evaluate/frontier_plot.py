"""Draws a frontier: the least error at each size, or at each speed.

Refuses to know how it was found. Needs matplotlib, as `plot` does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from dure.errors import ResourceError
from dure.whole_file import write_whole

__all__ = ["write_frontier"]


def write_frontier(points: Sequence[tuple[float, float]], axis: str, path: Path) -> None:
    """Draw points of (x, error). axis: what x is. Raises ResourceError if the file cannot be written."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "dure"  # the same figure, the same file
    kind = path.suffix[1:].lower()
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([x for x, _ in points], [error for _, error in points], marker="o")
    axes.set_xlabel(axis)
    axes.set_ylabel("expected error")
    axes.set_yscale("symlog", linthresh=max(1e-9, *(error for _, error in points)) / 1e4)
    axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise ResourceError(f"--plot {path} cannot be written: {error.strerror}") from error
