"""What watching costs: tokens/s of an answer while three pages and a scraper look at the server, and alone.

The same server, two ranks on one machine. Watchers read the page's feed and /metrics as a browser and
Prometheus do, in a process of their own with the lowest priority: that part would be another machine's.
Machines change their speed by more than watching costs, so answers are short and many: each round is one
watched and one alone, side by side, and the cost is the median of the rounds' ratios, with the interval
that it lies in at 95 %. The server's own process is timed too: it computes no tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from measure import (
    BenchError,
    Contender,
    Quantity,
    Sample,
    alternate,
    compared,
    main,
    parser,
    positive,
    report,
)
from serve_client import fetch
from serve_servers import Server, Setting, dure_serve, running_command

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
PER_S = Quantity("per_s", "generation", "tokens/s", 0.995)
QUANTITIES = (PER_S, Quantity("own_cpu", "the server's own process", "% of a core", None))
_READER = """
import os, sys, threading, urllib.request
os.nice(19)
url, n_pages = sys.argv[1], int(sys.argv[2])
watching = threading.Event()
def read():
    while watching.wait():
        with urllib.request.urlopen(url + "/page/feed") as feed:
            while watching.is_set() and feed.read1(65536):
                pass
def scrape():
    while watching.wait():
        urllib.request.urlopen(url + "/metrics").read()
        threading.Event().wait(5)
for target in [read] * n_pages + [scrape]:
    threading.Thread(target=target, daemon=True).start()
for line in sys.stdin:
    watching.set() if line.strip() == "watch" else watching.clear()
"""
_SETTLE_S = 0.7  # until feeds have opened, or have seen that they are to close


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=150)
    add = options.add_argument
    add("--model", type=Path, default=DEMO, help="a GGUF (default: the demo model)")
    add("--ranks", type=positive, default=2, help="of the model (%(default)s)")
    add("--tokens", type=positive, default=3000, help="of each answer (%(default)s)")
    add("--pages", type=positive, default=3, help="that are open (%(default)s)")
    arguments = options.parse_args()
    setting = Setting(arguments.model, 1, 4, arguments.tokens + 256)

    def command(setting: Setting, port: int) -> list[str]:
        return dure_serve(setting, port, more=("--ranks", str(arguments.ranks)))

    with (
        running_command("dure", command, setting) as server,
        _watchers(server, arguments.pages) as to,
    ):
        measure = partial(_measure, server, arguments.tokens, to)
        measure("rest")
        contenders = [
            Contender("watched", partial(measure, "watch")),
            Contender("alone", partial(measure, "rest")),
        ]
        samples = alternate(contenders, arguments.rounds)
    return _report(arguments, samples)


def _report(arguments: argparse.Namespace, samples: Mapping[str, Sequence[Sample]]) -> int:
    pairs = list(zip(samples["watched"], samples["alone"], strict=True))
    ratios = sorted(watched["per_s"] / alone["per_s"] for watched, alone in pairs)
    low, high = _interval(ratios)
    comparisons = [
        replace(one, ratio=statistics.median(ratios)) if one.quantity is PER_S else one
        for one in compared(samples, "watched", "alone", QUANTITIES)
    ]
    settings = {
        "model": arguments.model.name,
        "ranks": arguments.ranks,
        "tokens": arguments.tokens,
        "pages": arguments.pages,
        "ratio_from": round(low, 4),
        "ratio_to": round(high, 4),
    }
    return report("watching", settings, comparisons, arguments.json)


def _interval(ranked: Sequence[float]) -> tuple[float, float]:
    """Return what the median lies between at 95 %, whatever the distribution (its order statistics)."""
    n = len(ranked)
    beside = round(0.98 * math.sqrt(n))
    return ranked[max(0, n // 2 - beside)], ranked[min(n - 1, n // 2 + beside)]


def _measure(server: Server, n_tokens: int, tell: Callable[[str], None], what: str) -> Sample:
    tell(what)
    before_s, began_s = _own_cpu_s(server), time.monotonic()
    per_s = _per_s(server, n_tokens)
    used_s = _own_cpu_s(server) - before_s
    return {"per_s": per_s, "own_cpu": 100 * used_s / (time.monotonic() - began_s)}


def _own_cpu_s(server: Server) -> float:
    """Return the processor time of the process that speaks HTTP, without the ranks."""
    return float(sum(server.processes()[0].cpu_times()[:2]))


@contextmanager
def _watchers(server: Server, n_pages: int) -> Iterator[Callable[[str], None]]:
    """Have pages and a scraper ready within the block; yield what makes them "watch", or "rest"."""
    url = f"http://{server.address.host}:{server.address.port}"
    with subprocess.Popen(
        [sys.executable, "-c", _READER, url, str(n_pages)], stdin=subprocess.PIPE, text=True
    ) as process:
        to_watchers = process.stdin
        assert to_watchers

        def tell(what: str) -> None:
            if process.poll() is not None:
                raise BenchError("the watchers ended: run the bench again")
            print(what, file=to_watchers, flush=True)
            time.sleep(_SETTLE_S)

        try:
            yield tell
        finally:
            process.kill()


def _per_s(server: Server, n_tokens: int) -> float:
    """Have an answer written, and return the speed that the server tells."""
    body = {
        "prompt": "Once upon a time",
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    answer = asyncio.run(fetch(server.address, "POST", "/v1/completions", body))
    return float(json.loads(answer)["timings"]["predicted_per_second"])


if __name__ == "__main__":
    main(run)
