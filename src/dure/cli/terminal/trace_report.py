"""The trace of `dure bench --trace`: written to a file, and shown beside the floor of a token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from dure.cli.terminal.console import output
from dure.engine.executor import RankFacts
from dure.engine.instruments.floor import TokenFloor
from dure.engine.trace import PARTS, RankTrace, chrome_events
from dure.errors import ResourceError

__all__ = ["print_trace", "write_trace"]

_MEANINGS = {
    "attention": "compute attention",
    "feed_forward": "compute feed-forward",
    "head": "compute logits and top k",
    "encode": "encode and decode numbers",
    "wait": "wait for the slowest rank",
    "wire": "wire",
    "between": "between steps: Python, messages",
}


def write_trace(path: Path, ranks: list[RankTrace], facts: list[RankFacts]) -> None:
    """Write a trace for Perfetto or chrome://tracing. Raises ResourceError."""
    events = chrome_events(ranks, [rank.host for rank in facts])
    try:
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be written ({error.strerror})", "name another file"
        ) from error


def print_trace(ranks: Sequence[dict[str, float]], floor: TokenFloor, tokens_per_s: float) -> None:
    """Print a table of each rank's milliseconds per part, and the floor beside the time of a token."""
    table = Table("ms per token", box=None, pad_edge=False)
    for n in range(len(ranks)):
        table.add_column(f"rank {n}", justify="right")
    for name in (part for part in PARTS if any(rank[part] for rank in ranks)):
        table.add_row(_MEANINGS[name], *(f"{rank[name]:.2f}" for rank in ranks))
    table.add_row("total, of the tokens traced", *(f"{sum(rank.values()):.2f}" for rank in ranks))
    output.print(table)
    times = floor.floor_ms
    least, token = times.memory + times.sums, 1e3 / tokens_per_s
    speeds = ", ".join(f"{speed:.1f}" for speed in floor.read_gb_per_s)
    exchange = f", sums {times.sums:.2f} (an exchange takes {floor.exchange_us:.1f} us)"
    output.print(
        f"floor       {least:.2f} ms: weights {times.memory:.2f} (memory reads {speeds} GB/s)"
        f"{exchange if len(ranks) > 1 else ''}\n"
        f"a token     {token:.2f} ms in the runs below, {token / least:.2f} times as long"
    )
