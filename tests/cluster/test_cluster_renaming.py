"""A node's new name, and its end, when something comes between: a cut line, another change, a bad disk.

The node is a process of this machine, and its root talks to it through a relay that can cut the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from fastapi.testclient import TestClient

from dure.cluster.node.agent import agent_app
from dure.cluster.root.membership import Cluster, NameTakenError
from dure.cluster.root.node_changes import rename_node
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.root.survey import Nodes
from dure.cluster.trust.connection import UnreachableError
from dure.cluster.trust.identity import Credentials, new_request
from dure.cluster.trust.joining import NodeFile
from dure.engine.instruments.speed import Speed
from dure.errors import UsageError
from tests.support.cluster_serving import wait_until
from tests.support.needs_root import needs_root


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A new cluster."""
    return Cluster.create(tmp_path / "cluster", "home")


def joined(cluster: Cluster, directory: Path, name: str, port: int = 1) -> Credentials:
    """The files of a node that joined; its root finds it at this port."""
    key, request = new_request(name)
    certificate = cluster.join(cluster.invite(60).secret, name, request, "127.0.0.1", port)
    own = Credentials(directory)
    own.write(key, certificate, cluster.authority.pem)
    NodeFile(name, cluster.name, port).write(directory)
    return own


def revoked(cluster: Cluster) -> set[int]:
    """The serial numbers on the list that TLS checks."""
    return {one.serial_number for one in x509.load_pem_x509_crl(cluster.revocations.read_bytes())}


# ---------------------------------------------------------------- a line that breaks


class Relay:
    """Passes bytes on to a port. Once a file has changed, what the port says is lost, and its line cut."""

    def __init__(self, to: int, file: Path, *, comes_back: bool) -> None:
        self._to, self._file, self._before = to, file, file.read_bytes()
        self._comes_back, self._is_cut = comes_back, False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._sockets = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        """Pass everything on again."""
        self._comes_back = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                self._sockets.append(near)
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        try:
            if self._is_cut and not self._comes_back:
                raise OSError("cut")
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # or its agent begins anew
            near.close()
            return
        self._sockets.append(far)
        for ends in ((near, far, False), (far, near, True)):
            threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while block := one.recv(65536):
                if is_answer and not self._is_cut and self._file.read_bytes() != self._before:
                    self._is_cut = True
                    break
                other.sendall(block)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def running_node(directory: Path, port: int) -> Iterator[None]:
    words = ["node", "run", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dure.cli.main", *words],
        env={**os.environ, "DURE_NODE_DIR": str(directory)},
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        while b" of home at " not in (line := process.stderr.readline()):
            assert line, "the node has ended"
        yield
    finally:
        process.terminate()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_lost_answer_leaves_no_node_without_a_name(
    cluster: Cluster, tmp_path: Path, comes_back: bool
) -> None:
    """The node has its new name and the root does not know: it asks; if in vain, the same command again
    finishes it, and no name that the node may have is given away meanwhile.
    """
    port = free_port()
    own = joined(cluster, tmp_path / "node", "pi-1")
    nodes, old = Nodes(cluster), own.loaded.serial_number
    with (
        Relay(port, own.certificate, comes_back=comes_back) as relay,
        running_node(tmp_path / "node", port),
    ):
        cluster.move("pi-1", "127.0.0.1", relay.port)
        if not comes_back:
            with pytest.raises(UnreachableError, match="`dure cluster rename pi-1 pi-4` again"):
                rename_node(cluster, nodes, "pi-1", "pi-4")
            assert [member.name for member in cluster.members] == ["pi-1"]
            with pytest.raises(NameTakenError):
                joined(cluster, tmp_path / "other", "pi-4")
            relay.mend()
        rename_node(cluster, nodes, "pi-1", "pi-4")
        wait_until(lambda: not nodes.survey(cluster.members)[0].problem)  # it begins anew
    (member,) = cluster.members
    assert (member.name, member.serial) == ("pi-4", own.loaded.serial_number)
    assert revoked(cluster) == {old}


def test_a_node_notes_a_name_that_it_took_and_could_not_note(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its certificate says what it is called, at the next start too."""
    own = joined(cluster, tmp_path / "node", "pi-1")
    own.renew(cluster.begin_rename("pi-1", "pi-4", own.request("pi-4")))
    with running_node(tmp_path / "node", free_port()):
        assert NodeFile.read(tmp_path / "node").name == "pi-4"


# ---------------------------------------------------------------- changes at the same time


def test_a_renaming_keeps_what_changes_meanwhile(cluster: Cluster, tmp_path: Path) -> None:
    """An address; and of two nodes one gets the name, whichever way they come to it."""
    own = joined(cluster, tmp_path / "one", "pi-1")
    joined(cluster, tmp_path / "two", "pi-2")
    cluster.begin_rename("pi-1", "pi-4", own.request("pi-4"))
    with pytest.raises(NameTakenError, match="pi-4"):
        joined(cluster, tmp_path / "three", "pi-4")
    with pytest.raises(NameTakenError, match="pi-4"):
        cluster.begin_rename("pi-2", "pi-4", own.request("pi-4"))
    cluster.move("pi-1", "10.0.0.9", 99)
    cluster.finish_rename("pi-1")
    member = cluster.member("pi-4")
    assert (member.host, member.port, member.renaming) == ("10.0.0.9", 99, None)
    assert [one.name for one in cluster.members] == ["pi-4", "pi-2"]


def test_a_node_that_is_removed_while_it_is_renamed_has_no_certificate_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    own = joined(cluster, tmp_path / "one", "pi-1")
    own.renew(cluster.begin_rename("pi-1", "pi-4", own.request("pi-4")))
    cluster.remove("pi-1")
    assert own.loaded.serial_number in revoked(cluster)
    with pytest.raises(UsageError, match="no node is called 'pi-1'"):
        cluster.finish_rename("pi-1")


def test_speeds_of_who_had_the_name_before_are_forgotten(tmp_path: Path) -> None:
    known = KnownSpeeds(tmp_path)
    known.keep("pi-4", Speed("Q4_0", 2, 4e9, 9e9))
    known.rename("pi-1", "pi-4")
    assert KnownSpeeds(tmp_path).speed("pi-4", "Q4_0") is None


# ---------------------------------------------------------------- the node's own disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 256 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "dure-test", str(disk)]
    subprocess.run(mount, check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@needs_root
def test_on_a_full_disk_a_node_keeps_the_name_that_it_has(
    cluster: Cluster, small_disk: Path
) -> None:
    """With a key and a certificate that belong together; with room it takes the new one."""
    own = joined(cluster, small_disk, "pi-1")
    with TestClient(agent_app(small_disk)) as root:
        request = root.post("/name", json={"name": "pi-4"}).json()["request"]
        certificate = cluster.begin_rename("pi-1", "pi-4", request.encode()).decode()
        with contextlib.suppress(OSError), (small_disk / "full").open("wb", buffering=0) as full:
            while full.write(bytes(4096)):
                pass
        refused = root.post("/certificate", json={"certificate": certificate})
        assert (refused.status_code, "cannot be written" in refused.text) == (413, True)
        assert (own.name, NodeFile.read(small_disk).name) == ("pi-1", "pi-1")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(own.certificate, own.key)
        (small_disk / "full").unlink()
        taken = root.post("/certificate", json={"certificate": certificate})
        assert (taken.status_code, own.name, NodeFile.read(small_disk).name) == (
            200,
            "pi-4",
            "pi-4",
        )
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(own.certificate, own.key)


def test_a_node_takes_no_certificate_of_another_key_or_cluster(
    cluster: Cluster, tmp_path: Path
) -> None:
    own = joined(cluster, tmp_path / "node", "pi-1")
    stranger = Cluster.create(tmp_path / "other", "other").authority
    others, _ = cluster.authority.sign(new_request("pi-4")[1], "pi-4")
    foreign, _ = stranger.sign(own.request("pi-4"), "pi-4")
    with TestClient(agent_app(tmp_path / "node")) as root:
        for wrong in (others, foreign, b"none"):
            told = root.post("/certificate", json={"certificate": wrong.decode()})
            assert told.status_code == 400
    assert own.name == "pi-1"


@needs_root
def test_a_node_that_cannot_delete_its_shards_stays_one(
    cluster: Cluster, tmp_path: Path, small_disk: Path
) -> None:
    """It says which, has its keys, and does not end; it can leave once they can be deleted."""
    node, ended = small_disk.parent / "node", list[str]()
    joined(cluster, node, "pi-1")
    held = node / "shards" / "held"
    held.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(small_disk), str(held)], check=True)
    with TestClient(agent_app(node, changed=lambda: ended.append("ended"))) as root:
        try:
            refused = root.post("/leave")
        finally:
            subprocess.run(["umount", str(held)], check=True)
        assert (refused.status_code, f"{held} cannot be deleted" in refused.text) == (413, True)
        assert (Credentials(node).exist, NodeFile.read(node).name, ended) == (True, "pi-1", [])
        assert root.post("/leave").status_code == 200
    assert (node.exists(), ended) == (False, ["ended"])


def test_the_root_has_its_answer_before_the_agent_ends(cluster: Cluster, tmp_path: Path) -> None:
    """The last byte is handed over before anything is told to end."""
    joined(cluster, tmp_path / "node", "pi-1")
    told: list[str] = []
    app = agent_app(tmp_path / "node", changed=lambda: told.append("ended"))
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/leave"}
    scope |= {"headers": [], "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        told.append(message["type"])

    asyncio.run(app(scope, receive, send))
    assert told == ["http.response.start", "http.response.body", "ended"]
