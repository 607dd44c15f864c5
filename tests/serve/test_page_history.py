"""The page's last day: what a point holds, and that it outlives the server."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dure.cluster.root.membership import Member
from dure.cluster.root.survey import NodeReport
from dure.generate.request import EngineStats
from dure.hardware.health import Health, Power
from dure.serve.page.history import DAY_S, History, NodePoint, Point
from dure.serve.page.kept_points import KeptPoints
from dure.serve.page.machines import nodes_shown
from tests.support.dure_server import WAIT_S, Home

WELL = Health(50.0, (), None, 0.5, 9.0, 1 << 30, 200, ())


def report(name: str, power: Power) -> NodeReport:
    return NodeReport(Member(name, "", 0, 0, 0.0), health=replace(WELL, power=power))


def points(*ages_s: float) -> list[Point]:
    """Points of so long ago."""
    now = time.time()
    node = NodePoint(50.0, False, 0.5, 6.5)
    return [Point(now - age_s, 0.0, 2.0, 1, 0, {"pi-1": node}) for age_s in ages_s]


@pytest.fixture
def kept(tmp_path: Path) -> KeptPoints:
    return KeptPoints(tmp_path, "m", "127.0.0.1:8080")


def file_of(directory: Path) -> Path:
    """The one file that was written there."""
    (path,) = directory.iterdir()
    return path


# ---------------------------------------------------------------- watts and joules


def test_a_point_has_the_mean_of_the_watts_that_were_seen(tmp_path: Path) -> None:
    """A machine without a sensor has none."""
    history = History()
    for watts in (4.0, 8.0):
        history.look([report("pi-1", Power(watts, "board")), report("pi-2", Power())])
    history.add(EngineStats(), [report("pi-1", Power(99.0, "board")), report("pi-2", Power())])
    (point,) = history.points
    assert (point.nodes["pi-1"].watts, point.nodes["pi-2"].watts) == (6.0, None)


@pytest.mark.parametrize(
    ("watts", "per_s", "joules"),
    [((6.0, 4.0), 2.0, 5.0), ((6.0, None), 2.0, None), ((6.0, 4.0), 0.0, None), ((), 2.0, None)],
)
def test_a_token_takes_what_all_machines_draw(
    watts: tuple[float | None, ...], per_s: float, joules: float | None
) -> None:
    """It is not known if one of them has no sensor, nor without tokens."""
    nodes = {str(n): NodePoint(None, False, 0.0, one) for n, one in enumerate(watts)}
    assert Point(0.0, 9.0, per_s, 0, 0, nodes).joules_per_token == joules


def test_the_page_is_told_of_what_the_watts_are_or_why_they_are_not_known() -> None:
    reports = [report("a", Power(6.5, "board")), report("b", Power(problem="root alone"))]
    told = {one["name"]: one for one in nodes_shown(None, reports, (), {})}
    assert (told["a"]["watts"], told["a"]["watts_of"]) == (6.5, "board")
    assert (told["b"]["watts"], told["b"]["watts_problem"]) == (None, "root alone")


# ---------------------------------------------------------------- over a restart


def test_what_was_written_is_read_without_what_is_older_than_a_day(
    tmp_path: Path, kept: KeptPoints
) -> None:
    """Nor what is yet to come by this machine's clock. Nobody else may read the file."""
    old, *recent = points(DAY_S + 60, 7200, 60)
    kept.write([old, *recent, *points(-3600)])
    assert kept.read() == recent
    assert file_of(tmp_path).stat().st_mode & 0o077 == 0


def test_another_model_or_address_has_a_day_of_its_own(tmp_path: Path, kept: KeptPoints) -> None:
    kept.write(points(60))
    assert KeptPoints(tmp_path, "other", "127.0.0.1:8080").read() == []
    assert KeptPoints(tmp_path, "m", "127.0.0.1:8081").read() == []


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        b'{"format": 1, "model": "m", "address": "127.0.0.1:8080", "points": [{"at": "x"}]}',
        b'{"format": 2, "model": "m", "address": "127.0.0.1:8080", "points": []}',
        b'{"format": 1, "model": "m", "address": "127.0.0.1:8080", "points": [{"at": 1e999}]}',
    ],
)
def test_a_damaged_file_is_empty_and_is_written_anew(
    tmp_path: Path, kept: KeptPoints, damage: bytes
) -> None:
    """Cut off, no text, another format, numbers that are none."""
    written = points(60)
    kept.write(written)
    file_of(tmp_path).write_bytes(damage)
    assert kept.read() == []
    kept.write(written)
    assert kept.read() == written


def test_a_place_that_cannot_be_written_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a line of the log, once."""
    (tmp_path / "page").write_text("a file where the directory should be")
    kept = KeptPoints(tmp_path / "page", "m", "a:1")
    for _ in range(3):
        kept.write(points(60))
    assert kept.read() == []
    assert len(caplog.records) == 1


def test_the_files_of_servers_that_are_long_gone_are_deleted(
    tmp_path: Path, kept: KeptPoints
) -> None:
    """Files that are not of this kind stay."""
    gone, foreign = tmp_path / "0123456789abcdef.json", tmp_path / "notes.json"
    for path in (gone, foreign):
        path.write_text("{}")
        os.utime(path, (0, 0))
    kept.write(points(60))
    assert not gone.exists()
    assert foreign.exists()


def test_points_stay_in_order_when_the_clock_is_set_back() -> None:
    """Those that have not happened yet are forgotten, and those of more than a day ago."""
    before = points(DAY_S + 60, 60, -600)
    history = History(before)
    history.add(EngineStats(), [])
    assert history.points[:-1] == before[1:2]
    assert history.points[-1].at >= before[1].at


def test_the_last_minute_of_an_earlier_server_is_not_this_ones() -> None:
    """Its energy of a token is not shown as if it were of now."""
    history = History(points(60))
    assert history.joules_per_token is None
    assert history.shown()["points"][0]["joules_per_token"] == 3.25


def test_a_server_that_was_started_again_has_the_day_before(tmp_path: Path) -> None:
    """It ended before its first minute was over, and wrote an answer: both are there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Home(tmp_path)
    with home.serving("--port", port) as server:
        server.chat()
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0
    written = json.loads(file_of(tmp_path / "page").read_text())
    assert written["address"] == f"127.0.0.1:{port}"
    with home.serving("--port", port) as server:
        (point,) = httpx.get(f"{server.url}/page/history").json()["points"]
    assert point["generated_per_s"] > 0
    assert point["at"] == written["points"][0]["at"]
