"""`dure bench --trace`: where the time of a token goes, beside what memory and network allow at best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dure.cli.terminal.console import output
from dure.engine.compute.allreduce import Wire
from dure.engine.executor import Instruments, RankFacts
from dure.engine.trace import PARTS, RankTrace, chrome_events, parts_of
from dure.errors import ResourceError
from dure.model.architectures import shape_of
from dure.model.gguf import GgufFile

__all__ = ["Floors", "print_trace", "trace_figures", "write_trace"]

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


class Floors:
    """The least that memory and network allow for a token, measured again and again beside its generation:
    there are machines whose memory is twice as fast at some moments as at others.
    """

    def __init__(self, instruments: Instruments, gguf: GgufFile, wire: Wire) -> None:
        shape = shape_of(gguf)
        most, part = _bytes_used(gguf)
        self._instruments = instruments
        self._reads = [min(rank.weights_bytes, most) * part for rank in instruments.facts()]
        self._sum_bytes = shape.n_embd * 4 if wire is Wire.F32 else shape.n_embd * 34 // 32
        self._n_sums = 2 * shape.n_layer
        self._probes: list[tuple[list[float], float]] = []

    def measure(self) -> None:
        """Measure it now."""
        self._probes.append(self._instruments.probe(self._sum_bytes))

    def figures(self) -> dict[str, Any]:
        """Medians of what was measured: of the parts in milliseconds, and what they were made from."""
        speeds = np.array([read for read, _ in self._probes])
        exchange_s = float(np.median([exchange for _, exchange in self._probes]))
        memory_s = float(np.median(np.max(self._reads / speeds, axis=1)))
        return {
            "floor_ms": {"memory": 1e3 * memory_s, "sums": 1e3 * self._n_sums * exchange_s},
            "read_gb_per_s": [float(speed) / 1e9 for speed in np.median(speeds, axis=0)],
            "exchange_us": 1e6 * exchange_s,
        }


def trace_figures(ranks: list[RankTrace], floors: Floors) -> dict[str, Any]:
    """Milliseconds of a token by part and rank, and the floor."""
    by_rank = [
        {name: 1e3 * seconds for name, seconds in parts.items()} for parts in parts_of(ranks)
    ]
    return {"per_token_ms_by_rank": by_rank, **floors.figures()}


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


def print_trace(figures: dict[str, Any], tokens_per_s: float) -> None:
    """A table: parts down, ranks across, and the floor beside how long a token takes."""
    ranks = figures["per_token_ms_by_rank"]
    table = Table("ms a token", box=None, pad_edge=False)
    for n in range(len(ranks)):
        table.add_column(f"rank {n}", justify="right")
    for name in (part for part in PARTS if any(rank[part] for rank in ranks)):
        table.add_row(_MEANINGS[name], *(f"{rank[name]:.2f}" for rank in ranks))
    table.add_row("all, of the tokens traced", *(f"{sum(rank.values()):.2f}" for rank in ranks))
    output.print(table)
    floor = figures["floor_ms"]
    least, token = sum(floor.values()), 1e3 / tokens_per_s
    speeds = ", ".join(f"{speed:.1f}" for speed in figures["read_gb_per_s"])
    exchange = f", sums {floor['sums']:.2f} (an exchange takes {figures['exchange_us']:.1f} us)"
    output.print(
        f"floor       {least:.2f} ms: weights {floor['memory']:.2f} (memory reads {speeds} GB/s)"
        f"{exchange if len(ranks) > 1 else ''}\n"
        f"a token     {token:.2f} ms in the runs below, {token / least:.2f} times as long"
    )
