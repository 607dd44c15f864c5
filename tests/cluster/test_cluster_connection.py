"""What a connection says when the other end refuses, is silent, or is another version: typed errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dure.cluster.root.join_server import running_join_server
from dure.cluster.root.membership import Cluster, NameTakenError
from dure.cluster.trust.connection import (
    NodeConnection,
    RequestRefusedError,
    UnreachableError,
)
from dure.cluster.trust.https_server import MOST_BODY_BYTES, listener
from dure.cluster.trust.identity import new_request
from dure.cluster.trust.joining import JoinAnswer, JoinRequest, join
from dure.errors import ClusterError, revived


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A new cluster."""
    return Cluster.create(tmp_path / "cluster", "home")


@pytest.fixture
def address(cluster: Cluster) -> Iterator[tuple[str, int]]:
    """Where its join server runs."""
    with listener("127.0.0.1", 0) as listening, running_join_server(cluster, listening):
        yield listening.getsockname()


def connected(address: tuple[str, int]) -> NodeConnection:
    """A connection that believes anybody, as a machine that joins has before it compares the code."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return NodeConnection(address, context, "dure-root", if_silent="start it")


def test_a_refusal_is_the_other_ends_error(
    cluster: Cluster, address: tuple[str, int], tmp_path: Path
) -> None:
    """Its kind, problem and cure, also when it has crossed one more process."""
    join(tmp_path / "one", cluster.invite(60), address, "pi-1", 7474)
    with pytest.raises(RequestRefusedError) as caught:
        join(tmp_path / "two", cluster.invite(60), address, "pi-1", 7474)
    error = revived(caught.value.record())
    assert isinstance(error, RequestRefusedError)
    assert error.kind == NameTakenError.__name__
    assert error.reason == "a node called pi-1 is there already"
    assert "refuses: a node called pi-1 is there already: join with --name" in str(error)
    assert cluster.member("pi-1").name == "pi-1"


def test_a_body_that_is_too_large_is_refused_by_its_limit(address: tuple[str, int]) -> None:
    with connected(address) as connection:
        for n_bytes in (MOST_BODY_BYTES + 1, 64 * MOST_BODY_BYTES):
            with pytest.raises(RequestRefusedError, match=f"larger than {MOST_BODY_BYTES} bytes"):
                connection.ask("POST", "/join", JoinAnswer, b" " * n_bytes)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 5000, b'{"secret": 1}'])
def test_what_is_no_request_is_refused(address: tuple[str, int], body: bytes) -> None:
    with (
        connected(address) as connection,
        pytest.raises(RequestRefusedError, match="the body is no JoinRequest"),
    ):
        connection.ask("POST", "/join", JoinAnswer, body)


def test_an_answer_in_other_words_is_told(cluster: Cluster, address: tuple[str, int]) -> None:
    """As from another version of dure, whose record has another field."""

    class Newer(msgspec.Struct):
        certificate: str
        chain: list[str]

    _, request = new_request("pi-1")
    asked = JoinRequest(cluster.invite(60).secret, "pi-1", request.decode(), 7474)
    with (
        connected(address) as connection,
        pytest.raises(ClusterError, match=r"in another dure's words .*`chain`.*: install the same"),
    ):
        connection.ask("POST", "/join", Newer, asked)


def test_silence_is_told_with_its_cure_and_may_end(address: tuple[str, int]) -> None:
    """Nobody listens there; another path answers that there is none, on a new connection."""
    with listener("127.0.0.1", 0) as closed:
        nowhere: tuple[str, int] = closed.getsockname()
    with (
        connected(nowhere) as connection,
        pytest.raises(UnreachableError, match="nothing listens there: start it"),
    ):
        connection.ask("GET", "/", JoinAnswer)
    with connected(address) as connection:
        for _ in range(2):
            with pytest.raises(RequestRefusedError, match="refuses: Not Found"):
                connection.ask("GET", "/nowhere", JoinAnswer)
