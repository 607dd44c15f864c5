"""Faults in a cluster: many seeded runs, each with one fault at a random moment of a greedy stream.

Three hosts (network namespaces on 1 Gbit/s links) serve the demo model with a rank on each. In every run
a story is streamed and a fault is made; the story must end as it does without one. The time from the fault
to the next token is measured. With --jobs 2 two servers share the machines: each tells a story in every
run, and a fault that hits a rank hits one of theirs.

    sudo -E "$(command -v python)" bench/cluster_faults.py --runs 100
    sudo -E "$(command -v python)" bench/cluster_faults.py --runs 50 --jobs 2

Needs root and iproute2. A fault after the end of the story is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from cluster_hosts import WAIT_S, Machine, joined, machines, ranks_of
from measure import BenchError, main, positive, progress

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
STORY = "Tell me a story about a goat."
PORT = 18080
TOKENS = 400
MEDIAN_S = 2.0  # from a fault to the next text, if one job has the machines
ASK = """
import json, sys, time, urllib.request
body = {"messages": [{"role": "user", "content": sys.argv[2]}], "temperature": 0, "stream": True,
        "max_tokens": int(sys.argv[3]), "ignore_eos": True}
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode())
for line in urllib.request.urlopen(request, timeout=300):
    if line.startswith(b"data: "):
        print(time.time(), line[6:].decode().strip(), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """The effect of a fault. pause_s: from the fault to the next text. whole: the text was right."""

    fault: str
    pause_s: float
    whole: bool


class Campaign:
    """A serving cluster, and the faults that can happen to it. n_jobs: servers that share it."""

    def __init__(self, hosts: list[Machine], draw: random.Random, n_jobs: int) -> None:
        self._root, *self._nodes = hosts
        self._draw = draw
        self._ports = [PORT + i for i in range(n_jobs)]
        self.faults: dict[str, Callable[[], None]] = {
            "a node's rank is killed": self._kill_rank,
            "the root's rank is killed": lambda: _kill(self._some(ranks_of(self._root))),
            "an agent is killed": self._kill_agent,
            "a cable is out": self._cable_out,
            "a rank is halted": self._halt,
            "a shard is damaged": self._damage_shard,
            "a disk is full": self._fill_disk,
        }

    def serve(self) -> None:
        """Start the servers."""
        for port in self._ports:
            self._root.start(
                *("serve", DEMO, "--cluster", "--nodes", "all", "--port", port),
                *("--temp", 0, "--sync", "f32", "-t", 1),
                *(["--share-node"] if port != PORT else []),
                says="ready",
            )

    def run(self, fault: str, after: int, expected: str) -> list[Outcome]:
        """Stream a story of each job, and make the fault after n pieces of text of each.

        Returns the effect on each story that had not ended. Every node has all its ranks at the start: one
        that was left out rejoins when the engine is idle.
        """
        _wait(lambda: all(len(ranks_of(node)) == len(self._ports) for node in self._nodes))
        with contextlib.ExitStack() as asked:
            logs = [asked.enter_context(self._asking(port)) for port in self._ports]
            _wait(lambda: all(len(_texts(log)) >= after for log in logs))
            begun = time.time()
            self.faults[fault]()
            _wait(lambda: all(map(_is_over, logs)))
        effects = (_effect(fault, _texts(log), begun, expected) for log in logs)
        return [effect for effect in effects if effect is not None]

    def undisturbed(self) -> str:
        """Return the story without a fault."""
        with self._asking(PORT) as log:
            _wait(lambda: _is_over(log))
        return "".join(text for _, text in _texts(log))

    @contextlib.contextmanager
    def _asking(self, port: int) -> Iterator[Path]:
        log = self._root.home / f"answer{port}"
        url = f"http://127.0.0.1:{port}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self._root.host.command([sys.executable, "-c", ASK, url, STORY, str(TOKENS)]),
                stdout=file,
            )
        try:
            yield log
        finally:
            process.kill()
            process.wait()

    # ------------------------------------------------------------ faults

    def _node(self) -> Machine:
        return self._draw.choice(self._nodes)

    def _some(self, ranks: list[psutil.Process]) -> list[psutil.Process]:
        """Return one job's rank of a machine's."""
        return ranks if len(ranks) < 2 else [self._draw.choice(ranks)]

    def _kill_rank(self) -> None:
        _kill(self._some(ranks_of(self._node())))

    def _kill_agent(self) -> None:
        node = self._node()
        node.started[-1].kill()
        node.started.pop().wait()
        time.sleep(self._draw.uniform(0, 5))
        node.start("node", says=f"{node.name} of home at")

    def _cable_out(self) -> None:
        node = self._node()
        for state, seconds in (("down", self._draw.uniform(3, 30)), ("up", 0.0)):
            link = ["ip", "-n", node.name, "link", "set", node.host.device, state]
            subprocess.run(link, check=True)
            time.sleep(seconds)

    def _halt(self) -> None:
        halted = self._some(ranks_of(self._node()))
        for rank in halted:
            rank.suspend()
        time.sleep(20)
        for rank in halted:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.resume()

    def _damage_shard(self) -> None:
        node = self._node()
        for path in (node.home / "dure_node_dir" / "shards").glob("*.gguf"):
            with path.open("r+b") as file:
                file.seek(self._draw.randrange(path.stat().st_size))
                file.write(b"\xa5\x5a")
        _kill(ranks_of(node))

    def _fill_disk(self) -> None:
        """Delete the node's shard and fill its disk, for a while."""
        node = self._node()
        shards = node.home / "dure_node_dir" / "shards"
        with _small_disk(shards):
            _kill(ranks_of(node))
            time.sleep(self._draw.uniform(3, 30))


@contextlib.contextmanager
def _small_disk(directory: Path) -> Iterator[None]:
    """Mount a small disk here that is full, while the block runs."""
    options = ["-o", "size=1m"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _is_over(log: Path) -> bool:
    return log.read_text().endswith("[DONE]\n")


def _effect(
    fault: str, texts: list[tuple[float, str]], begun: float, expected: str
) -> Outcome | None:
    """Return what a fault did to a story; None if that had ended."""
    later = [at for at, _ in texts if at > begun]
    if not later:
        return None
    whole = "".join(text for _, text in texts) == expected
    # Text that was on its way when the fault came arrives before the pause.
    pause_s = max(b - a for a, b in itertools.pairwise([begun, *later]))
    return Outcome(fault, pause_s, whole)


def _texts(log: Path) -> list[tuple[float, str]]:
    """Yield pieces of text with their times of arrival."""
    found = []
    for line in log.read_text().splitlines():
        at, _, data = line.partition(" ")
        if not data.startswith("{") or not data.endswith("}"):
            continue
        choices = json.loads(data).get("choices")
        if choices and (text := choices[0]["delta"].get("content")):
            found.append((float(at), text))
    return found


def _wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 2 * WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise BenchError("a stream stands still")
        time.sleep(0.01)


def run() -> int:
    """Run the campaign; return 0 if every story was whole, and soon enough."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--runs", type=positive, default=100, help="default %(default)s")
    options.add_argument(
        "--jobs",
        type=positive,
        default=1,
        help="servers that share the cluster, default %(default)s",
    )
    options.add_argument("--seed", type=int, default=1, help="default %(default)s")
    options.add_argument("--json", action="store_true", help="print data as JSON")
    arguments = options.parse_args()
    draw = random.Random(arguments.seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as directory, machines(Path(directory), 3) as hosts:
        joined(*hosts)
        campaign = Campaign(hosts, draw, arguments.jobs)
        campaign.serve()
        expected = campaign.undisturbed()
        names = list(campaign.faults)
        for number in range(arguments.runs):
            fault, after = names[number % len(names)], draw.randrange(5, 150)
            effects = campaign.run(fault, after, expected)
            said = ", ".join(f"{effect.pause_s:.1f} s" for effect in effects) or "was over"
            progress(f"{number + 1}/{arguments.runs} {fault}: {said}")
            outcomes += effects
            if not all(effect.whole for effect in effects):
                progress("  a story was not the same")
    return _report(outcomes, arguments.json, MEDIAN_S if arguments.jobs == 1 else None)


def _report(outcomes: list[Outcome], as_json: bool, most_s: float | None) -> int:
    wrong = sum(not outcome.whole for outcome in outcomes)
    rows = []
    for fault in [*dict.fromkeys(outcome.fault for outcome in outcomes), "all"]:
        pauses = sorted(o.pause_s for o in outcomes if fault in {o.fault, "all"})
        rows.append((fault, len(pauses), pauses[len(pauses) // 2], pauses[-1]))
    if as_json:
        keys = ("fault", "runs", "median_s", "worst_s")
        print(
            json.dumps(
                {"wrong": wrong, "faults": [dict(zip(keys, row, strict=True)) for row in rows]}
            )
        )
    else:
        for fault, n, median, worst in rows:
            print(f"{fault:28} {n:4} stories  median {median:6.1f} s  worst {worst:6.1f} s")
        print(f"{wrong} stories of {len(outcomes)} were not the same")
    is_late = most_s is not None and rows[-1][2] > most_s
    return 1 if wrong or is_late else 0


if __name__ == "__main__":
    main(run)
