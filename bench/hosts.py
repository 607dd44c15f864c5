"""Makes hosts on one machine: network namespaces joined by links of a fixed rate.

Knows iproute2 (`ip netns`, veth pairs, a bridge, `tc tbf`) and how to remove everything.
Refuses to know what runs on the hosts.

Two hosts are joined by one veth pair; more hang on a bridge in a namespace of its own, as on a
switch. Either way both directions of every link are shaped, so a link is full duplex.
Needs root, iproute2 and util-linux.

Run as a program, it makes the hosts, runs one command and removes them:

    python bench/hosts.py --hosts 2 -- ip netns exec dure-bench-0 ping -c 3 10.213.0.2
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from measure import BenchError, main, positive

PREFIX = "dure-bench-"
SWITCH = f"{PREFIX}switch"
DEVICE = "link0"
RATE = "1gbit"
BURST = "64kb"
QUEUE = "50ms"
LOCK = Path("/run/dure-bench.lock")


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace: its name (also its host name), its address and its network device."""

    name: str
    address: str
    device: str = DEVICE

    def command(self, argv: Sequence[str], cpu: int | None = None) -> list[str]:
        """Return `argv` wrapped to run on this host, pinned to one CPU if given.

        Every wrapper replaces itself with the next (`exec`), so the started process is `argv`'s.
        """
        return [*host_prefix(self.name, None if cpu is None else str(cpu)), *argv]

    @contextlib.contextmanager
    def running(self, argv: Sequence[str], cpu: int | None) -> Iterator[subprocess.Popen[bytes]]:
        """Run `argv` on this host in the background, without output, and kill it at the end."""
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(self.command(argv, cpu), stdout=quiet, stderr=quiet)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def wait_for_listener(
        self, process: subprocess.Popen[bytes], port: int, timeout_s: float = 10.0
    ) -> None:
        """Return once something on this host listens on the TCP port `port`.

        Raises BenchError if `process`, which should listen, ends first, or the time is up.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise BenchError(f"`{_words(process)}` ended with status {process.returncode}")
            if _listens(_run("ip", "netns", "exec", self.name, "cat", "/proc/net/tcp"), port):
                return
            time.sleep(0.02)
        raise BenchError(f"`{_words(process)}` does not listen on port {port}")

    def bytes_sent(self) -> int:
        """Return the bytes that this host has sent since its link was made."""
        path = f"/sys/class/net/{self.device}/statistics/tx_bytes"
        return int(_run("ip", "netns", "exec", self.name, "cat", path))


def host_prefix(name: str, cpu: str | None) -> list[str]:
    """Return the command prefix that runs a program on the host `name`, pinned to `cpu` if given.

    Both may contain a placeholder, such as `{rank}`, that is filled in later.
    """
    enter = ["ip", "netns", "exec", name]
    rename = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    pin = [] if cpu is None else ["taskset", "-c", cpu]
    return enter + rename + pin


def rank_prefix(n_ranks: int) -> list[str]:
    """Return the prefix that puts rank `{rank}` on host `{rank}`, and on CPU `{rank}` if all have one."""
    return host_prefix(f"{PREFIX}{{rank}}", "{rank}" if cpu_of(0, n_ranks) is not None else None)


def cpu_of(rank: int, n_ranks: int) -> int | None:
    """Return the CPU that a rank is pinned to; None if there are fewer CPUs than ranks."""
    return rank if n_ranks <= (os.cpu_count() or 1) else None


def _words(process: subprocess.Popen[bytes]) -> str:
    return shlex.join(process.args) if isinstance(process.args, list) else str(process.args)


def _listens(sockets: str, port: int) -> bool:
    # A line of /proc/net/tcp: number, local address:port in hex, remote, state (0A: listen).
    rows = [line.split() for line in sockets.splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@contextlib.contextmanager
def linked_hosts(count: int, rate: str = RATE) -> Iterator[list[Host]]:
    """Make `count` hosts whose links carry `rate` (as `tc` writes it), and remove them after.

    They are removed on an error, Ctrl-C, SIGTERM and SIGHUP too, with every process still in them;
    leftovers of a killed run are removed first.
    Raises BenchError without root or iproute2, or while another benchmark has hosts.
    """
    _check_machine()
    with _only_one(), _signals_as_exit():
        remove_hosts()
        try:
            yield _make_hosts(count, rate)
        finally:
            remove_hosts()


def remove_hosts() -> None:
    """Remove all hosts of all runs of this module, and the processes in them."""
    listed = [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.strip()]
    for name in listed:
        if name.startswith(PREFIX):
            _kill_all(name)
            _run("ip", "netns", "delete", name)


def _make_hosts(count: int, rate: str) -> list[Host]:
    if not 2 <= count <= 200:
        raise BenchError(f"{count} hosts cannot be linked: ask for 2 to 200")
    hosts = [Host(f"{PREFIX}{i}", f"10.213.0.{i + 1}") for i in range(count)]
    for host in hosts:
        _run("ip", "netns", "add", host.name)
    if count == 2:
        _join(hosts[0].name, DEVICE, hosts[1].name, DEVICE, rate)
    else:
        _make_switch(hosts, rate)
    for host in hosts:
        network = f"{host.address}/24"
        _run("ip", "-n", host.name, "address", "add", network, "dev", host.device)
        _run("ip", "-n", host.name, "link", "set", "lo", "up")
    return hosts


def _make_switch(hosts: Sequence[Host], rate: str) -> None:
    _run("ip", "netns", "add", SWITCH)
    _run("ip", "-n", SWITCH, "link", "add", "switch0", "type", "bridge")
    _run("ip", "-n", SWITCH, "link", "set", "switch0", "up")
    for number, host in enumerate(hosts):
        port = f"port{number}"
        _join(host.name, host.device, SWITCH, port, rate)
        _run("ip", "-n", SWITCH, "link", "set", port, "master", "switch0")


def _join(left: str, left_device: str, right: str, right_device: str, rate: str) -> None:
    _run(
        "ip", "link", "add", left_device, "netns", left,
        "type", "veth", "peer", "name", right_device, "netns", right,
    )  # fmt: skip
    for name, device in ((left, left_device), (right, right_device)):
        shape = ["rate", rate, "burst", BURST, "latency", QUEUE]
        _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", "tbf", *shape)
        _run("ip", "-n", name, "link", "set", device, "up")


def _kill_all(name: str) -> None:
    for _ in range(100):
        pids = _run("ip", "netns", "pids", name).split()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)
    raise BenchError(f"processes {', '.join(pids)} in namespace {name} do not end")


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise BenchError("network namespaces need root: run this benchmark with sudo")
    for program, package in (
        ("ip", "iproute2"), ("tc", "iproute2"), ("unshare", "util-linux"),
        ("taskset", "util-linux"), ("hostname", "hostname"),
    ):  # fmt: skip
        if shutil.which(program) is None:
            raise BenchError(f"`{program}` not found: install the package {package}")


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError("another benchmark has hosts now: wait until it ends") from None
        yield


@contextlib.contextmanager
def _signals_as_exit() -> Iterator[None]:
    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip() or f"status {done.returncode}"
        raise BenchError(f"`{' '.join(argv)}` failed: {reason}")
    return done.stdout


def run() -> int:
    """Make hosts, run the command of the command line, remove the hosts; return its status."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--hosts", type=positive, default=2, metavar="N", help="default 2")
    options.add_argument("--rate", default=RATE, help="of every link, for tc (default %(default)s)")
    options.add_argument("command", nargs="+", help="what to run while the hosts exist")
    arguments = options.parse_args()
    with linked_hosts(arguments.hosts, arguments.rate):
        return subprocess.run(arguments.command, check=False).returncode


if __name__ == "__main__":
    main(run)
