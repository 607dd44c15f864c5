"""Ids of requests, bugs of ours, and the access log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dure.errors import DureError
from dure.http.log_sink import LogSink
from tests.support.guarded_server import KEYS, Serving, serving, wait_for


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("plain") / "log") as server:
        yield server


def test_a_sane_request_id_is_kept(plain: Serving) -> None:
    """The caller's id comes back; one that could forge a line, or is too long, does not."""

    def id_of(given: bytes) -> str:
        return httpx.get(f"{plain.url}/x", headers=[(b"x-request-id", given)]).headers[
            "x-request-id"
        ]

    assert id_of(b"req-1/a:b") == "req-1/a:b"
    for given in (b"x" * 129, b"a b", b"", "\u00fc".encode()):
        assert re.fullmatch("[0-9a-f]{32}", id_of(given))


def test_a_bug_is_a_500_that_tells_nothing(plain: Serving) -> None:
    """Before the answer as a status, in a stream as its last event; never as a traceback."""
    early = httpx.get(f"{plain.url}/fault", headers={"x-request-id": "the-id"})
    assert early.status_code == 500
    assert "the-id" in early.json()["error"]["message"]
    assert "text of a bug" not in early.text
    late = httpx.get(f"{plain.url}/late-fault").text.splitlines()
    assert late[0] == "data: 0"
    assert json.loads(late[2].removeprefix("data: "))["error"]["code"] == 500


def test_the_log_tells_of_a_request_without_its_contents(tmp_path: Path) -> None:
    """As JSON: who, what, how long; neither body nor query nor key."""
    with serving(tmp_path / "log", api_keys=KEYS, log_format="json") as server:
        secret = KEYS[0].partition(":")[2]
        httpx.post(
            f"{server.url}/x?key={secret}",
            headers={"x-api-key": secret, "x-request-id": "the-id"},
            content="the contents",
        )
        (line,) = server.log(1)
    told = json.loads(line)
    assert {k: told[k] for k in ("id", "key", "method", "path", "status", "bytes_in")} == {
        "id": "the-id",
        "key": "alice",
        "method": "POST",
        "path": "/x",
        "status": 200,
        "bytes_in": 12,
    }
    assert told["duration_s"] >= 0
    assert secret not in line
    assert "contents" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_can_forge_a_line_of_the_log(tmp_path: Path, log_format: str) -> None:
    """Line ends and control characters of a path are escaped."""
    with serving(tmp_path / "log", log_format=log_format) as server:
        httpx.get(f"{server.url}/a%0d%0aGET%20/forged%1b%5b2J%E2%80%A8%22%7D")
        httpx.get(f"{server.url}/last")
        lines = server.log(2)
    assert len(lines) == 2
    assert "forged" in lines[0]
    assert lines[0].isascii()
    assert lines[0].isprintable()


def test_the_log_survives_rotation(tmp_path: Path) -> None:
    """A file that is moved away is opened anew."""
    with serving(tmp_path / "log") as server:
        httpx.get(f"{server.url}/first")
        server.log(1)
        (tmp_path / "log").rename(tmp_path / "log.1")
        httpx.get(f"{server.url}/second")
        (line,) = server.log(1)
    assert "/second" in line
    assert "/first" in (tmp_path / "log.1").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_no_request() -> None:
    """Lines are lost, answers are not."""
    with serving(Path("/dev/full")) as server:
        for _ in range(20):
            assert httpx.get(f"{server.url}/x").status_code == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lines_that_were_lost_are_counted(tmp_path: Path) -> None:
    """The first that finds a place again says how many did not."""
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    with LogSink(path) as sink:
        for i in range(3):
            sink.write(f"lost {i}")
        wait_for(lambda: sink.lost == 3)
        path.unlink()
        sink.write("found")
    told = path.read_text().splitlines()
    assert told[0].startswith("3 lines of this log were lost")
    assert told[1:] == ["found"]


def test_a_log_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    """Before anything runs."""
    with pytest.raises(DureError, match="cannot write the log"), serving(tmp_path / "no" / "log"):
        pass
