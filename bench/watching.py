"""What watching costs: tokens/s of an answer while three pages and a scraper look at the server, and alone.

The same server, two ranks on one machine. Watchers read the page's feed and /metrics as a browser and
Prometheus do, in a process of their own with the lowest priority: that part would be another machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from measure import BenchError, Contender, Quantity, Sample, compare, main, parser, positive, report
from serve_client import fetch
from serve_servers import Server, Setting, dure_serve, running_command

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
QUANTITIES = (Quantity("per_s", "generation", "tokens/s", 0.995),)
_READER = """
import os, sys, threading, time, urllib.request
os.nice(19)
url, n_pages = sys.argv[1], int(sys.argv[2])
def read():
    with urllib.request.urlopen(url + "/page/feed") as feed:
        while feed.read1(65536):
            pass
for _ in range(n_pages):
    threading.Thread(target=read, daemon=True).start()
while True:
    urllib.request.urlopen(url + "/metrics").read()
    time.sleep(5)
"""


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=9)
    add = options.add_argument
    add("--model", type=Path, default=DEMO, help="a GGUF (default: the demo model)")
    add("--ranks", type=positive, default=2, help="of the model (%(default)s)")
    add("--tokens", type=positive, default=1000, help="of each answer (%(default)s)")
    add("--pages", type=positive, default=3, help="that are open (%(default)s)")
    arguments = options.parse_args()
    setting = Setting(arguments.model, 1, 4, arguments.tokens + 256)

    def command(setting: Setting, port: int) -> list[str]:
        return dure_serve(setting, port, more=("--ranks", str(arguments.ranks)))

    with running_command("dure", command, setting) as server:
        _per_s(server, arguments.tokens)
        contenders = [
            Contender("watched", partial(_measure, arguments, server, is_watched=True)),
            Contender("alone", partial(_measure, arguments, server, is_watched=False)),
        ]
        comparisons = compare(QUANTITIES, contenders, arguments.rounds)
    settings = {
        "model": arguments.model.name,
        "ranks": arguments.ranks,
        "tokens": arguments.tokens,
        "pages": arguments.pages,
    }
    return report("watching", settings, comparisons, arguments.json)


def _measure(arguments: argparse.Namespace, server: Server, *, is_watched: bool) -> Sample:
    with _watchers(server, arguments.pages) if is_watched else nullcontext():
        return {"per_s": _per_s(server, arguments.tokens)}


@contextmanager
def _watchers(server: Server, n_pages: int) -> Iterator[None]:
    """Have pages and a scraper open within the block."""
    url = f"http://{server.address.host}:{server.address.port}"
    process = subprocess.Popen([sys.executable, "-c", _READER, url, str(n_pages)])
    try:
        time.sleep(1.0)
        if process.poll() is not None:
            raise BenchError("the watchers ended: run the bench again")
        yield
    finally:
        process.kill()
        process.wait()


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
