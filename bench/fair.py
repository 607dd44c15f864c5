"""Fairness: one client's time to first text, alone, beside 200 long requests of another, and behind them.

The same server. "shared" gives each client a key of its own; "first come, first served" gives both the same
key, whose requests are answered in their order. The difference to "alone" may be one step of the model: a
third client, with a key of its own, gets a token of a long answer in every step and measures that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measure import Sample, Spread, machine, main, parser, positive
from serve_client import Address, stream
from serve_load import Load, percentile
from serve_servers import Server, Setting, dure_serve, running_command

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
ALONE, SHARED, FIFO = "alone", "shared", "first come, first served"
KEYS = {ALONE: ("", "modest"), SHARED: ("greedy", "modest"), FIFO: ("greedy", "greedy")}
SMALL = Load(prompt_tokens=16, max_tokens=8, requests=1)


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    add = options.add_argument
    add("--model", type=Path, default=DEMO, help="a GGUF (default: the demo model)")
    add("--threads", type=positive, default=1, help="of the server (%(default)s)")
    add("--slots", type=positive, default=4, help="answers at once (%(default)s)")
    add("--requests", type=positive, default=200, help="long ones, all at once (%(default)s)")
    add("--prompt-tokens", type=positive, default=256, help="of each long one (%(default)s)")
    add("--max-tokens", type=positive, default=128, help="of each long one (%(default)s)")
    add("--small", type=positive, default=50, help="requests of the other client (%(default)s)")
    arguments = options.parse_args()
    samples: dict[str, list[Sample]] = {name: [] for name in KEYS}
    for round_ in range(arguments.rounds):
        for name in KEYS if round_ % 2 == 0 else reversed(KEYS):
            samples[name].append(_measure(arguments, name, round_))
    return _report(arguments, samples)


def _measure(arguments: argparse.Namespace, name: str, round_: int) -> Sample:
    setting = Setting(arguments.model, arguments.threads, arguments.slots, 2048)
    with tempfile.NamedTemporaryFile("w", prefix="dure-keys-") as keys:
        keys.write("".join(f"{key}:key-of-{key}\n" for key in ("greedy", "modest", "watcher")))
        keys.flush()
        more = ("--api-key-file", keys.name, "--queue", str(2 * arguments.requests))

        def command(setting: Setting, port: int) -> list[str]:
            return dure_serve(setting, port, more=more)

        with running_command("dure", command, setting) as server:
            return asyncio.run(_ask(arguments, server, *KEYS[name], seed=round_ * 100_000))


async def _ask(
    arguments: argparse.Namespace, server: Server, greedy: str, modest: str, seed: int
) -> Sample:
    """Return the times to first text of small requests beside long ones. greedy: "" for no long ones."""
    here = _with_key(server.address, modest)
    for i in range(3):
        await stream(here, SMALL.api.path, SMALL.body(seed - 1 - i))
    long = Load(arguments.prompt_tokens, arguments.max_tokens, 1)
    others = [
        asyncio.create_task(
            stream(_with_key(server.address, greedy), long.api.path, long.body(seed + i))
        )
        for i in range(arguments.requests if greedy else 0)
    ]
    await asyncio.sleep(2.0)  # all slots are taken
    firsts, gaps, ended = list[float](), list[float](), asyncio.Event()
    watching = asyncio.create_task(_watch(server.address, gaps, ended))
    for i in range(arguments.small if modest != greedy else 1):  # it waits for all the long ones
        await asyncio.sleep(random.uniform(0, 0.2))
        answer = await stream(here, SMALL.api.path, SMALL.body(seed + 50_000 + i))
        firsts.append(answer.first)
    ended.set()
    await watching
    for other in others:
        other.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*others, return_exceptions=True)
    return {
        "p50": percentile(firsts, 50), "p99": percentile(firsts, 99), "step": percentile(gaps, 99)
    }  # fmt: skip


async def _watch(address: Address, gaps: list[float], ended: asyncio.Event) -> None:
    """Append the seconds of every step until the event is set."""
    endless = Load(prompt_tokens=16, max_tokens=1900, requests=1)
    while not ended.is_set():
        answer = await stream(
            _with_key(address, "watcher"), endless.api.path, endless.body(7),
            leave=lambda _: ended.is_set(),
        )  # fmt: skip
        gaps += answer.gaps


def _with_key(address: Address, name: str) -> Address:
    return Address(address.host, address.port, f"key-of-{name}")


def _report(arguments: argparse.Namespace, samples: dict[str, list[Sample]]) -> int:
    rows = {
        name: {key: Spread.of([sample[key] for sample in runs]).median for key in runs[0]}
        for name, runs in samples.items()
    }
    added = rows[SHARED]["p99"] - rows[ALONE]["p99"]
    met = added <= rows[SHARED]["step"]
    if arguments.json:
        print(json.dumps({"bench": "fair", "machine": machine(), "rows": rows, "met": met}))
    else:
        print(_table(rows))
        print(
            f"p99 beside others: {added * 1e3:+.0f} ms; one step: {rows[SHARED]['step'] * 1e3:.0f} ms"
        )
    return 0 if met else 1


def _table(rows: dict[str, dict[str, float]]) -> str:
    names = ("p50", "p99", "step")
    lines: Sequence[str] = [
        f"{name:26}" + "".join(f"{row[key] * 1e3:10.0f} ms" for key in names)
        for name, row in rows.items()
    ]
    return "\n".join([f"{'first text':26}" + "".join(f"{key:>13}" for key in names), *lines])


if __name__ == "__main__":
    main(run)
