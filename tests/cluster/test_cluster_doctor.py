"""`dure doctor` on real hosts: a node or a link is made sick, and that is found, cured and undone."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_hosts import Machine, joined, machines, ranks_of

from tests.support.cluster_serving import serving
from tests.support.needs_root import needs_root
from tests.support.other_clock import clock_library

pytestmark = needs_root
Found = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Machine]]:
    """A root and two nodes; the clock of the second is a minute and a half ahead."""
    library = clock_library(tmp_path)
    with machines(tmp_path, 3) as (root, first, second):
        root.dure("cluster", "init")
        joined_alone(root, first)
        preloaded = {"LD_PRELOAD": str(library), "CLOCK_IS_OFF_BY_S": "90"}
        second.program = ["env", *(f"{k}={v}" for k, v in preloaded.items()), *second.program]
        joined_alone(root, second)
        yield [root, first, second]


def joined_alone(root: Machine, node: Machine) -> None:
    """Let one more node join, and start its agent."""
    log = root.start("cluster", "invite", says="type it on the machine")
    node.dure("join", log.read_text().split()[2], "--root", root.host.address)
    node.start("node", says=f"{node.name} of home at")
    root.stop()


def told(machine: Machine, *arguments: str) -> Any:
    """What the doctor prints as JSON on a host, whatever else is wrong with the machine below it."""
    done = subprocess.run(
        machine.command("doctor", *arguments, "--json"),
        env=machine.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def examined(root: Machine) -> Found:
    """What the doctor finds on all machines, by machine and check."""
    return {(one["machine"], one["check"]): one for one in told(root, "--cluster")}


def on(machine: Machine, *command: str) -> str:
    """Run a command on a host."""
    words = machine.host.command(command)
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


has_ethtool = shutil.which("ethtool") is not None


def gro(machine: Machine, wanted: str = "") -> bool:
    """Whether a host gathers packets, which the kernel itself says; wanted: "on" or "off" at first."""
    if wanted:
        on(machine, "ethtool", "-K", "link0", "gro", wanted)
    return "generic-receive-offload: on" in on(machine, "ethtool", "-k", "link0")


def refusing(machine: Machine, *arguments: str) -> str:
    """What a command writes on a terminal if its questions are answered with no."""
    words = shlex.join([*machine.program, *arguments])
    done = subprocess.run(
        machine.host.command(["script", "-qec", words, "/dev/null"]),
        env=machine.environment,
        input="n\n" * 9,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_sick_nodes_and_links_are_found_from_the_root(hosts: list[Machine]) -> None:
    """Packet sizes that differ, a clock that is ahead, a slow link that loses packets, and a node that is
    gone; what is healthy is told too.
    """
    root, first, second = hosts
    found = examined(root)
    assert found[first.name, "clock-skew"]["severity"] == "healthy"
    assert found[second.name, "clock-skew"]["severity"] == "serious"
    assert "90.0 s ahead of the root's" in found[second.name, "clock-skew"]["evidence"]
    for check in ("versions", "round-trip", "loss", "mtu-mismatch", "word-size"):
        assert found[first.name, check]["severity"] == "healthy", found[first.name, check]

    on(first, "ip", "link", "set", "link0", "mtu", "1400")
    on(second, "ip", "link", "set", "link0", "down")
    slow = [
        "rate",
        "64kbit",
        "burst",
        "1600",
        "limit",
        "1600",
    ]  # 9 ms for a handshake, few may wait
    on(first, "tc", "qdisc", "replace", "dev", "link0", "root", "tbf", *slow)
    found = examined(root)
    assert found[first.name, "mtu-mismatch"]["severity"] == "warning"
    assert "link0 of dure-bench-1: 1400" in found[first.name, "mtu-mismatch"]["evidence"]
    assert found[first.name, "mtu"]["can_fix"]
    assert found[first.name, "round-trip"]["severity"] in {"warning", "serious"}
    assert found[first.name, "loss"]["severity"] in {"warning", "serious"}
    assert found[second.name, "answer"]["severity"] == "serious"


def test_a_fix_is_made_checked_and_taken_back(tmp_path: Path) -> None:
    """For real: the size of a host's packets, and how they are delivered if ethtool is installed.

    A fix that nobody agreed to is not made, and nothing is said of a link that is down.
    """
    with machines(tmp_path, 2) as (host, _):
        mtu = ["cat", "/sys/class/net/link0/mtu"]
        on(host, "ip", "link", "set", "link0", "mtu", "1300")
        assert "add --yes" in host.dure("doctor", "--fix", status=2)
        asked = refusing(host, "doctor", "--fix")
        assert "file:/sys/class/net/link0/mtu: 1300 -> 1500" in asked
        assert on(host, *mtu).strip() == "1300"
        gathers = has_ethtool and gro(host, "on")
        fixed = told(host, "--fix", "--yes")["fixes"]
        expected = [("mtu", ""), ("gathered-packets", "")][: 1 + gathers]
        assert [(one["check"], one["problem"]) for one in fixed] == expected
        assert on(host, *mtu).strip() == "1500"
        assert not (gathers and gro(host))
        assert [one["undone"] for one in told(host, "--undo")] == [True] * len(expected)
        assert on(host, *mtu).strip() == "1300"
        assert gro(host) is gathers if has_ethtool else True
        assert told(host, "--undo") == []

        on(host, "ip", "link", "set", "link0", "down")
        assert "mtu" not in {one["check"] for one in told(host)}


def test_a_node_is_cured_from_its_root_and_taken_back(tmp_path: Path) -> None:
    """Its agent makes the change, the root checks and remembers it."""
    with machines(tmp_path, 2) as (root, node):
        joined(root, node)
        mtu = ["cat", "/sys/class/net/link0/mtu"]
        on(node, "ip", "link", "set", "link0", "mtu", "1400")
        asked = refusing(root, "doctor", "--cluster", "--fix")
        assert f"{node.name}: packet size: packets are smaller than usual" in asked
        assert on(node, *mtu).strip() == "1400"
        fixes = told(root, "--cluster", "--fix", "--yes")["fixes"]
        [fixed] = [one for one in fixes if one["check"] == "mtu"]
        assert (fixed["machine"], fixed["problem"]) == (node.name, "")
        assert fixed["change"]["machine"] == node.name
        assert on(node, *mtu).strip() == "1500"
        assert [one["undone"] for one in told(root, "--undo")] == [True]
        assert on(node, *mtu).strip() == "1400"


def priorities_of(rank: psutil.Process) -> set[int]:
    """The priorities of a process's connections to other machines, as the kernel has them."""
    found = set()
    process = os.pidfd_open(rank.pid)
    for file in Path(f"/proc/{rank.pid}/fd").iterdir():
        copied = LIBC.syscall(PIDFD_GETFD, process, int(file.name), 0)
        if copied >= 0 and not stat.S_ISSOCK(os.fstat(copied).st_mode):
            os.close(copied)
        elif copied >= 0:
            with socket.socket(fileno=copied) as one:
                if one.family == socket.AF_INET and is_connected(one):
                    found.add(one.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY))
    os.close(process)
    return found


def is_connected(one: socket.socket) -> bool:
    """Whether a connection has another machine at its other end."""
    try:
        return not one.getpeername()[0].startswith("127.")
    except OSError:
        return False


LIBC, PIDFD_GETFD = ctypes.CDLL(None, use_errno=True), 438  # as Linux has it everywhere


def test_ranks_are_as_urgent_as_their_machine_says(tmp_path: Path) -> None:
    """The kernel says so of their connections, which MPI has made; another machine's ranks are as ever."""
    with machines(tmp_path, 2) as (root, node):
        joined(root, node)
        (Path(node.environment["DURE_NODE_DIR"]) / "rank-priority").write_text("6\n")
        with serving(root, "--shares", "1,1"):
            [urgent], [usual] = ranks_of(node), ranks_of(root)
            assert priorities_of(urgent) == {6}
            assert priorities_of(usual) == {0}


DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@pytest.mark.parametrize("model", [(), (DEMO,)], ids=["by the round trip", "by a token's time"])
def test_a_lever_is_tried_on_the_nodes_and_kept_only_if_it_helps(
    tmp_path: Path, model: tuple[Path, ...]
) -> None:
    """A node's packets are small: whatever the measurement says of that lever, its host is as the report
    says, and undoing makes it as it was.
    """
    with machines(tmp_path, 2) as (root, node):
        joined(root, node)
        mtu = ["cat", "/sys/class/net/link0/mtu"]
        on(node, "ip", "link", "set", "link0", "mtu", "1400")
        report = told(root, *map(str, model), "--tune")
        (lever,) = [one for one in report if one["lever"] == "mtu"]
        assert lever["settings"] == {node.name: {"file:/sys/class/net/link0/mtu": "1500"}}
        assert lever["problem"] == ""
        assert {one["step_s"] is not None for one in lever["with"]} == {bool(model)}
        assert on(node, *mtu).strip() == ("1500" if lever["kept"] else "1400")
        kept = sum(one["kept"] * len(one["settings"]) for one in report)
        urgent = [one for one in report if one["lever"] == "priority"]
        assert [set(one["settings"]) for one in urgent] == [{"dure-root", node.name}] * bool(model)
        assert [one["problem"] for one in urgent] == [""] * bool(model)
        assert [one["undone"] for one in told(root, "--undo")] == [True] * kept
        assert on(node, *mtu).strip() == "1400"
