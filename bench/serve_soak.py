"""Soak test: minutes of mixed load with hang-ups on one server; memory must not grow, no request hang.

Knows the mix, and what must be true after it.
Refuses to compare servers.

Every client sends request after request: short and long prompts, shared and own prefixes, streamed or in
one piece; every third hangs up after a random number of tokens. Half of dure's requests are those of other
clients: chats, with tools or a schema, and the APIs of Anthropic and Ollama. Afterwards the metrics must
show that nothing runs or waits, answers must be as before, and memory must be as after the warm-up.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from measure import BenchError, machine, progress
from serve_client import Address, Answer, Body, RefusedError, fetch, read, stream
from serve_load import Load, words_of
from serve_servers import Server, Setting, running
from soak_requests import KINDS

SAMPLE_EVERY_S = 5.0
STUCK_AFTER_S = 300.0
IDLE_WITHIN_S = 60.0
GROWTH_ALLOWED = 1.05
WARM_UP_SHARE = 0.2
CACHE_MB = 64  # of computed prompts; full before the warm-up ends, so that it no longer grows
PREFIXES = 4
OTHER_CLIENTS = 0.5  # of the requests
US = "dure"
IDLE_METRICS = ("llamacpp:requests_processing", "llamacpp:requests_deferred")


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory and number of the server's processes at a time since the start."""

    at_s: float
    memory_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class SoakResult:
    """The result of a soak. `growth` is memory at the end over memory after the warm-up."""

    outcomes: dict[str, int]
    samples: list[Sample]
    growth: float
    idle: dict[str, float]
    same_answer: bool

    @property
    def faults(self) -> list[str]:
        """Return what is wrong; empty if nothing is."""
        bad = [f"{count} requests {what}" for what, count in self.outcomes.items()
               if what not in _GOOD]  # fmt: skip
        if self.growth > GROWTH_ALLOWED:
            bad.append(f"memory grew to {self.growth:.3f} of what it was after the warm-up")
        bad += [f"{name} is {value:g} where nothing runs" for name, value in self.idle.items()
                if value]  # fmt: skip
        if not self.same_answer:
            bad.append("the answer to the same greedy request is another than before")
        return bad


_GOOD = ("answered", "hung up", "told to wait")


def soak(name: str, setting: Setting, seconds: float, as_json: bool) -> int:
    """Soak the server `name`; print the result; return 0 if nothing is wrong."""
    with running(name, replace(setting, cache_mb=CACHE_MB)) as server:
        result = asyncio.run(_soak(server, setting, seconds, others=name == US))
    faults = result.faults
    if as_json:
        document = {"bench": "serve --soak", "server": name, "seconds": seconds,
                    "machine": machine(), **asdict(result), "faults": faults}  # fmt: skip
        print(json.dumps(document, indent=2))
    else:
        print(f"{name}, {seconds / 60:g} minutes: "
              + ", ".join(f"{count} {what}" for what, count in result.outcomes.items()))  # fmt: skip
        print(_memory_line(result))
        print("\n".join(faults) or "nothing is wrong")
    return 1 if faults else 0


def _memory_line(result: SoakResult) -> str:
    values = [sample.memory_bytes / 1e6 for sample in result.samples]
    return (
        f"memory (MB): start {values[0]:.0f}, largest {max(values):.0f}, end {values[-1]:.0f}; "
        f"end over warm {result.growth:.3f}"
    )


async def _soak(server: Server, setting: Setting, seconds: float, *, others: bool) -> SoakResult:
    before = await _known_answer(server.address)
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    clients = [
        _client(
            server.address,
            setting,
            random.Random(number),
            started + seconds,
            outcomes,
            others=others,
        )
        for number in range(setting.slots + setting.slots // 4)
    ]
    watch = asyncio.create_task(_watch(server, started, outcomes))
    try:
        await asyncio.gather(*clients)
    finally:
        watch.cancel()
    samples = await watch
    idle = await _idle(server.address)
    after = await _known_answer(server.address)
    samples.append(_sample(server, started))
    return SoakResult(dict(outcomes), samples, _growth(samples), idle, before == after)


def _growth(samples: Sequence[Sample]) -> float:
    """Return the median of the last fifth of the time over that of the second fifth."""
    total = samples[-1].at_s
    warm = [s.memory_bytes for s in samples
            if WARM_UP_SHARE * total <= s.at_s < 2 * WARM_UP_SHARE * total]  # fmt: skip
    end = [s.memory_bytes for s in samples if s.at_s >= (1 - WARM_UP_SHARE) * total]
    return statistics.median(end) / statistics.median(warm or end)


async def _watch(server: Server, started: float, outcomes: Counter[str]) -> list[Sample]:
    samples = [_sample(server, started)]
    try:
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            samples.append(_sample(server, started))
            if len(samples) % 12 == 0:
                last = samples[-1]
                progress(f"{last.at_s:.0f} s: {last.memory_bytes / 1e6:.0f} MB, {dict(outcomes)}")
    except asyncio.CancelledError:
        return samples


def _sample(server: Server, started: float) -> Sample:
    found = server.processes()
    return Sample(time.monotonic() - started, server.memory_bytes(), len(found))


async def _client(
    address: Address,
    setting: Setting,
    random_: random.Random,
    end: float,
    outcomes: Counter[str],
    *,
    others: bool,
) -> None:
    while time.monotonic() < end:
        try:
            async with asyncio.timeout(STUCK_AFTER_S):
                outcomes[await _ask(address, setting, random_, others=others)] += 1
        except TimeoutError:
            outcomes[f"got nothing for {STUCK_AFTER_S:g} s"] += 1
        except RefusedError as error:
            waits = error.status in (429, 503)
            outcomes["told to wait" if waits else f"refused with {error.status}"] += 1
            await asyncio.sleep(1)
        except (BenchError, OSError) as error:
            outcomes[f"failed: {error}"] += 1
            await asyncio.sleep(1)


async def _ask_as_other(address: Address, random_: random.Random) -> str:
    kind = random_.choice(KINDS)
    leaves = random_.random() < 0.25
    found = await read(
        address, kind.path, kind.body(random_), random_.randint(0, 16) if leaves else None
    )
    is_whole = any(end in found for end in kind.ends)
    if not is_whole and not leaves:
        raise BenchError(f"a stream of {kind.path} ended before its end")
    return "answered" if is_whole else "hung up"


async def _ask(address: Address, setting: Setting, random_: random.Random, *, others: bool) -> str:
    if others and random_.random() < OTHER_CLIENTS:
        return await _ask_as_other(address, random_)
    body, load = _request(setting, random_)
    if random_.random() < 0.2:
        await fetch(address, "POST", load.api.path, {**body, "stream": False})
        return "answered"
    stop_after = random_.randint(0, load.max_tokens) if random_.random() < 0.33 else None

    def leave(answer: Answer) -> bool:
        return stop_after is not None and len(answer.events) >= stop_after

    answer = await stream(address, load.api.path, body, leave=leave)
    if not answer.whole and stop_after is None:
        raise BenchError("a stream ended before [DONE]")
    return "answered" if answer.whole else "hung up"


def _request(setting: Setting, random_: random.Random) -> tuple[Body, Load]:
    longest = setting.context - 160
    length = random_.choice((16, 64, 128, 512, min(1024, longest)))
    load = Load(length, random_.choice((8, 32, 64, 128)), 1, temperature=random_.choice((0, 0.8)))
    prefix: list[int] = []
    if length >= 128 and random_.random() < 0.5:
        prefix = words_of(random.Random(random_.randrange(PREFIXES)), length // 2)
    return load.body(random_.randrange(1 << 30), prefix), load


async def _known_answer(address: Address) -> str:
    load = replace(Load(64, 32, 1), temperature=0.0)
    body = {**load.body(0), "cache_prompt": False}
    return "".join((await stream(address, load.api.path, body)).text)


async def _idle(address: Address) -> dict[str, float]:
    """Return the metrics of running and waiting requests, once they are zero or after a minute."""
    deadline = time.monotonic() + IDLE_WITHIN_S
    while True:
        text = (await fetch(address, "GET", "/metrics")).decode()
        values = {name: _metric(text, name) for name in IDLE_METRICS}
        if not any(values.values()) or time.monotonic() > deadline:
            return values
        await asyncio.sleep(0.5)


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    if found is None:
        raise BenchError(f"/metrics has no {name}")
    return float(found[1])
