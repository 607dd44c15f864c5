"""Routes by predicted finish time beside simpler policies, on a mixed trace: short chats, long documents.

Three policies name the target in a header (always the cluster, always the single board, by the prompt's
length), the fourth is the router's own. All go through `dure route serve`, whose decision is learned from
the answers alone. The machines are simulated by their speeds (route_upstream.py): waiting, not computing.
Times are those of the simulation, whose speeds are ten times those of the boards that they stand for.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop
from measure import Contender, Quantity, Sample, compare_with_each, main, parser, positive, report
from route_servers import HEADERS, ask, client, router, upstream

SPEEDS = {"single": "600,90,2", "cluster": "1600,220,2"}
LONG = 500  # tokens of a prompt, for the policy by length
QUANTITIES = (
    Quantity("mean_s", "finish, mean", "s", 1.0, at_least=False),
    Quantity("p95_s", "finish, 95 %", "s", 1.0, at_least=False),
)


class Asked(NamedTuple):
    """A request of the trace: when it comes, and its tokens."""

    at_s: float
    prompt: int
    answer: int


POLICIES: dict[str, Callable[[Asked], str]] = {
    "predicted": lambda _: "",
    "always cluster": lambda _: "cluster",
    "always single": lambda _: "single",
    "by length": lambda asked: "cluster" if asked.prompt > LONG else "single",
}


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--requests", type=positive, default=120, help="of a trace (%(default)s)")
    arguments = options.parse_args()
    trace = _trace(arguments.requests)
    contenders = [Contender(name, partial(_measure, trace, name)) for name in POLICIES]
    goals = {name: QUANTITIES for name in POLICIES if name != "predicted"}
    comparisons = compare_with_each(goals, contenders, arguments.rounds)
    return report("route-trace", {"requests": len(trace)}, comparisons, arguments.json)


def _trace(n: int) -> list[Asked]:
    """Return a trace: three chats to a document, at a rate that one machine alone cannot keep."""
    chance, at_s, trace = random.Random(5), 0.0, list[Asked]()
    for _ in range(n):
        at_s += chance.expovariate(3.4)
        is_chat = chance.random() < 0.75
        prompt = chance.randint(20, 150) if is_chat else chance.randint(600, 1500)
        trace.append(Asked(at_s, prompt, chance.choice((20, 60, 120))))
    return trace


def _measure(trace: Sequence[Asked], policy: str) -> Sample:
    with (
        tempfile.TemporaryDirectory(prefix="dure-route-") as directory,
        upstream(SPEEDS["single"]) as single,
        upstream(SPEEDS["cluster"]) as cluster,
        router(Path(directory), {"single": single, "cluster": cluster}) as url,
    ):
        seconds = sorted(uvloop.run(_replay(url, trace, POLICIES[policy])))
        sample = {"mean_s": sum(seconds) / len(seconds), "p95_s": seconds[int(len(seconds) * 0.95)]}
        return sample | {"near": _near(Path(directory))}


def _near(directory: Path) -> float:
    """Return the part of finish times that were predicted within 20 %."""
    program = str(Path(sys.executable).with_name("dure"))
    command = [program, "route", "report", str(directory / "log.jsonl"), "--json"]
    command += ["--rules", str(directory / "rules.toml")]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(json.loads(done.stdout)["near"])


async def _replay(url: str, trace: Sequence[Asked], policy: Callable[[Asked], str]) -> list[float]:
    one = client(url)

    async def send(asked: Asked) -> float:
        await asyncio.sleep(asked.at_s)
        text = f"{asked.at_s:.6f} {'bell ' * (asked.prompt - 1)}"  # no two begin alike
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        target = policy(asked).encode()
        headers = [*HEADERS, (b"x-route-target", target)] if target else HEADERS
        return await ask(one, {**body, "max_tokens": asked.answer}, headers)

    return list(await asyncio.gather(*map(send, trace)))


if __name__ == "__main__":
    main(run)
