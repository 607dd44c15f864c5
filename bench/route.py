"""A router's own time: `dure route serve` beside LiteLLM's proxy, in front of the same upstream.

The upstream answers at once and computes nothing. Latency is added to that of asking it directly, one
request at a time; requests a second are with --clients at once. Both proxies run one process.

LiteLLM is installed apart, as it has a hundred packages of its own:
    python -m venv litellm && litellm/bin/pip install "litellm[proxy]"
    python bench/route.py --litellm litellm/bin/litellm
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import uvloop
from measure import Contender, Quantity, Sample, compare, main, parser, positive, report
from route_servers import ask, client, litellm, router, upstream

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 1}
QUANTITIES = (
    Quantity("per_s", "requests", "1/s", 2.0),
    Quantity("median_ms", "added latency, median", "ms", 0.5, at_least=False),
    Quantity("p99_ms", "added latency, 99 %", "ms", 0.5, at_least=False),
)
WARM_UP = 50

Proxy = Callable[[Path, str], AbstractContextManager[str]]


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    add = options.add_argument
    add("--litellm", type=Path, required=True, help="path of LiteLLM's program")
    add("--requests", type=positive, default=500, help="one after the other (%(default)s)")
    add("--clients", type=positive, default=16, help="that ask at once (%(default)s)")
    arguments = options.parse_args()
    proxies: dict[str, Proxy] = {
        "dure": lambda directory, url: router(directory, {"upstream": url}),
        "litellm": partial(litellm, arguments.litellm),
    }
    contenders = [
        Contender(name, partial(_measure, arguments, proxy)) for name, proxy in proxies.items()
    ]
    settings = {"requests": arguments.requests, "clients": arguments.clients}
    return report(
        "route", settings, compare(QUANTITIES, contenders, arguments.rounds), arguments.json
    )


def _measure(arguments: argparse.Namespace, proxy: Proxy) -> Sample:
    with (
        tempfile.TemporaryDirectory(prefix="dure-route-") as directory,
        upstream() as direct,
        proxy(Path(directory), direct) as proxied,
    ):
        alone = uvloop.run(_latencies(direct, arguments.requests))
        through = uvloop.run(_latencies(proxied, arguments.requests))
        return {
            "per_s": uvloop.run(_per_s(proxied, arguments.requests * 2, arguments.clients)),
            "median_ms": (_at(through, 0.5) - _at(alone, 0.5)) * 1e3,
            "p99_ms": (_at(through, 0.99) - _at(alone, 0.5)) * 1e3,
        }


def _at(sorted_s: list[float], part: float) -> float:
    return sorted_s[min(len(sorted_s) - 1, int(len(sorted_s) * part))]


async def _latencies(url: str, n: int) -> list[float]:
    one = client(url)
    for _ in range(WARM_UP):
        await ask(one, BODY)
    return sorted([await ask(one, BODY) for _ in range(n)])


async def _per_s(url: str, n: int, clients: int) -> float:
    one = client(url)

    async def some() -> None:
        for _ in range(n // clients):
            await ask(one, BODY)

    await asyncio.gather(*(some() for _ in range(clients)))  # warms up every connection
    start = asyncio.get_running_loop().time()
    await asyncio.gather(*(some() for _ in range(clients)))
    return n / (asyncio.get_running_loop().time() - start)


if __name__ == "__main__":
    main(run)
