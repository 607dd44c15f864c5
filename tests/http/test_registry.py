"""Which servers `dure ps` and `dure stop` find, whatever happens to the clock and to process numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dure.http.registry import RunningServer, running_servers
from dure.processes import identity_of, since_boot_s
from tests.support.needs_root import needs_root

DURE = f"{sys.executable} -m dure.cli.main"
SERVES = """
import signal, sys, time
from dure.http.registry import registered
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with registered("http://127.0.0.1:9", "demo"):
    print("ready", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is listed in `tmp_path` as a server."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVES],
        env={**os.environ, "DURE_RUNTIME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.terminate()


@needs_root
def test_a_clock_that_jumps_loses_no_server(server: subprocess.Popen[str], tmp_path: Path) -> None:
    """The kernel computes the time of its start from the clock: set by an hour, that differs by an hour.

    `ps` still shows the server, up for less than that hour, and `stop` stops it.
    """
    moved = tmp_path / "stat"
    lines = Path("/proc/stat").read_text().splitlines()
    started = next(line for line in lines if line.startswith("btime "))
    later = f"btime {int(started.split()[1]) + 3600}"
    moved.write_text("\n".join(later if line == started else line for line in lines) + "\n")
    script = f"mount --bind {moved} /proc/stat && {DURE} ps --json && {DURE} stop demo"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**os.environ, "DURE_RUNTIME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (shown,) = msgspec.json.decode(done.stdout)["servers"]
    assert shown["pid"] == server.pid
    assert 0 <= shown["up_s"] < 3600
    assert server.wait(60) == 0


def test_a_number_that_another_process_has_now_is_no_server(tmp_path: Path) -> None:
    """Its file is removed: `dure stop` must never end a stranger."""
    gone = RunningServer(
        pid=os.getpid(),
        process=f"{identity_of(os.getpid())}0",
        url="http://127.0.0.1:9",
        model="demo",
        started=since_boot_s(),
    )
    file = tmp_path / "1.json"
    file.write_bytes(msgspec.json.encode(gone))
    assert running_servers(tmp_path) == []
    assert not file.exists()


def test_a_process_that_has_ended_has_no_identity() -> None:
    """Nor has one that only waits to be reaped."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identity_of(process.pid) == ""
    with process:
        process.wait()
    assert identity_of(process.pid) == ""
    assert identity_of(os.getpid()) == identity_of(os.getpid()) != identity_of(os.getppid())
