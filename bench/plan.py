"""What the planner predicts from measured speeds, beside what `dure bench` then measures.

    sudo -E "$(command -v python)" bench/plan.py --shapes qwen3-0.6b --mixes q4_0 q8_0

For each shape and each mix of types: one rank on one core, and two ranks on two hosts (network namespaces)
of one core each, joined by a 1 Gbit/s link. The figures that go in are a node's own: the speed of reading
and multiplying of each type in the file, all hosts at once and in turns with the model, and the time of
a TCP handshake over the link.
Exits with 1 if an error is above the target. Needs root and two CPUs; see bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from contenders import Load, dure, dure_on_hosts
from hosts import Host, linked_hosts
from measure import main, positive
from shapes import MIXES, SHAPES, default_directory, gguf_file

from dure.deploy.cluster_setup import measured_device
from dure.engine.instruments.speed import Speed, measure_in_process
from dure.hardware.probe import probe
from dure.model.gguf import GgufFile, open_gguf
from dure.plan.devices import NetworkLink
from dure.plan.figures import Basis, Figure
from dure.plan.load import read_types
from dure.plan.machines import engine_named, link_named
from dure.plan.outlook import Task, outlook_of
from dure.plan.performance import Prediction
from dure.plan.setups import Setup

TARGET = 0.07
PORT, HANDSHAKES = 7890, 50
LISTEN = f"import socket; s = socket.create_server(('', {PORT}))\nwhile True: s.accept()[0].close()"
CONNECT = f"""
import socket, sys, time
for _ in range({HANDSHAKES}):
    begun = time.perf_counter()
    socket.create_connection((sys.argv[1], {PORT}), 5).close()
    print(time.perf_counter() - begun)
"""


def speeds(type_names: Sequence[str], n_at_once: int) -> dict[str, Speed]:
    """Measure the speed of one thread with each type, while others do the same."""
    found = {}
    with ThreadPoolExecutor(n_at_once) as threads:
        for name in type_names:
            measured = list(
                threads.map(lambda _, n=name: measure_in_process(n, 1), range(n_at_once))
            )
            found[name] = min(measured, key=lambda one: one.decode_bytes_per_s)
    return found


def link_between(hosts: Sequence[Host]) -> NetworkLink:
    """Measure what an exchange of nothing takes: half of a handshake."""
    listen = [sys.executable, "-c", LISTEN]
    with hosts[1].running(listen, 1) as process:
        hosts[1].wait_for_listener(process, PORT)
        connect = hosts[0].command([sys.executable, "-c", CONNECT, hosts[1].address], 0)
        done = subprocess.run(connect, check=True, capture_output=True, text=True)
    trip_s = statistics.median(map(float, done.stdout.split()))
    known = link_named("1gbe")
    exchange = Figure(trip_s / 2, Basis.MEASURED, "handshakes", "2026-11")
    return NetworkLink(known.title, known.bytes_per_s, exchange)


def predicted(
    model: GgufFile,
    n_ranks: int,
    link: NetworkLink,
    load: Load,
    found: Sequence[Mapping[str, Speed]],
) -> Prediction:
    """Predict a model over ranks from the medians of what was measured."""
    device = measured_device("here", probe(), [median_speed(found, name) for name in found[0]])
    setup = Setup(("here",) * n_ranks, (device,) * n_ranks, link, engine_named("dure"))
    outlook = outlook_of(model, setup, Task(n_prompt=load.prompt_tokens)).prediction
    assert outlook is not None, "these shapes can be cut"
    return outlook


def median_speed(found: Sequence[Mapping[str, Speed]], name: str) -> Speed:
    """Return the median of several measurements of a type, figure by figure."""
    each = [one[name] for one in found]
    return Speed(
        name,
        1,
        statistics.median(one.decode_bytes_per_s for one in each),
        statistics.median(one.prompt_bytes_per_s for one in each),
        statistics.median(one.layer_s for one in each),
        statistics.median(one.column_s for one in each),
        statistics.median(one.few_bytes_per_s for one in each),
    )


def rows(
    hosts: Sequence[Host], arguments: argparse.Namespace, load: Load
) -> Iterator[dict[str, Any]]:
    """Yield what is predicted and measured of each shape, mix and number of ranks."""
    link = link_between(hosts)
    for shape in arguments.shapes:
        for mix in arguments.mixes:
            path = gguf_file(shape, arguments.dir, mix)
            for n_ranks in (1, 2):
                yield from compared(hosts, path, n_ranks, link, load, arguments.rounds)


def compared(
    hosts: Sequence[Host], path: Path, n_ranks: int, link: NetworkLink, load: Load, rounds: int
) -> Iterator[dict[str, Any]]:
    """Measure a machine and a model on it in turns, and yield a prompt and a generation."""
    found, runs = [], []
    with open_gguf(path) as model:
        for _ in range(rounds):
            found.append(speeds(read_types(model), n_ranks))
            here = dure_on_hosts(hosts, path, load) if n_ranks > 1 else dure(path, 1, 1, load)
            runs.append(here)
        prediction = predicted(model, n_ranks, link, load, found)
    for part in ("prompt", "generation"):
        value, measured = getattr(prediction, part).per_s, statistics.median(r[part] for r in runs)
        yield {
            "model": path.name,
            "ranks": n_ranks,
            "part": part,
            "predicted": value,
            "measured": measured,
            "error": value / measured - 1,
        }


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    four = [name for name in SHAPES if name != "qwen3-30b-a3b"]
    options.add_argument("--shapes", nargs="+", choices=SHAPES, default=four)
    options.add_argument("--mixes", nargs="+", choices=MIXES, default=["q4_0", "q8_0"])
    options.add_argument("--dir", type=Path, default=default_directory())
    options.add_argument("-p", type=positive, default=256, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=64, help="generated tokens (%(default)s)")
    options.add_argument("--rounds", type=positive, default=3, help="of both (%(default)s)")
    options.add_argument("--json", action="store_true")
    arguments = options.parse_args()
    load = Load(arguments.p, arguments.n, repeats=1)
    worst = 0.0
    with linked_hosts(2) as hosts:
        for row in rows(hosts, arguments, load):
            worst = max(worst, abs(row["error"]))
            print(json.dumps(row) if arguments.json else _line(row), flush=True)
    return 0 if worst <= TARGET else 1


def _line(row: dict[str, Any]) -> str:
    start = "{model:<36} ranks {ranks} {part:<11}".format(**row)
    return start + "{predicted:9.2f} predicted {measured:9.2f} measured {error:+.1%}".format(**row)


if __name__ == "__main__":
    main(run)
