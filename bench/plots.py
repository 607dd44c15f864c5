"""Draws the plots of docs/benchmarks.md, as SVG and PNG. Needs matplotlib (the `bench` group).

Knows how to draw results of scaling.py, two_nodes.py and quantize.py. Refuses to know how those were
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from measure import BenchError

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"dure": "#1b6ca8", "dllama": "#c8553d"}
PARTS = {"compute": "#3c7d4f", "sync": "#d9a441", "other": "#9a9a9a"}
NAMES = {"dure": "dure", "dllama": "Distributed Llama"}
SIZE_INCHES, DOTS_PER_INCH = (7.0, 4.0), 150


def write_plots(results: Mapping[str, Any], directory: Path) -> None:
    """Write every plot that the results allow. Raises BenchError if their format is another."""
    mpl.rcParams["svg.hashsalt"] = "dure"  # so that the same plot is the same file
    directory.mkdir(parents=True, exist_ok=True)
    try:
        medians = _medians(results["scaling"])
        _speed_against_ranks(medians, directory / "speed-against-ranks")
        _time_of_a_token(medians, directory / "time-of-a-token")
    except (KeyError, ValueError) as error:
        raise BenchError(f"the result of scaling.py is of another form ({error!r})") from error


def write_mixtures_plot(rows: Sequence[Mapping[str, Any]], axis: str, path: Path) -> None:
    """Draw llama.cpp's mixtures and dure's choices: KL divergence against bits per weight or speed.

    axis: the key of a row that is drawn to the right. path: without a suffix.
    """
    mpl.rcParams["svg.hashsalt"] = "dure"
    figure, axes = plt.subplots(figsize=SIZE_INCHES)
    ours = sorted((row["our_" + axis], row["our_kl"]) for row in rows)
    theirs = [(row[axis], row["kl"], row["mixture"]) for row in rows if "kl" in row]
    axes.plot(*zip(*ours, strict=True), "o-", color=COLOURS["dure"], label="dure quantize")
    x, y, names = zip(*theirs, strict=True)
    axes.plot(x, y, "s", color=COLOURS["dllama"], label="llama.cpp's mixtures")
    for x_, y_, name in zip(x, y, names, strict=True):
        axes.annotate(name, (x_, y_), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_yscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel({"bits_per_weight": "bits per weight"}.get(axis, "tokens/s, measured"))
    axes.set_ylabel("KL divergence from the original")
    axes.grid(which="both", alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _medians(result: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, float]]:
    """Return each quantity's median, by program and number of ranks."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for comparison in result["comparisons"]:
        for contender, spread in comparison["contenders"].items():
            name, ranks = contender.split(", ")
            figures = found.setdefault((name, int(ranks)), {})
            figures[comparison["quantity"]] = float(spread["median"])
    return dict(sorted(found.items(), key=lambda item: (item[0][0] != "dure", item[0][1])))


def _speed_against_ranks(
    medians: Mapping[tuple[str, int], Mapping[str, float]], path: Path
) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=SIZE_INCHES)
    for axes, quantity in ((left, "prompt"), (right, "generation")):
        for name, label in NAMES.items():
            points = [(n, f[quantity]) for (who, n), f in medians.items() if who == name]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=label)
        axes.set_title(quantity)
        axes.set_xlabel("ranks, one thread each")
        axes.set_xticks(sorted({n for _, n in medians}))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
    left.set_ylabel("tokens/s")
    left.legend(frameon=False)
    _save(figure, path)


def _time_of_a_token(medians: Mapping[tuple[str, int], Mapping[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=SIZE_INCHES)
    labels = [f"{NAMES[name]}\n{n} rank{'s' * (n > 1)}" for name, n in medians]
    bottom = [0.0] * len(labels)
    for part, colour in PARTS.items():
        heights = [_milliseconds(figures, part) for figures in medians.values()]
        axes.bar(labels, heights, bottom=bottom, color=colour, label=part, width=0.6)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    axes.set_ylabel("ms for a generated token")
    axes.tick_params(axis="x", labelsize=7)
    axes.legend(frameon=False)
    _save(figure, path)


def _milliseconds(figures: Mapping[str, float], part: str) -> float:
    if part != "other":
        return figures[f"{part} a token"]
    known = figures["compute a token"] + figures["sync a token"]
    return max(0.0, 1e3 / figures["generation"] - known)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=DOTS_PER_INCH)
    plt.close(figure)
