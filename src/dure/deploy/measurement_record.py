"""Makes the record of a measurement that may be shared: what was measured, on which kinds of machines.

Knows which facts of a machine say nothing of its owner, and takes no others. Refuses to know files.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence

from dure.cluster.software import versions
from dure.deploy.deployment import Deployment
from dure.engine.instruments.benchmark import BenchResult, TokenRate
from dure.engine.wire import Wire
from dure.hardware.health import Platform
from dure.hardware.probe import platform
from dure.model.gguf import GgufFile
from dure.plan.devices import Processor
from dure.plan.expectation import Expectation
from dure.plan.figures import Figure
from dure.plan.measurements import (
    LinkRecord,
    MachineRecord,
    Measurement,
    RunRecord,
    SpeedRecord,
    rounded_gib,
)
from dure.plan.model_record import model_record
from dure.plan.performance import Interval
from dure.plan.setups import Setup

__all__ = ["measurement_of", "run_record"]

_MOST_NAME = 100  # characters of a processor's


def measurement_of(
    model: GgufFile,
    deployment: Deployment,
    wire: Wire,
    measured: Setup | None,
    runs: Sequence[RunRecord],
) -> Measurement:
    """Return the record of runs of a started model.

    measured: its machines with their own speeds; None: not known. Raises ModelError if the model's header
    says too little for a plan.
    """
    return Measurement(
        month=datetime.datetime.now(datetime.UTC).strftime("%Y-%m"),
        software=versions(),
        sync=wire.value,
        model=model_record(model),
        machines=tuple(_machines(deployment, measured)),
        link=_link(measured),
        runs=tuple(runs),
    )


def _machines(deployment: Deployment, measured: Setup | None) -> Iterator[MachineRecord]:
    platforms = deployment.platforms or (platform({}, lambda _: ""),)
    shares, threads = deployment.shares or (1.0,), deployment.executor.info.threads
    for rank, (one, share) in enumerate(zip(platforms, shares, strict=True)):
        processor = measured.devices[rank].processor if measured else None
        yield _machine(one, share / sum(shares), threads[rank], processor)


def _machine(
    one: Platform, share: float, threads: int, measured: Processor | None
) -> MachineRecord:
    layer_s = measured.layer_s if measured else None
    column_s = measured.column_s if measured else None
    return MachineRecord(
        processor="".join(c for c in one.processor if c.isprintable())[:_MOST_NAME],
        architecture=one.architecture,
        features=one.features,
        cores=one.cores,
        memory_gib=rounded_gib(one.memory_bytes),
        threads=threads,
        share=_rounded(share),
        is_limited=bool(one.limits),
        reads=_values(measured.reads if measured else {}),
        multiplies=_values(measured.prompts if measured else {}),
        multiplies_few=_values(measured.fews if measured else {}),
        layer_s=_rounded(layer_s.value) if layer_s else None,
        column_s=_rounded(column_s.value) if column_s else None,
    )


def _values(figures: Mapping[str, Figure]) -> dict[str, float]:
    return {type_name: _rounded(one.value) for type_name, one in figures.items()}


def _link(measured: Setup | None) -> LinkRecord | None:
    if measured is None or len(measured.devices) == 1:
        return None
    link = measured.link
    return LinkRecord(_rounded(link.bytes_per_s.value), _rounded(2 * link.exchange_s.value))


def run_record(result: BenchResult, expected: Expectation | None) -> RunRecord:
    """Return what was measured, beside what was to be expected, if that is known."""
    times = result.per_token_ms
    return RunRecord(
        depth=result.depth,
        prompt=_speed(result.prompt, expected.prompt if expected else None),
        generation=_speed(result.generation, expected.generation if expected else None),
        compute_ms=_rounded(times.compute),
        sync_ms=_rounded(times.sync),
        idle_ms=_rounded(times.idle),
        sent_bytes=_rounded(result.bytes_sent_per_token),
        disturbed=_rounded(result.disturbed),
    )


def _speed(rate: TokenRate, expected: Interval | None) -> SpeedRecord:
    speed = rate.tokens_per_s
    measured = map(_rounded, (speed.median, speed.min, speed.max))
    if expected is None:
        return SpeedRecord(rate.tokens, len(speed.runs), *measured)
    interval = map(_rounded, (expected.value, expected.low, expected.high))
    return SpeedRecord(rate.tokens, len(speed.runs), *measured, *interval)


def _rounded(value: float) -> float:
    """Return a figure with four digits: more are chance."""
    return float(f"{value:.4g}")
