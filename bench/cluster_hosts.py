"""Makes a cluster's machines as network namespaces: every host has its own name, address and directories.

Knows how a user runs `dure` on a host. Needs root and iproute2, as CI has them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from hosts import Host, linked_hosts
from measure import BenchError

WAIT_S = 120.0
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = (
    4000  # short, to be like a slow processor, not one that pauses (a quota is 1 ms or more)
)
DURE = (sys.executable, "-m", "dure.cli.main")


@dataclass
class Machine:
    """One host, with its files below `home`; limited to processor `cpu` and its `quota`, if given.

    program: how `dure` is started there. wait_s: detects a hang of a command.
    """

    host: Host
    home: Path
    cpu: int | None = None
    quota: float = 1.0
    program: Sequence[str] = DURE
    wait_s: float = WAIT_S
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return its host name."""
        return self.host.name

    @property
    def environment(self) -> dict[str, str]:
        """Return an environment with all of dure's directories below `home`."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DURE_")}
        own = {
            name: str(self.home / name.lower())
            for name in (
                "DURE_NODE_DIR",
                "DURE_CLUSTER_DIR",
                "DURE_CACHE",
                "DURE_CONFIG",
                "DURE_DOCTOR",
                "DURE_RUNTIME",
            )
        }
        (self.home / "dure_config").touch()
        return {**inherited, **own, "COLUMNS": "250"}

    def command(self, *arguments: object) -> list[str]:
        """Return the command that runs `dure` with these arguments on this host."""
        words = self.host.command([*self.program, *map(str, arguments)], self.cpu)
        if self.quota == 1:
            return words
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._group / "tasks"), *words]

    @property
    def _group(self) -> Path:
        """Return the control group (version 1) that limits this host's processes to its quota."""
        group = CPU_GROUPS / self.name
        if not group.exists():
            try:
                group.mkdir()
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(int(self.quota * PERIOD_US)))
            except OSError as error:
                raise BenchError(f"no processor quota can be set: {error}") from error
        return group

    def dure(self, *arguments: object, status: int = 0) -> str:
        """Run a command that must end with this status; return its output, or else its errors."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.wait_s,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def start(self, *arguments: object, says: str) -> Path:
        """Start a command and wait until its output or errors contain a text; return the file of both."""
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
        give_up = time.monotonic() + self.wait_s
        while says not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        return log

    def stop(self) -> None:
        """Stop the started commands with SIGTERM."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        self.started.clear()

    def close(self) -> None:
        """Stop the started commands and remove the quota."""
        self.stop()
        with contextlib.suppress(OSError):
            (CPU_GROUPS / self.name).rmdir()


@contextmanager
def machines(directory: Path, count: int) -> Iterator[list[Machine]]:
    """Make n hosts on one switch."""
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
    """Return a code; the root's join server stays open."""
    log = root.start("cluster", "invite", says="type it on the machine")
    return log.read_text().split()[2]


def joined(root: Machine, *nodes: Machine) -> None:
    """Make a cluster of the root and these nodes, and start their agents."""
    root.dure("cluster", "init")
    for node in nodes:
        node.dure("join", invited(root), "--root", root.host.address)
        node.start("node", says=f"{node.name} of home at")
        root.stop()


def processes_of(machine: Machine) -> list[psutil.Process]:
    """Return all processes on a host."""
    pids = subprocess.run(
        ["ip", "netns", "pids", machine.name], capture_output=True, text=True, check=True
    ).stdout.split()
    found = []
    for pid in map(int, pids):
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def ranks_of(machine: Machine) -> list[psutil.Process]:
    """Return the rank processes on a host."""
    found = []
    for process in processes_of(machine):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", "dure.engine.ranks.rank"]:
                found.append(process)
    return found
