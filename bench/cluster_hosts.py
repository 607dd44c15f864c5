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
from measure import BenchError

WAIT_S = 120.0
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = (
    4000  # short: a slow processor, not one that sleeps now and then (a quota is 1 ms or more)
)
DURE = (sys.executable, "-m", "dure.cli.main")


@dataclass
class Machine:
    """One host, with what it keeps below `home`; on one processor `cpu`, and of it a `quota`, if given."""

    host: Host
    home: Path
    cpu: int | None = None
    quota: float = 1.0
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

    def command(self, *arguments: object) -> list[str]:
        """`dure` with these arguments on this host."""
        words = self.host.command([*DURE, *map(str, arguments)], self.cpu)
        if self.quota == 1:
            return words
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._group / "tasks"), *words]

    @property
    def _group(self) -> Path:
        """The control group (version 1) that holds this host's processes to its quota."""
        group = CPU_GROUPS / self.name
        if not group.exists():
            try:
                group.mkdir()
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(int(self.quota * PERIOD_US)))
            except OSError as error:
                raise BenchError(f"no quota of a processor can be set: {error}") from error
        return group

    def dure(self, *arguments: object, status: int = 0) -> str:
        """What a command prints that must end with this status: its output, or else its errors."""
        done = subprocess.run(
            self.command(*arguments),
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
                self.command(*arguments),
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

    def close(self) -> None:
        """End what was started, and give up the quota."""
        self.stop()
        with contextlib.suppress(OSError):
            (CPU_GROUPS / self.name).rmdir()


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
                machine.close()


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
            if process.cmdline()[1:3] == ["-m", "dure.engine.ranks.rank"]:
                found.append(process)
    return found
