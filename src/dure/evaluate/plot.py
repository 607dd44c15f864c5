"""Draws quality against speed, a point for each model: KL divergence, or perplexity without an original.

Refuses to know how they were measured. Needs matplotlib, which only this command does: an extra of dure.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dure.errors import ResourceError, UsageError
from dure.evaluate.evaluation import Evaluation
from dure.evaluate.statistics import Estimate
from dure.whole_file import write_whole

__all__ = ["check_plot", "write_plot"]

_FORMATS = (".svg", ".png")


def check_plot(path: Path) -> None:
    """Check that a plot can be made, before hours are spent. Raises UsageError or ResourceError."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--plot {path}", f"name a file that ends in {' or '.join(_FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}", "make it first")
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise ResourceError(
            "--plot needs matplotlib", "install it with `pip install matplotlib`, or dure[plot]"
        ) from error


def write_plot(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Draw models that were judged on one text. Raises ResourceError if the file cannot be written."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "dure"  # the same figure, the same file
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for one in evaluations:
        _draw(axes, one)
    has_divergence = any(one.divergence for one in evaluations)
    axes.set_xlabel("tokens/s")
    axes.set_ylabel("KL divergence from the original" if has_divergence else "perplexity")
    axes.set_ylim(bottom=0 if has_divergence else None)
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:].lower(), dpi=150, metadata=_undated(path))
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise ResourceError(f"--plot {path} cannot be written: {error.strerror}") from error


def _draw(axes: Any, found: Evaluation) -> None:
    quality = _quality(found)
    below, above = quality.value - quality.low, quality.high - quality.value
    x, y = found.speed.generation, quality.value
    axes.errorbar([x], [y], yerr=[[below], [above]], fmt="o", capsize=3)
    name = found.model.name.removesuffix(".gguf")
    axes.annotate(name, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8)


def _quality(found: Evaluation) -> Estimate:
    quality = found.divergence.mean if found.divergence else found.perplexity
    assert quality is not None
    return quality


def _undated(path: Path) -> dict[str, None]:
    return {"Date": None} if path.suffix.lower() == ".svg" else {}
