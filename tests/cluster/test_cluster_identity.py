"""Codes and certificates: who may join, who may ask, who may answer."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.cluster.root.membership import Cluster
from dure.cluster.trust.identity import (
    Credentials,
    answering_context,
    asking_context,
    check_name,
    new_request,
)
from dure.cluster.trust.invitation import Code, CodeRefusedError, Invitation, redeem
from dure.errors import ClusterError, UsageError
from dure.processes import Moment
from tests.support.certificates import dated

NOW = Moment(1_000_000.0, "a start", 500.0)


# ---------------------------------------------------------------- codes


@given(st.binary(min_size=32, max_size=32))
def test_a_code_is_read_as_it_was_shown(fingerprint: bytes) -> None:
    """Also where it is typed in small letters, without hyphens, or with letters for digits."""
    code = Code.new(fingerprint)
    shown = str(code)
    assert Code.parse(shown) == code
    assert Code.parse(shown.lower().replace("-", " ")) == code
    assert Code.parse(shown.replace("1", "I").replace("0", "o")) == code
    assert code.names(fingerprint)
    assert not code.names(bytes(32) if fingerprint[0] else b"\xff" * 32)


@pytest.mark.parametrize("text", ["", "ABC", "U" * 30, "0" * 29, "0" * 31, "é" * 30])
def test_what_is_no_code_is_told_so(text: str) -> None:
    with pytest.raises(UsageError, match="no code: `dure cluster invite`"):
        Code.parse(text)


def test_a_code_is_good_once_and_for_a_while() -> None:
    """Used, expired and unknown ones are told apart; the root keeps no secret."""
    code = Code.new(bytes(32))
    invitations = [Invitation.until(NOW, "other"), Invitation.until(NOW.after(10), code.digest)]
    assert code.secret not in str(invitations)
    with pytest.raises(CodeRefusedError, match="not one of this cluster"):
        redeem(invitations, "0" * 14, "pi", NOW)
    with pytest.raises(CodeRefusedError, match="has expired"):
        redeem(invitations, code.secret, "pi", NOW.after(11))
    redeem(invitations, code.secret, "pi", NOW)
    with pytest.raises(CodeRefusedError, match="was used by pi"):
        redeem(invitations, code.secret, "other", NOW)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a.b", "a" * 64, "../x"])
def test_a_name_is_a_host_name(name: str) -> None:
    with pytest.raises(UsageError, match="no name for a node"):
        check_name(name)


# ---------------------------------------------------------------- the root's memory


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A new cluster."""
    return Cluster.create(tmp_path / "cluster", "home")


def joined(cluster: Cluster, name: str, directory: Path) -> Credentials:
    """The credentials of a node that joined."""
    key, request = new_request(name)
    certificate = cluster.join(cluster.invite(60).secret, name, request, "127.0.0.1", 1)
    own = Credentials(directory / name)
    own.write(key, certificate, cluster.authority.pem)
    return own


def test_a_cluster_is_made_once(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="holds a cluster already"):
        Cluster.create(cluster.directory, "other")


def test_no_cluster_is_an_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="`dure cluster init` makes one"):
        Cluster(tmp_path)


def test_private_keys_are_private(cluster: Cluster, tmp_path: Path) -> None:
    """Of the authority, of the root and of a node: nobody else reads them."""
    joined(cluster, "pi-1", tmp_path)
    keys = [*tmp_path.rglob("*key.pem")]
    assert len(keys) == 3
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_a_refused_machine_leaves_its_code_good(cluster: Cluster) -> None:
    """A name that is taken, or a broken request, costs no code."""
    code = cluster.invite(60)
    _, request = new_request("pi-1")
    for name, broken in (("dure-root", request), ("pi-1", b"no request"), ("Pi", request)):
        with pytest.raises(UsageError):
            cluster.join(code.secret, name, broken, "127.0.0.1", 1)
    cluster.join(code.secret, "pi-1", request, "127.0.0.1", 1)
    assert [member.name for member in cluster.members] == ["pi-1"]


def test_a_removed_node_may_join_again_under_its_name(cluster: Cluster, tmp_path: Path) -> None:
    joined(cluster, "pi-1", tmp_path)
    cluster.remove("pi-1")
    with pytest.raises(UsageError, match="there are none yet"):
        cluster.remove("pi-1")
    again = joined(cluster, "pi-1", tmp_path)
    assert talk(asking_context(cluster.credentials, cluster.revocations), again, "pi-1")


def test_a_damaged_memory_is_told_with_its_path(cluster: Cluster) -> None:
    (cluster.directory / "cluster.json").write_text('{"name": "ho')
    with pytest.raises(ClusterError, match=r"cluster\.json cannot be read"):
        Cluster(cluster.directory)


# ---------------------------------------------------------------- TLS


def talk(asks: ssl.SSLContext, answers: Credentials | ssl.SSLContext, name: str) -> bool:
    """Whether both ends of a real connection accept each other, and a byte gets through both ways."""
    server = answering_context(answers) if isinstance(answers, Credentials) else answers
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            plain, _ = listening.accept()
            try:
                with server.wrap_socket(plain, server_side=True) as tls:
                    tls.sendall(tls.recv(1))
            except (ssl.SSLError, OSError):
                plain.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname()) as plain,
                asks.wrap_socket(plain, server_hostname=name) as tls,
            ):
                tls.sendall(b"x")
                return tls.recv(1) == b"x"
        except (ssl.SSLError, ConnectionError):
            return False
        finally:
            thread.join()


def test_the_root_and_its_node_talk(cluster: Cluster, tmp_path: Path) -> None:
    node = joined(cluster, "pi-1", tmp_path)
    assert node.name == "pi-1"
    assert talk(asking_context(cluster.credentials, cluster.revocations), node, "pi-1")


def test_a_node_cannot_ask_a_node(cluster: Cluster, tmp_path: Path) -> None:
    """Its certificate is good for answering only, so a stolen board commands nobody."""
    one, two = joined(cluster, "pi-1", tmp_path), joined(cluster, "pi-2", tmp_path)
    assert not talk(asking_context(one, cluster.revocations), two, "pi-2")


def test_a_node_cannot_pass_for_another(cluster: Cluster, tmp_path: Path) -> None:
    two = joined(cluster, "pi-2", tmp_path)
    assert not talk(asking_context(cluster.credentials, cluster.revocations), two, "pi-1")


def test_a_revoked_node_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    node = joined(cluster, "pi-1", tmp_path)
    cluster.remove("pi-1")
    assert not talk(asking_context(cluster.credentials, cluster.revocations), node, "pi-1")


def test_a_node_that_joins_again_shows_its_new_certificate(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The server that runs with the old one does; a key without its certificate changes nothing."""
    node = joined(cluster, "pi-1", tmp_path)
    server = answering_context(node)
    cluster.remove("pi-1")
    assert not talk(asking_context(cluster.credentials, cluster.revocations), server, "pi-1")
    key, certificate = node.key.read_bytes(), node.certificate.read_bytes()
    joined(cluster, "pi-1", tmp_path)
    asks = asking_context(cluster.credentials, cluster.revocations)
    assert talk(asks, server, "pi-1")
    node.key.write_bytes(key)
    assert talk(asks, server, "pi-1")
    node.certificate.write_bytes(certificate)
    assert not talk(asks, server, "pi-1")


def test_another_cluster_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    """Neither by a node nor by the root."""
    other = Cluster.create(tmp_path / "other", "other")
    node, theirs = joined(cluster, "pi-1", tmp_path / "ours"), joined(other, "pi-1", tmp_path)
    assert not talk(asking_context(other.credentials, other.revocations), node, "pi-1")
    assert not talk(asking_context(cluster.credentials, cluster.revocations), theirs, "pi-1")


def test_a_stranger_without_a_certificate_is_not_let_in(cluster: Cluster, tmp_path: Path) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    assert not talk(stranger, joined(cluster, "pi-1", tmp_path), "pi-1")


def test_an_expired_certificate_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    """Of a node at the root; the root's at a node is refused in words: test_cluster_clocks.py."""
    node = joined(cluster, "pi-1", tmp_path)
    assert talk(asking_context(cluster.credentials, cluster.revocations), node, "pi-1")
    old_node = dated(cluster.authority, node, tmp_path / "old node", -9, -1)
    assert not talk(asking_context(cluster.credentials, cluster.revocations), old_node, "pi-1")


@pytest.mark.parametrize("set_by_s", [-7200, 7200])
def test_a_code_outlives_a_clock_that_is_set(set_by_s: float) -> None:
    """It is good for some minutes, which no clock shortens or lengthens; after a restart of the root, the
    time of day is all there is.
    """
    code = Code.new(bytes(32))
    later = Moment(NOW.time + set_by_s, NOW.boot, NOW.since_boot_s + 59)
    redeem([Invitation.until(NOW.after(60), code.digest)], code.secret, "pi", later)
    with pytest.raises(CodeRefusedError, match="has expired"):
        redeem([Invitation.until(NOW.after(60), code.digest)], code.secret, "pi", later.after(2))
    restarted = Moment(NOW.time + 61, "another start", 1.0)
    with pytest.raises(CodeRefusedError, match="has expired"):
        redeem([Invitation.until(NOW.after(60), code.digest)], code.secret, "pi", restarted)
