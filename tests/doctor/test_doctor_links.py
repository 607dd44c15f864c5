"""What only two machines have together: each check healthy, sick and unreadable, and nodes that are old."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dure.cluster.node_api import NodeClient
from dure.cluster.root.join_server import running_join_server
from dure.cluster.root.links import HANDSHAKES, lost_handshakes
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.survey import Nodes
from dure.cluster.trust.connection import NodeConnection
from dure.cluster.trust.https_server import listener
from dure.doctor.checks.node_link import LINK_CHECKS
from dure.doctor.cluster import NodeSettings, examined_by
from dure.doctor.finding import Severity, judged
from dure.doctor.node_link import NodeLink, devices_between
from dure.errors import ClusterError
from dure.hardware.examination.condition import Condition, NetworkDevice


def device(name: str, mtu: int = 1500, address: str = "192.168.1.1") -> NetworkDevice:
    network = f"{address.rpartition('.')[0]}.0/24"
    return NetworkDevice(name, (address,), False, True, mtu, networks=(network,))


GOOD: dict[str, Any] = {
    "clock_ahead_s": 0.02,
    "versions": {"dure": "1.0", "mpich": "5.0.2"},
    "root_versions": {"dure": "1.0", "mpich": "5.0.2"},
    "round_trip_s": 0.0003,
    "n_lost": 0,
    "n_sent": HANDSHAKES,
    "devices": (device("eth0"), device("eth0")),
}
W, S = Severity.WARNING, Severity.SERIOUS


def test_a_good_link_is_found_healthy_by_every_check() -> None:
    """Each check has something to say."""
    found = judged(LINK_CHECKS, NodeLink("pi-1", **GOOD))
    assert {one.check for one in found} == {one.name for one in LINK_CHECKS}
    assert {one.severity for one in found} == {Severity.HEALTHY}


@pytest.mark.parametrize(
    ("check", "severity", "evidence", "fact"),
    [
        ("clock-skew", W, "pi-1's is 3.0 s behind the root's", {"clock_ahead_s": -3.0}),
        ("clock-skew", S, "120.0 s ahead of", {"clock_ahead_s": 120.0}),
        ("versions", S, "dure 0.9 on pi-1, 1.0 on the root", {"versions": {"dure": "0.9"}}),
        ("round-trip", W, "2.30 ms", {"round_trip_s": 0.0023}),
        ("round-trip", S, "11.00 ms", {"round_trip_s": 0.011}),
        ("loss", W, "2 lost of 300", {"n_lost": 2}),
        ("loss", S, "31 lost of 300", {"n_lost": 31}),
        (
            "mtu-mismatch",
            W,
            "eth0 of pi-1: 9000, eth1 of the root: 1500",
            {"devices": (device("eth1"), device("eth0", 9000))},
        ),
    ],
)
def test_a_bad_link_is_found_bad(
    check: str, severity: Severity, evidence: str, fact: dict[str, Any]
) -> None:
    """The evidence names the node, and there is a cure."""
    found = judged(LINK_CHECKS, NodeLink("pi-1", **GOOD | fact))
    [sick] = [one for one in found if one.severity != Severity.HEALTHY]
    assert (sick.check, sick.severity) == (check, severity)
    assert evidence in sick.evidence
    assert sick.cure


@pytest.mark.parametrize("check", LINK_CHECKS, ids=[one.name for one in LINK_CHECKS])
def test_what_is_not_known_of_a_link_is_unreadable(check: Any) -> None:
    """With the reason."""
    link = NodeLink("pi-1", unreadable=dict.fromkeys(check.needs, "pi-1 does not answer"))
    [found] = check.findings(link)
    assert (found.severity, found.evidence) == (Severity.UNREADABLE, "pi-1 does not answer")


def test_two_machines_are_compared_by_the_devices_of_their_network() -> None:
    """A root with two networks is asked about the one that the node is in."""
    root = Condition(devices=(device("wlan0", 1500, "10.0.0.1"), device("eth0", 1400)))
    node = Condition(devices=(device("end0", 1500, "192.168.1.7"),))
    found = devices_between(root, node, "192.168.1.7")
    assert found is not None
    assert [(one.name, one.mtu) for one in found] == [("eth0", 1400), ("end0", 1500)]
    assert devices_between(root, node, "192.168.1.8") is None


def test_a_node_that_is_too_old_to_be_examined_says_so(tmp_path: Path) -> None:
    """Its agent refuses a question that it does not know, as this server does."""
    cluster = Cluster.create(tmp_path / "cluster", "home")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with listener("127.0.0.1", 0) as listening, running_join_server(cluster, listening):
        connection = NodeConnection(listening.getsockname(), context, "pi-1")
        with closing(NodeClient(connection)) as client:
            assert examined_by(client, "pi-1") == (
                None,
                None,
                "the dure of pi-1 is too old to be asked for it",
            )


@pytest.mark.parametrize("name", ["ntp", "unit:system:dure-node.service", "ufw:192.168.1.0/24"])
def test_what_is_not_of_latency_is_changed_on_the_node_itself(tmp_path: Path, name: str) -> None:
    """Its agent takes no such order, so it is not asked."""
    cluster = Cluster.create(tmp_path / "cluster", "home")
    settings = NodeSettings(Nodes(cluster), Member("pi-1", "127.0.0.1", 1, 0, 0.0))
    for change in (lambda: settings.read(name), lambda: settings.write(name, "yes")):
        with pytest.raises(ClusterError, match=f"{name} is changed on pi-1 itself alone"):
            change()


def test_handshakes_with_a_machine_that_listens_lose_nothing() -> None:
    """The count comes from the kernel; a machine that does not listen is an error."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:

        def accept() -> None:
            for _ in range(HANDSHAKES):
                server.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        host, port = server.getsockname()
        member = Member("pi-1", host, port, 0, 0.0)
        assert lost_handshakes(member) == 0
        thread.join()
    with pytest.raises(ClusterError, match="pi-1 does not answer"):
        lost_handshakes(member)
