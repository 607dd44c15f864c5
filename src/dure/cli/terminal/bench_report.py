"""What was measured of a model, beside what was expected: as data, as lines, and as a table."""

from __future__ import annotations

import os
import platform as python_platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import output
from dure.cluster.software import versions
from dure.engine.compute.variants import NATIVE, chosen
from dure.engine.instruments.benchmark import BenchResult, TokenRate
from dure.engine.wire import Wire
from dure.hardware.probe import operating_system, platform
from dure.model.gguf import GgufFile
from dure.model.store.choosing import tag_of
from dure.plan.correction import Correction
from dure.plan.expectation import Expectation
from dure.plan.performance import Interval
from dure.sizes import bytes_text

__all__ = ["BenchRow", "bench_facts", "correction_of", "print_row", "rows_table"]


_LONG = 32  # tokens: the speed of fewer is that of chance


@dataclass(frozen=True)
class BenchRow:
    """What was measured, and what was to be expected. basis: how the figures of that are known."""

    result: BenchResult
    expected: Expectation | None = None
    basis: str = ""

    @property
    def prompt_ratio(self) -> float:
        """Return the measured speed of a prompt as a multiple of the expected one."""
        assert self.expected is not None, "there is something to compare with"
        return self.result.prompt.tokens_per_s.median / self.expected.prompt.value

    @property
    def generation_ratio(self) -> float:
        """Return the same of generation."""
        assert self.expected is not None, "there is something to compare with"
        return self.result.generation.tokens_per_s.median / self.expected.generation.value


def correction_of(rows: Sequence[BenchRow]) -> Correction | None:
    """Return what rows have shown beside what was expected: that of the longest prompt and answer.

    None if none was long, began with an empty context and had a prediction.
    """
    fit = [row for row in rows if row.expected and not row.result.depth]
    prompt = max(fit, key=lambda row: row.result.prompt.tokens, default=None)
    answer = max(fit, key=lambda row: row.result.generation.tokens, default=None)
    if prompt is None or answer is None:
        return None
    if min(prompt.result.prompt.tokens, answer.result.generation.tokens) < _LONG:
        return None
    return Correction(answer.generation_ratio, prompt.prompt_ratio, time.time())


def bench_facts(gguf: GgufFile, wire: Wire, rows: Sequence[BenchRow]) -> dict[str, Any]:
    """Return rows as plain data, with the model and the machine that they are of."""
    return {
        "model": _model(gguf),
        "machine": _machine(),
        "sync": wire.value,
        "rows": [{**asdict(row.result), "predicted": _predicted(row)} for row in rows],
    }


def _predicted(row: BenchRow) -> dict[str, Any] | None:
    """Return what was expected. measured_beside_it: the measured speed as a multiple of it."""
    if row.expected is None:
        return None
    return {
        "prompt": {**asdict(row.expected.prompt), "measured_beside_it": row.prompt_ratio},
        "generation": {
            **asdict(row.expected.generation),
            "measured_beside_it": row.generation_ratio,
        },
        "basis": row.basis,
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
    return {**facts, "kernels": chosen(), "os": operating_system(), "load": os.getloadavg()[0]}


def rows_table(rows: Sequence[BenchRow], wire: Wire) -> Table:
    """Return a table with a line for each row; with what was expected, if anything was."""
    first, compares = rows[0].result, any(row.expected for row in rows)
    table = Table(box=None, pad_edge=False)
    title = f"tokens/s; ranks {first.ranks}, sums in {wire.value}"
    if (kernels := chosen()) != NATIVE:
        title += f", kernels for {kernels}"
    if first.depth:
        title += f", {first.depth} tokens in the context before"
    table.title, table.title_justify, table.title_style = title, "left", ""
    told = ["predicted"] if compares else []
    for heading in ("threads", "prompt", "", *told, "generate", "", *told, "memory of a rank"):
        table.add_column(heading, justify="right")
    for row in rows:
        one, expected = row.result, row.expected
        prompt, answer = _cells(one.prompt), _cells(one.generation)
        if compares:
            prompt += (_beside(expected.prompt, row.prompt_ratio) if expected else "",)
            answer += (_beside(expected.generation, row.generation_ratio) if expected else "",)
        table.add_row(str(one.threads), *prompt, *answer, bytes_text(max(one.peak_memory_bytes)))
    return table


def _cells(rate: TokenRate) -> tuple[str, ...]:
    speed = rate.tokens_per_s
    return str(rate.tokens), f"{speed.median:.2f} ({speed.min:.2f} to {speed.max:.2f})"


def _beside(expected: Interval, ratio: float) -> str:
    return f"{expected.value:.2f} (measured {ratio - 1:+.0%})"


def print_row(row: BenchRow, wire: Wire) -> None:
    """Write one row in full."""
    result, expected = row.result, row.expected
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
    if expected:
        output.print(
            f"predicted   prompt {_beside(expected.prompt, row.prompt_ratio)}, generation "
            f"{_beside(expected.generation, row.generation_ratio)}; known from: {row.basis}",
            soft_wrap=True,
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
