"""Bodies, heads and connections that are too large, too slow or no HTTP at all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.guarded_server import Serving, raw, read_all, serving, wait_for


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with short time-outs and no keys."""
    with serving(
        tmp_path_factory.mktemp("plain") / "log",
        max_body_bytes=100_000,
        max_header_bytes=8192,
        header_timeout_s=0.5,
        body_timeout_s=0.5,
        idle_timeout_s=0.5,
        slow_client_timeout_s=0.5,
        log_format="json",
    ) as server:
        yield server


def send_forever(sock: socket.socket) -> None:
    """Until the other side ends it."""
    while True:
        sock.sendall(b"b" * 65536)


# Bodies


def test_a_stated_body_that_is_too_large_is_413(plain: Serving) -> None:
    """The client reads the answer although its body was not read to the end."""
    answer = httpx.post(f"{plain.url}/x", content=b"x" * 3_000_000)
    assert answer.status_code == 413
    assert "100000 bytes" in answer.json()["error"]["message"]


def test_a_chunked_body_that_is_too_large_is_413(plain: Serving) -> None:
    """The bytes are counted where no length is stated."""
    answer = httpx.post(f"{plain.url}/x", content=(b"x" * 1000 for _ in range(3000)))
    assert answer.status_code == 413


def test_a_body_of_the_largest_size_is_taken(plain: Serving) -> None:
    """The limit is the largest size that is let in, stated or chunked."""
    assert httpx.post(f"{plain.url}/x", content=b"x" * 100_000).json()["size"] == 100_000
    chunked = (b"x" * 1000 for _ in range(100))
    assert httpx.post(f"{plain.url}/x", content=chunked).json()["size"] == 100_000


def test_a_body_that_does_not_come_is_408(plain: Serving) -> None:
    """A client that stops in the middle of its body is cut off."""
    answer = raw(plain, b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer


# Heads and connections


def test_a_head_that_is_never_whole_is_408(plain: Serving) -> None:
    """A client that drips its headers is cut off, on a new connection and on a used one."""
    assert raw(plain, b"GET /x HTTP/1.1\r\nhost: localhost\r\nx-").startswith(b"HTTP/1.1 408")
    answers = raw(plain, b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\nGET /x HT")
    assert answers.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answers


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: b\r\n" * 5000 + b"\r\n",
        b"GET /x HTTP/1.1\r\nhost: localhost\r\nx-a: " + b"b" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        + b"x-trailer: b\r\n" * 5000
        + b"\r\n",
    ],
    ids=["many", "long", "url", "trailers"],
)
def test_a_head_that_is_too_large_is_refused(plain: Serving, head: bytes) -> None:
    """Many headers, a long one, a long address, or headers behind the body: 431, or just the end."""
    answer = raw(plain, head)
    assert answer.startswith(b"HTTP/1.1 431") or answer == b""


def test_a_header_without_end_is_cut_off(plain: Serving) -> None:
    """What is not yet a whole header counts too."""
    with socket.create_connection(("127.0.0.1", plain.port), 30) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nx-a: ")
        with pytest.raises(OSError, match=r"reset|pipe"):
            send_forever(sock)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"HELO mail\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /x HTTP/1.1\r\nbad header: x\r\n\r\n",
        b"GET /x HTTP/1.1\r\nx: a\x00b\r\n\r\n",
    ],
)
def test_what_is_no_http_is_400(plain: Serving, data: bytes) -> None:
    """Answered as JSON and closed; nothing reaches the API."""
    answer = raw(plain, data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 400


def test_an_idle_connection_is_closed(plain: Serving) -> None:
    """Whether it has been used or not."""
    assert raw(plain, b"") == b""
    assert raw(plain, b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_is_cut_off(plain: Serving) -> None:
    """Its request ends, so that the engine does not work for nobody."""
    with socket.create_connection(("127.0.0.1", plain.port), 30) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wait_for(lambda: plain.api.running == 1)
        wait_for(lambda: plain.api.running == 0)
        assert plain.api.ended[-1] == "hung up"
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_a_client_that_hangs_up_ends_its_request(plain: Serving) -> None:
    """A stream ends with the connection."""
    with httpx.stream("GET", f"{plain.url}/stream?100000") as answer:
        assert next(answer.iter_lines()) == "data: 0"
    wait_for(lambda: plain.api.running == 0)
    assert plain.api.ended[-1] == "hung up"


def test_too_many_connections_are_503(tmp_path: Path) -> None:
    """Those that are there go on; a new one is told to come back, and may once there is room."""
    with serving(tmp_path / "log", max_connections=2) as server:
        with httpx.Client() as first, httpx.Client() as second:
            assert first.get(f"{server.url}/x").status_code == 200
            assert second.get(f"{server.url}/x").status_code == 200
            third = httpx.get(f"{server.url}/x")
            assert third.status_code == 503
            assert third.headers["retry-after"] == "1"
            assert first.get(f"{server.url}/x").status_code == 200
        wait_for(lambda: httpx.get(f"{server.url}/x").status_code == 200)
