"""A cluster's machines as network namespaces: every host has its own name, address and directories.

Knows how `dure` runs on a host as a user runs it there. Needs root and iproute2, as CI has them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from hosts import Host, linked_hosts

WAIT_S = 120.0
DURE = (sys.executable, "-m", "dure.cli.main")


@dataclass
class Machine:
    """One host, with what it keeps below `home`."""

    host: Host
    home: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.host.name

    @property
    def environment(self) -> dict[str, str]:
        """Everything of dure's lies below `home`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DURE_")}
        own = {
            name: str(self.home / name.lower())
            for name in (
                "DURE_NODE_DIR",
                "DURE_CLUSTER_DIR",
                "DURE_CACHE",
                "DURE_CONFIG",
                "DURE_RUNTIME",
            )
        }
        (self.home / "dure_config").touch()
        return {**kept, **own, "COLUMNS": "250"}

    def dure(self, *arguments: object, status: int = 0) -> str:
        """What a command prints that must end with this status: its output, or else its errors."""
        done = subprocess.run(
            self.host.command([*DURE, *map(str, arguments)]),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def start(self, *arguments: object, says: str) -> Path:
        """A command that runs on, once its output or errors say so; the file with both."""
        log = self.home / f"log{len(self.started)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.host.command([*DURE, *map(str, arguments)]),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        give_up = time.monotonic() + WAIT_S
        while says not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        return log

    def stop(self) -> None:
        """End what was started, as SIGTERM does."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        self.started.clear()


@contextmanager
def machines(directory: Path, count: int) -> Iterator[list[Machine]]:
    """So many hosts on one switch."""
    with linked_hosts(count) as hosts:
        found = [Machine(host, directory / host.name) for host in hosts]
        for machine in found:
            machine.home.mkdir()
        try:
            yield found
        finally:
            for machine in found:
                machine.stop()


def invited(root: Machine) -> str:
    """A code; the root's door stays open."""
    log = root.start("cluster", "invite", says="type it on the machine")
    return log.read_text().split()[2]


def joined(root: Machine, *nodes: Machine) -> None:
    """Make a cluster of the root and these nodes, whose agents then run."""
    root.dure("cluster", "init")
    for node in nodes:
        node.dure("join", invited(root), "--root", root.host.address)
        node.start("node", says=f"{node.name} of home at")
        root.stop()


def processes_of(machine: Machine) -> list[psutil.Process]:
    """Every process on a host."""
    pids = subprocess.run(
        ["ip", "netns", "pids", machine.name], capture_output=True, text=True, check=True
    ).stdout.split()
    found = []
    for pid in map(int, pids):
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def ranks_of(machine: Machine) -> list[psutil.Process]:
    """The rank processes on a host."""
    found = []
    for process in processes_of(machine):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", "dure.engine.rank"]:
                found.append(process)
    return found
