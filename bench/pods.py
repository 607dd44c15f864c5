"""What ends a pod when everything fails, against the emulator: a campaign of random faults, and the drill.

    python bench/pods.py --runs 200   # random lives; what may not be is printed, and the status is 1
    python bench/pods.py --drill      # kill home, cut the network, fill the disk: seconds of bill

The drill runs the real start script of a pod and the real guard, with limits of seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support

from dure.pods.emulator.faults import ALWAYS, Fault
from dure.pods.emulator.machine import LocalMachine
from dure.pods.ledger import Entry
from tests.support.pod_accounts import Renting, renting
from tests.support.pod_campaign import Campaign

DEADLINE_S = 5


def campaign(runs: int, first: int) -> int:
    """Live many random lives; return how many had something that may not be."""
    broken = ups = rounds = failed = 0
    for seed in range(first, first + runs):
        with tempfile.TemporaryDirectory() as folder:
            life = Campaign(seed, Path(folder))
        ups, rounds, failed = ups + life.ups, rounds + life.rounds, failed + life.failed_rounds
        broken += bool(life.broken)
        for what in life.broken:
            print(f"seed {seed}: {what}")
    print(
        f"{runs} runs, {ups} pods asked for, {rounds} rounds of which {failed} met a fault; {broken} broken"
    )
    return broken


def drill() -> None:
    """Measure each guard alone: seconds from the deadline until nothing is billed."""
    for name, prepare, is_home_awake in (
        ("home is asleep: the guard in the pod", lambda _home, _entry: None, False),
        ("the guard in the pod is killed: the guard at home", _kill_the_pods_guard, True),
        ("home is asleep, and the pod's network was cut for 10 s", _cut, False),
        ("the guard in the pod is killed, and home's disk is full", _fill, True),
    ):
        print(f"{name:58} {_measured(prepare, is_home_awake):5.1f} s")


def _measured(prepare: Callable[[Renting, Entry], None], is_home_awake: bool) -> float:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        disk = folder / "pods"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], check=True)
        try:
            with renting(folder, lambda: LocalMachine(folder / "machine")) as home:
                return _lateness(home, prepare, is_home_awake)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)


def _lateness(
    home: Renting, prepare: Callable[[Renting, Entry], None], is_home_awake: bool
) -> float:
    home.clock.is_running = True
    wanted = home.order()
    entry = home.up(replace(wanted, bill=replace(wanted.bill, max_seconds=DEADLINE_S)))
    ends = time.monotonic() + DEADLINE_S
    prepare(home, entry)
    while home.account.billing():
        if is_home_awake:
            home.guard()
        time.sleep(0.1)
    return time.monotonic() - ends


def _kill_the_pods_guard(home: Renting, entry: Entry) -> None:
    machine = home.pod(entry).machine
    assert isinstance(machine, LocalMachine)
    assert machine.pid
    os.killpg(machine.pid, signal.SIGKILL)


def _cut(home: Renting, _entry: Entry) -> None:
    home.account.faults.set({Fault.DOWN: ALWAYS})
    time.sleep(DEADLINE_S + 10)
    home.account.faults.clear()


def _fill(home: Renting, entry: Entry) -> None:
    _kill_the_pods_guard(home, entry)
    with (home.ledger.path.parent / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--drill", action="store_true")
    arguments = parser.parse_args()
    if arguments.drill:
        drill()
    elif campaign(arguments.runs, arguments.first):
        sys.exit(1)


if __name__ == "__main__":
    main()
