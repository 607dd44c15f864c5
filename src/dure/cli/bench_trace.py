"""`dure bench --trace`: where the time of a token goes, beside what memory and network allow at best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from dure.cli.console import output
from dure.engine.executor import Executor, RankFacts
from dure.engine.sums import Wire
from dure.engine.trace import PARTS, RankTrace, chrome_events, parts_of
from dure.errors import ResourceError
from dure.model.architecture import shape_of
from dure.model.gguf import GgufFile

__all__ = ["print_trace", "trace_figures", "write_trace"]

_MEANINGS = {
    "attention": "compute attention",
    "feed_forward": "compute feed-forward",
    "head": "compute logits, choose the best",
    "encode": "numbers to bytes and back",
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
            f"{path} cannot be written ({error.strerror}): name another file"
        ) from error


def trace_figures(
    executor: Executor, ranks: list[RankTrace], gguf: GgufFile, wire: Wire
) -> dict[str, Any]:
    """Milliseconds of a token by part and rank, and the least that memory and network allow."""
    shape, facts = shape_of(gguf), executor.facts()
    n_bytes = shape.n_embd * 4 if wire is Wire.F32 else shape.n_embd * 34 // 32
    read, exchange_s = executor.probe(n_bytes)
    most, part = _bytes_used(gguf)
    memory_s = max(
        min(f.weights_bytes, most) * part / speed for f, speed in zip(facts, read, strict=True)
    )
    n_sums = 2 * shape.n_layer
    return {
        "per_token_ms_by_rank": [
            {name: 1e3 * seconds for name, seconds in parts.items()} for parts in parts_of(ranks)
        ],
        "floor_ms": {"memory": 1e3 * memory_s, "sums": 1e3 * n_sums * exchange_s},
        "read_gb_per_s": [speed / 1e9 for speed in read],
        "exchange_us": 1e6 * exchange_s,
    }


def _bytes_used(gguf: GgufFile) -> tuple[int, float]:
    """Bytes of weights that tokens need, and the part of them that one token reads.

    Not the table of embeddings, where it is not that of the logits as well: a row of it is nothing. Of a
    mixture of experts only the experts that a token uses.
    """
    tables = {"token_embd.weight"} if "output.weight" in gguf.tensors else set[str]()
    total = sum(t.size_bytes for name, t in gguf.tensors.items() if name not in tables)
    experts = sum(t.size_bytes for name, t in gguf.tensors.items() if "_exps." in name)
    prefix = gguf.architecture
    n = gguf.int(f"{prefix}.expert_count", 0)
    used = gguf.int(f"{prefix}.expert_used_count", n)
    return total, 1 - experts / total * (1 - used / n) if n else 1.0


def print_trace(figures: dict[str, Any]) -> None:
    """A table: parts down, ranks across, and the floor."""
    ranks = figures["per_token_ms_by_rank"]
    table = Table("ms a token", box=None, pad_edge=False)
    for n in range(len(ranks)):
        table.add_column(f"rank {n}", justify="right")
    for name in (part for part in PARTS if any(rank[part] for rank in ranks)):
        table.add_row(_MEANINGS[name], *(f"{rank[name]:.2f}" for rank in ranks))
    totals = [sum(rank.values()) for rank in ranks]
    table.add_row("all", *(f"{total:.2f}" for total in totals))
    output.print(table)
    floor = figures["floor_ms"]
    least = sum(floor.values())
    speeds = ", ".join(f"{speed:.1f}" for speed in figures["read_gb_per_s"])
    exchange = f", sums {floor['sums']:.2f} (an exchange takes {figures['exchange_us']:.0f} us)"
    output.print(
        f"floor       {least:.2f} ms: weights {floor['memory']:.2f} (memory reads {speeds} GB/s)"
        f"{exchange if len(ranks) > 1 else ''}; a token takes {max(totals) / least:.1f} times as long"
    )
