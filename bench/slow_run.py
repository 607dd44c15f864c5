"""A slow run, explained from the dashboard alone.

Two hosts (network namespaces on a 1 Gbit/s link) serve a model with a rank on each, and somebody asks all
the time. Then, one after the other: other programs take the node's processor; its link becomes slow; many
ask at once; the node is lost. Prometheus scrapes the server with the files of deploy/monitoring, and what
the dashboard's panels say of each time is read through their own queries.

    sudo -E "$(command -v python)" bench/slow_run.py --model MODEL.gguf --picture docs/images/slow-run.svg

Needs root, iproute2 and Debian's package prometheus; a picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_hosts import WAIT_S, Machine, joined, machines, ranks_of
from hosts import BURST, QUEUE, RATE
from measure import BenchError, main, positive, progress

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "models" / "dure-demo.gguf"
MONITORING = ROOT / "deploy" / "monitoring"
PORT, SCRAPER_PORT = 18080, 19090
OVER_S = 10  # of rates
SLOW = "2mbit"
CLIENT = """
import json, sys, threading, time, urllib.request
def ask(number):
    while True:
        body = {"prompt": f"{number}. Once upon a time a goat", "max_tokens": 64, "temperature": 0,
                "ignore_eos": True}
        url = sys.argv[1] + "/v1/completions"
        try:
            urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())).read()
        except OSError as error:
            print(error, flush=True)
            time.sleep(1)
for number in range(int(sys.argv[2])):
    threading.Thread(target=ask, args=(number,)).start()
"""
SHOWN = (  # panels, in the order in which one reads them
    "Generation",
    "Token to token",
    "Running and waiting",
    "Wait before the prompt",
    "A step, in parts",
    "Compute of a step, by rank",
    "Wait in exchanges, by rank",
    "Taken by other programs, by rank",
    "Tokens in a step",
    "Machines lost",
)
DRAWN = (
    "Generation",
    "Running and waiting",
    "A step, in parts",
    "Compute of a step, by rank",
    "Wait in exchanges, by rank",
    "Taken by other programs, by rank",
)


@dataclass(frozen=True)
class Phase:
    """A time in which something is wrong, and what makes it so."""

    name: str
    wrong: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    begin_s: float = 0.0
    end_s: float = 0.0


@contextmanager
def running(command: Sequence[object], count: int = 1) -> Iterator[None]:
    """Run programs, without output, until the block ends."""
    started = [
        subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def slow_link(machine: Machine) -> Iterator[None]:
    """What a host sends goes at 2 Mbit/s, as by a bad radio."""
    at = ("tc", "-n", machine.name, "qdisc", "replace", "dev", machine.host.device, "root", "tbf")
    subprocess.run([*at, "rate", SLOW, "burst", "1600", "latency", QUEUE], check=True)
    try:
        yield
    finally:
        subprocess.run([*at, "rate", RATE, "burst", BURST, "latency", QUEUE], check=True)


@contextmanager
def lost(machine: Machine) -> Iterator[None]:
    """A host's processes stand still, as those of a machine without power."""
    for process in ranks_of(machine):
        process.send_signal(signal.SIGSTOP)
    for agent in machine.started:
        agent.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for agent in machine.started:
            agent.send_signal(signal.SIGCONT)
        for process in ranks_of(machine):
            process.send_signal(signal.SIGCONT)


def scraping(root: Machine, directory: Path) -> AbstractContextManager[None]:
    """Prometheus on the root, which scrapes every second."""
    copied = directory / "monitoring"
    shutil.copytree(MONITORING, copied)
    config = copied / "prometheus.yml"
    config.write_text(re.sub(r"_interval: \d+s", "_interval: 1s", config.read_text()))
    (copied / "targets.yml").write_text(json.dumps([{"targets": [f"127.0.0.1:{PORT}"]}]))
    return running(
        root.host.command(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'series'}",
                f"--web.listen-address=127.0.0.1:{SCRAPER_PORT}",
            ]
        )
    )


def asked(root: Machine, n_clients: int) -> AbstractContextManager[None]:
    """So many clients on the root ask all the time."""
    url = f"http://127.0.0.1:{PORT}"
    return running(root.host.command([sys.executable, "-c", CLIENT, url, str(n_clients)]))


def panels() -> dict[str, dict[str, Any]]:
    """Return the dashboard's panels by title."""
    dashboard = json.loads((MONITORING / "grafana/dashboards/dure.json").read_text())
    return {panel["title"]: panel for panel in dashboard["panels"]}


def read(
    root: Machine, panel: dict[str, Any], begin_s: float, end_s: float
) -> dict[str, list[tuple[float, float]]]:
    """Return what a panel draws of a time: by legend, seconds and values."""
    found: dict[str, list[tuple[float, float]]] = {}
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", f"{OVER_S}s")
        query = re.sub(r"\$[a-z]+", ".*", query)
        done = subprocess.run(
            root.host.command(
                [
                    *("promtool", "query", "range", "--format", "json", "--step", "1s"),
                    *("--start", str(begin_s), "--end", str(end_s)),
                    *(f"http://127.0.0.1:{SCRAPER_PORT}", query),
                ]
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{panel['title']}: {done.stderr}")
        for series in json.loads(done.stdout):
            legend = target["legendFormat"]
            for label in re.findall(r"{{(\w+)}}", legend):
                legend = legend.replace(f"{{{{{label}}}}}", str(series["metric"].get(label, "")))
            found[legend] = [
                (float(at), float(value)) for at, value in series["values"] if value != "NaN"
            ]
    return found


def lived(root: Machine, node: Machine, seconds: int) -> list[Phase]:
    """Live through the phases; return them with their times."""
    processor = "1" if node.cpu is None else str(node.cpu)
    spin = ["taskset", "-c", processor, "sh", "-c", "while :; do :; done"]
    done = []
    for phase in (
        Phase("as it should be"),
        Phase("other programs on the node", lambda: running(node.host.command(spin), 6)),
        Phase("a slow link", lambda: slow_link(node)),
        Phase("twelve clients", lambda: asked(root, 12)),
        Phase("the node is lost", lambda: lost(node)),
    ):
        progress(phase.name)
        begin_s = time.time()
        with phase.wrong():
            time.sleep(seconds)
        done.append(Phase(phase.name, phase.wrong, begin_s, time.time()))
        time.sleep(OVER_S)
    return done


def table(root: Machine, phases: Sequence[Phase]) -> str:
    """Return what each panel says of each phase: the median of its second half."""
    lines = ["| panel | " + " | ".join(phase.name for phase in phases) + " |"]
    lines.append("|---" * (len(phases) + 1) + "|")
    for title in SHOWN:
        panel = panels()[title]
        unit = panel["fieldConfig"]["defaults"]["unit"].removeprefix("suffix: ")
        cells: dict[str, list[str]] = {}
        for number, phase in enumerate(phases):
            middle_s = phase.begin_s + max(OVER_S, (phase.end_s - phase.begin_s) / 2)
            for legend, values in read(root, panel, middle_s, phase.end_s).items():
                row = cells.setdefault(legend, [""] * len(phases))
                if values:
                    row[number] = _written(statistics.median(v for _, v in values), unit)
        lines += [f"| {title}: {legend} | {' | '.join(row)} |" for legend, row in cells.items()]
    return "\n".join(lines)


def _written(value: float, unit: str) -> str:
    return f"{1e3 * value:.1f} ms" if unit == "s" else f"{value:.3g} {unit.replace('short', '')}"


def draw(root: Machine, phases: Sequence[Phase], file: Path) -> None:
    """Draw the panels one below the other, with the phases shaded."""
    import matplotlib as mpl

    mpl.use("svg" if file.suffix == ".svg" else "agg")
    from matplotlib import pyplot

    begin_s, end_s = phases[0].begin_s, phases[-1].end_s
    figure, axes = pyplot.subplots(len(DRAWN), 1, figsize=(9, 1.7 * len(DRAWN)), sharex=True)
    for axis, title in zip(axes, DRAWN, strict=True):
        panel = panels()[title]
        unit = panel["fieldConfig"]["defaults"]["unit"].removeprefix("suffix: ")
        scale, unit = (1e3, "ms") if unit == "s" else (1.0, unit.replace("short", ""))
        drawn = read(root, panel, begin_s, end_s)
        if title == "A step, in parts":
            times = sorted(set.intersection(*({at for at, _ in v} for v in drawn.values())))
            heights = [[scale * dict(values)[at] for at in times] for values in drawn.values()]
            names = [legend.partition(": ")[2] for legend in drawn]
            axis.stackplot([at - begin_s for at in times], heights, labels=names, alpha=0.7)
        else:
            for legend, values in drawn.items():
                line = [scale * value for _, value in values]
                axis.plot([at - begin_s for at, _ in values], line, label=legend, linewidth=1)
        for phase in phases[1:]:
            axis.axvspan(phase.begin_s - begin_s, phase.end_s - begin_s, alpha=0.08, color="black")
        axis.set_title(f"{title} ({unit})" if unit else title, fontsize=9, loc="left")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    for phase in phases:
        middle = (phase.begin_s + phase.end_s) / 2 - begin_s
        place = {"ha": "center", "fontsize": 7, "transform": axes[0].get_xaxis_transform()}
        axes[0].text(middle, 1.3, phase.name, **place)
    axes[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(file)


def run() -> int:
    """Live through all of it, and print what the panels said."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, default=DEMO)
    options.add_argument("--seconds", type=positive, default=60, help="of each phase")
    options.add_argument("--picture", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory, machines(Path(directory), 2) as (root, node):
        root.cpu, node.cpu = 0, 1
        joined(root, node)
        root.wait_s = node.wait_s = 5 * WAIT_S
        root.start(
            *("serve", given.model, "--cluster", "--nodes", "all", "--port", PORT),
            *("-t", 1, "--parallel", 4, "--ctx", 512, "--draft", "off"),
            says="ready",
        )
        with asked(root, 1), scraping(root, Path(directory)):
            time.sleep(OVER_S + 5)
            phases = lived(root, node, given.seconds)
            print(table(root, phases))
            if given.picture:
                draw(root, phases, given.picture)
    return 0


if __name__ == "__main__":
    main(run)
