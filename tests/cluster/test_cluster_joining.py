"""Machines join over a real network: three hosts, each a network namespace with a name of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_hosts import WAIT_S, Machine, invited, joined, machines
from cryptography import x509

from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import Credentials
from dure.cluster.trust.joining import JOIN_PORT, NODE_PORT
from dure.engine.instruments.speed import Speed
from tests.support.needs_root import needs_root

pytestmark = needs_root


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Machine]]:
    """A root and two more machines."""
    with machines(tmp_path, 3) as hosts:
        yield hosts


def nodes_of(root: Machine) -> dict[str, bool]:
    """Which nodes the root knows, and whether they answer."""
    told = json.loads(root.dure("cluster", "status", "--json"))
    return {node["name"]: node["answers"] for node in told["nodes"]}


def events_of(root: Machine) -> list[str]:
    return [event["event"] for event in json.loads(root.dure("cluster", "events", "--json"))]


def test_machines_join_and_answer(three: list[Machine]) -> None:
    """One finds the root by itself, one is told its address; a removed one is not asked any more."""
    root, one, two = three
    root.dure("cluster", "init", "--name", "attic")
    code = invited(root)
    assert f"looking for the root\nthis machine is {one.name} of cluster attic" in joins(one, code)
    assert nodes_of(root) == {one.name: False}
    one.start("node", says=f"{one.name} of attic at")
    root.stop()
    two.dure("join", invited(root), "--root", f"{root.host.address}:{JOIN_PORT}", "--name", "pi-4")
    two.start("node", says="pi-4 of attic at")
    assert nodes_of(root) == {one.name: True, "pi-4": True}
    told = json.loads(root.dure("cluster", "status", "--json"))["nodes"][0]
    assert told["platform"]["host"] == one.name
    assert told["health"]["available_bytes"] > 0
    table = root.dure("cluster", "status")
    assert "pi-4" in table
    root.dure("cluster", "remove", "pi-4")
    assert nodes_of(root) == {one.name: True}
    assert events_of(root) == [
        *("cluster_created", "invited", "joined", "invited", "joined", "removed")
    ]


def joins(machine: Machine, code: str, *options: str) -> str:
    """What `dure join` tells where nobody says the root's address."""
    done = subprocess.run(
        machine.host.command([sys.executable, "-m", "dure.cli.main", "join", code, *options]),
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


def test_who_must_not_join_does_not(three: list[Machine]) -> None:
    """A used code, one with a typing mistake, another cluster's, and no open door: each is told."""
    root, one, two = three
    root.dure("cluster", "init")
    two.dure("cluster", "init")  # another cluster, whose root is the second machine
    theirs = invited(two)
    code = invited(root)
    at_root = ("--root", root.host.address)
    assert "another cluster than the code's" in one.dure("join", theirs, *at_root, status=1)
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    assert "not one of this cluster's" in one.dure("join", wrong, *at_root, status=1)
    one.dure("join", code, *at_root)
    again = one.dure("join", code, *at_root, status=2)
    assert "--force" in again
    assert "nothing listens there" in two.dure("join", code, *at_root, status=1)
    invited(root)
    assert "was used by" in two.dure("join", code, *at_root, "--name", "other", status=1)
    assert events_of(root) == [
        *("cluster_created", "invited", "refused", "joined", "invited", "refused")
    ]
    assert list(nodes_of(root)) == [one.name]


def test_an_expired_code_lets_nobody_in(three: list[Machine]) -> None:
    root, one, _ = three
    root.dure("cluster", "init")
    code = invited(root)
    memory = root.home / "dure_cluster_dir" / "cluster.json"
    state = json.loads(memory.read_text())
    state["invitations"][0] |= {"expires": 1.0, "expires_since_boot_s": 1.0}
    memory.write_text(json.dumps(state))
    refused = one.dure("join", code, "--root", root.host.address, status=1)
    assert "has expired" in refused
    assert nodes_of(root) == {}


def test_a_node_that_has_moved_is_found_again(three: list[Machine]) -> None:
    """Its address has changed, as a router's DHCP changes it; mDNS tells where, TLS that it is it."""
    root, one, _ = three
    joined(root, one)
    one.stop()
    for change in (
        ("address", "del", f"{one.host.address}/24"),
        ("address", "add", "10.213.0.77/24"),
    ):
        subprocess.run(
            ["ip", "-n", one.name, *change, "dev", one.host.device], check=True, capture_output=True
        )
    one.start("node", says=f"{one.name} of home at")
    assert nodes_of(root) == {one.name: True}
    assert "moved" in events_of(root)
    assert json.loads(root.dure("cluster", "status", "--json"))["nodes"][0]["host"] == "10.213.0.77"
    for step in (("del", "10.213.0.77/24"), ("add", f"{one.host.address}/24")):  # while it runs
        subprocess.run(["ip", "-n", one.name, "address", *step, "dev", one.host.device], check=True)
    give_up = time.monotonic() + WAIT_S
    while nodes_of(root) != {one.name: True}:
        assert time.monotonic() < give_up
    told = json.loads(root.dure("cluster", "status", "--json"))["nodes"][0]
    assert told["host"] == one.host.address


def test_addresses_that_lead_nowhere_are_passed_over(three: list[Machine]) -> None:
    """As those of containers and tunnels: here they come first, as both machines seem to be in one network,
    and nobody answers there. The root is found by who joins, and so is a node that has moved.
    """
    root, one, _ = three
    with_dead_network(root, root.host.address, "10.0.0.1/24")
    with_dead_network(one, one.host.address, "10.0.0.2/24")
    root.dure("cluster", "init")
    assert f"this machine is {one.name} of cluster home" in joins(one, invited(root))
    ip(one, "address", "del", f"{one.host.address}/32", "dev", one.host.device)
    with_network(one, "10.213.0.77")
    one.start("node", says=f"{one.name} of home at")
    assert nodes_of(root) == {one.name: True}
    assert json.loads(root.dure("cluster", "status", "--json"))["nodes"][0]["host"] == "10.213.0.77"


def test_addresses_at_which_others_answer_are_passed_over(three: list[Machine]) -> None:
    """As that of docker0, which is the same on every machine: it leads from each to itself. There another
    cluster answers with its own certificate: its root to who joins, its node to a root that looks for one.
    """
    root, one, _ = three
    for machine in (root, one):
        with_dead_network(machine, machine.host.address, "172.17.0.1/16")
    root.dure("cluster", "init", "--name", "attic")
    one.dure("cluster", "init", "--name", "cellar")
    root.dure("join", invited(one), "--root", f"{one.host.address}:{JOIN_PORT}")
    root.start("node", says=f"{root.name} of cellar at")
    invited(one)  # it listens for others while it looks for its own root
    assert f"this machine is {one.name} of cluster attic" in joins(one, invited(root))
    one.stop()
    ip(one, "address", "del", f"{one.host.address}/32", "dev", one.host.device)
    with_network(one, "10.213.0.77")
    one.start("node", says=f"{one.name} of attic at")
    assert nodes_of(root) == {one.name: True}
    assert json.loads(root.dure("cluster", "status", "--json"))["nodes"][0]["host"] == "10.213.0.77"


def with_dead_network(machine: Machine, address: str, dead: str) -> None:
    """Leave a machine its way to the others, but only this network that leads nowhere else."""
    ip(machine, "address", "del", f"{address}/24", "dev", machine.host.device)
    with_network(machine, address)
    ip(machine, "link", "add", "dead0", "type", "veth", "peer", "name", "dead1")
    ip(machine, "address", "add", dead, "dev", "dead0")
    for device in ("dead0", "dead1"):
        ip(machine, "link", "set", device, "up")


def with_network(machine: Machine, address: str) -> None:
    """Give a machine an address that is in no network, and a route to the others."""
    ip(machine, "address", "add", f"{address}/32", "dev", machine.host.device)
    ip(machine, "route", "replace", "10.213.0.0/24", "dev", machine.host.device)


def ip(machine: Machine, *words: str) -> None:
    subprocess.run(["ip", "-n", machine.name, *words], check=True)


def test_a_node_says_whose_it_is_and_leaves(three: list[Machine]) -> None:
    """Not while it runs; then nothing of it is left, and what lay beside it is."""
    root, one, _ = three
    joined(root, one)
    refused = one.dure("cluster", "status", status=1)
    assert (
        f"this machine is {one.name}, a node of the cluster home: type that on its root" in refused
    )
    assert f"{one.name}, a node of the cluster home" in one.dure("node", "status")
    assert json.loads(one.dure("node", "status", "--json"))["answers"] is True
    assert "the node still runs" in one.dure("node", "leave", status=2)
    one.stop()
    assert json.loads(one.dure("node", "status", "--json"))["answers"] is False
    kept = one.home / "dure_node_dir"
    (kept / "shards").mkdir(exist_ok=True)
    (kept / "mine").touch()
    one.dure("node", "leave")
    assert [path.name for path in kept.iterdir()] == ["mine"]
    assert "has not joined" in one.dure("node", "status", status=1)


def test_a_node_that_joins_under_another_name_is_told_to_restart_its_agent(
    three: list[Machine],
) -> None:
    """A running agent keeps name and port; with the same ones it takes the new certificate by itself."""
    root, one, _ = three
    joined(root, one)
    root.dure("cluster", "remove", one.name)
    root.stop()
    at = ("--root", f"{root.host.address}:{JOIN_PORT}", "--force")
    same = joins(one, invited(root), *at)
    root.stop()
    root.dure("cluster", "remove", one.name)
    other = joins(one, invited(root), *at, "--name", "pi-9")
    root.stop()
    assert "restart" not in same
    assert f"still answers as {one.name} at port " in other
    assert "`sudo systemctl restart dure-node.service`" in other


def test_a_node_is_renamed_while_it_runs(three: list[Machine]) -> None:
    """It answers under its new name at once, and under no other; what was measured of it stays."""
    root, one, two = three
    joined(root, one, two)
    for sample in (4e9, 6e9):
        KnownSpeeds(root.home / "dure_cluster_dir").keep(one.name, Speed("Q4_0", 2, sample, 9e9))
    speeds = json.loads(root.dure("cluster", "status", "--json"))["speeds"]
    assert speeds[one.name]["Q4_0"]["samples"] == 2
    assert "5.0 GB/s (Q4_0, ±20%, " in root.dure("cluster", "status")
    kept = Credentials(one.home / "dure_node_dir")
    before, pid = x509.load_pem_x509_certificate(kept.certificate.read_bytes()), one.started[-1].pid
    taken = root.dure("cluster", "rename", one.name, two.name, status=2)
    assert f"a node called {two.name} is there already" in taken
    assert "no node is called" in root.dure("cluster", "rename", "pi-4", "pi-5", status=2)
    root.dure("cluster", "rename", one.name, "pi-4")
    assert nodes_of(root) == {"pi-4": True, two.name: True}
    now = json.loads(root.dure("cluster", "status", "--json"))["speeds"]
    assert now["pi-4"] == speeds[one.name]
    assert one.name not in now
    assert json.loads(one.dure("node", "status", "--json"))["name"] == "pi-4"
    assert (kept.name, one.started[-1].pid) == ("pi-4", pid)
    assert one.started[-1].poll() is None
    revoked = x509.load_pem_x509_crl((root.home / "dure_cluster_dir" / "revoked.pem").read_bytes())
    assert revoked.get_revoked_certificate_by_serial_number(before.serial_number) is not None
    one.stop()
    silent = root.dure("cluster", "rename", "pi-4", "pi-5", status=1)
    assert "pi-4" in silent
    assert [*nodes_of(root)] == ["pi-4", two.name]


def test_a_cluster_is_dissolved(three: list[Machine]) -> None:
    """Its nodes leave it and end, one that does not answer is named, and no key of it is left."""
    root, one, two = three
    joined(root, one, two)
    two.stop()
    assert "needs a yes: say --yes" in root.dure("cluster", "dissolve", status=2)
    assert len(nodes_of(root)) == 2
    kept = root.home / "dure_cluster_dir" / "mine"
    kept.touch()
    told = said(root, "cluster", "dissolve", "--yes")
    assert "the cluster home is dissolved" in told
    assert f"{two.name} was not told (" in told
    assert one.name not in told
    assert one.started[-1].wait(30) == 0
    assert not (one.home / "dure_node_dir").exists()
    assert [path.name for path in kept.parent.iterdir()] == ["mine"]
    assert "holds no cluster" in root.dure("cluster", "status", status=1)
    joined(root, one)  # another one can be made, with the same machines
    assert nodes_of(root) == {one.name: True}


def said(machine: Machine, *words: str) -> str:
    """What a command tells, beside its result."""
    done = subprocess.run(
        machine.command(*words),
        env=machine.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


GARBAGE = """
import random, socket, ssl, sys
host, port, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
for n in range(200):
    with socket.create_connection((host, port), 10) as plain:
        plain.settimeout(0.2)
        try:
            if n % 2:
                stranger = ssl._create_unverified_context()
                with stranger.wrap_socket(plain) as tls:
                    tls.sendall(b"GET /facts HTTP/1.1\\r\\n\\r\\n" + draw.randbytes(draw.randrange(3000)))
                    tls.recv(1)
            else:
                plain.sendall(draw.randbytes(draw.randrange(3000)))
                plain.recv(1)
        except OSError:
            pass
print("done")
"""


@pytest.mark.parametrize("whose", ["door", "agent"])
def test_garbage_crashes_nothing(three: list[Machine], whose: str) -> None:
    """Random bytes, with and without TLS, from a stranger; then the next honest question is answered."""
    root, one, two = three
    joined(root, one)
    code = invited(root)
    target, port = (root, JOIN_PORT) if whose == "door" else (one, NODE_PORT)
    said = subprocess.run(
        two.host.command([sys.executable, "-c", GARBAGE, target.host.address, str(port), "7"]),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert said.stdout == "done\n"
    assert nodes_of(root) == {one.name: True}
    two.dure("join", code, "--root", root.host.address)
