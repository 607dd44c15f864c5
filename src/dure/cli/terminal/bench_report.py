"""What was measured of a model: as data with all that it depends on, as lines, and as a table."""

from __future__ import annotations

import os
import platform as python_platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import output
from dure.cluster.software import versions
from dure.engine.instruments.benchmark import BenchResult, TokenRate
from dure.engine.wire import Wire
from dure.hardware.probe import operating_system, platform
from dure.model.gguf import GgufFile
from dure.model.store.choosing import tag_of
from dure.sizes import bytes_text

__all__ = ["bench_facts", "print_result", "results_table"]


def bench_facts(gguf: GgufFile, wire: Wire, results: Sequence[BenchResult]) -> dict[str, Any]:
    """Return results as plain data, with the model and the machine that they are of."""
    return {
        "model": _model(gguf),
        "machine": _machine(),
        "sync": wire.value,
        "rows": [asdict(result) for result in results],
    }


def _model(gguf: GgufFile) -> dict[str, Any]:
    """Return what a model is. fingerprint: a hash of its header and of samples of its tensors."""
    types: Counter[str] = Counter()
    for tensor in gguf.tensors.values():
        types[tensor.type.name] += tensor.size_bytes
    return {
        "path": str(gguf.paths[0]),
        "name": gguf.str("general.name", ""),
        "architecture": gguf.architecture,
        "quantization": tag_of(gguf.paths[0].name) or max(types, key=types.__getitem__, default=""),
        "size_bytes": gguf.size_bytes,
        "parameters": sum(tensor.n_elements for tensor in gguf.tensors.values()),
        "types": dict(types),
        "fingerprint": gguf.fingerprint,
    }


def _machine() -> dict[str, Any]:
    """Return what this machine is, which is the root of a cluster."""
    facts = asdict(platform(versions(), lambda _: ""))
    del facts["problem"]
    facts["versions"]["python"] = python_platform.python_version()
    return {**facts, "os": operating_system(), "load": os.getloadavg()[0]}


def results_table(results: Sequence[BenchResult], wire: Wire) -> Table:
    """Return a table with a row for each result."""
    table = Table(box=None, pad_edge=False)
    title = f"tokens/s; ranks {results[0].ranks}, sums in {wire.value}"
    if results[0].depth:
        title += f", {results[0].depth} tokens in the context before"
    table.title, table.title_justify, table.title_style = title, "left", ""
    for heading in ("threads", "prompt", "", "generate", "", "memory of a rank"):
        table.add_column(heading, justify="right")
    for one in results:
        rates = [_cells(one.prompt), _cells(one.generation)]
        peak = bytes_text(max(one.peak_memory_bytes))
        table.add_row(str(one.threads), *rates[0], *rates[1], peak)
    return table


def _cells(rate: TokenRate) -> tuple[str, str]:
    speed = rate.tokens_per_s
    return str(rate.tokens), f"{speed.median:.2f} ({speed.min:.2f} to {speed.max:.2f})"


def print_result(result: BenchResult, wire: Wire) -> None:
    """Write one result in full."""
    token = result.per_token_ms
    output.print(
        f"ranks {result.ranks}, threads of each {result.threads}, sums in {wire.value}"
        + (f", {result.depth} tokens in the context before" if result.depth else "")
    )
    for name, rate in (("prompt", result.prompt), ("generation", result.generation)):
        speed = rate.tokens_per_s
        output.print(
            f"{name:<12}{speed.median:8.2f} tokens/s  ({speed.min:.2f} to {speed.max:.2f}, "
            f"{rate.tokens} tokens, {len(speed.runs)} runs)"
        )
    output.print(
        f"per token   compute {token.compute:.2f} ms, sync {token.sync:.2f} ms, "
        f"idle {token.idle:.2f} ms, {bytes_text(result.bytes_sent_per_token)} sent"
    )
    for rank, peak in enumerate(result.peak_memory_bytes):
        output.print(
            f"rank {rank:<7}peak memory {bytes_text(peak)} (weights "
            f"{bytes_text(result.weights_bytes[rank])}, KV cache {bytes_text(result.kv_bytes[rank])})"
        )
