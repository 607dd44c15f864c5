"""Clocks that are wrong: the machine whose clock is off is named, and by how much, instead of "removed"."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dure.cluster.node.agent import agent_app
from dure.cluster.root.join_server import running_join_server
from dure.cluster.root.membership import Cluster
from dure.cluster.root.survey import Nodes
from dure.cluster.trust.clocks import ClockError, apart, check_dates, hint
from dure.cluster.trust.https_server import NodeServer, listener
from dure.cluster.trust.identity import Credentials, answering_context, new_request
from tests.support.certificates import dated
from tests.support.other_clock import clock_library

DURE = (sys.executable, "-m", "dure.cli.main")
THEN = "1980-01-02 03:0"
BEHIND_S = time.time() - datetime.datetime(1980, 1, 2, 3, 4, tzinfo=datetime.UTC).timestamp()
YEARS = round(BEHIND_S / 86400 / 365.25)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A new cluster."""
    return Cluster.create(tmp_path / "cluster", "home")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Where the node pi-1 answers."""
    with listener("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def node(cluster: Cluster, listening: socket.socket, tmp_path: Path) -> Credentials:
    """What proves who pi-1 is, once it has joined."""
    key, request = new_request("pi-1")
    port = listening.getsockname()[1]
    secret = cluster.invite(60).secret
    certificate = cluster.join(secret, "pi-1", request, "127.0.0.1", port)
    own = Credentials(tmp_path / "node")
    own.directory.mkdir()
    own.write(key, certificate, cluster.authority.pem)
    return own


@contextmanager
def answering(own: Credentials, listening: socket.socket) -> Iterator[None]:
    """Run a node's agent while the block runs."""
    server = NodeServer(agent_app(own.directory), answering_context(own))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def problem_of(cluster: Cluster) -> str:
    """What the root says of its only node."""
    (report,) = Nodes(cluster).survey(cluster.members, timeout_s=30.0)
    return report.problem


@pytest.mark.parametrize(("first_day", "last_day"), [(2, 9), (-9, -2)])
def test_a_node_refuses_a_root_whose_certificate_is_not_valid_now(
    cluster: Cluster,
    node: Credentials,
    listening: socket.socket,
    tmp_path: Path,
    first_day: float,
    last_day: float,
) -> None:
    """Neither one of the future nor one that has expired, and it says why in words."""
    with answering(node, listening):
        assert problem_of(cluster) == ""
        other = dated(
            cluster.authority, cluster.credentials, tmp_path / "other", first_day, last_day
        )
        shutil.copy(other.certificate, cluster.credentials.certificate)
        told = problem_of(cluster)
    assert "the root's certificate is not valid at the time that pi-1 at 127.0.0.1:" in told
    assert "look at both clocks" in told


def test_a_root_whose_clock_is_behind_is_told_so(
    cluster: Cluster, node: Credentials, listening: socket.socket, tmp_path: Path
) -> None:
    """It finds the node's certificate not valid yet, though it has made that itself."""
    ahead = dated(cluster.authority, node, tmp_path / "ahead", 30.2, 99)
    with answering(ahead, listening):
        told = problem_of(cluster)
    assert told.startswith("this machine's clock says ")
    assert ", 31 days before pi-1's certificate was made: `sudo timedatectl" in told


def test_a_node_whose_clock_is_behind_is_told_so_until_it_is_right(
    cluster: Cluster, node: Credentials, listening: socket.socket, tmp_path: Path
) -> None:
    """On the root, which names it and both clocks, and on the node itself."""
    (node.directory / "node.json").write_text('{"name": "pi-1", "cluster": "home", "port": 1}')
    port = listening.getsockname()[1]
    listening.close()
    with running_node(port, behind(node.directory, tmp_path)) as process:
        told = problem_of(cluster)
        assert told.startswith(f"the clock of pi-1 at 127.0.0.1:{port} is off: it says {THEN}")
        assert f" UTC, {YEARS} years behind this machine's: there, `sudo timedatectl" in told
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert f"this machine's clock says {THEN}" in errors
    assert "until it is right, this node believes nobody" in errors


@contextmanager
def running_node(port: int, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run `dure node` in 1980 until it answers, and while the block runs."""
    process = subprocess.Popen(
        [*DURE, "node", "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.communicate()


def behind(directory: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a node in 1980."""
    return {
        **os.environ,
        "DURE_NODE_DIR": str(directory),
        "LD_PRELOAD": str(clock_library(tmp_path)),
        "CLOCK_IS_OFF_BY_S": str(-int(BEHIND_S)),
        "COLUMNS": "250",
    }


def test_joining_with_a_wrong_clock_works_and_tells_the_cure(
    cluster: Cluster, listening: socket.socket, tmp_path: Path
) -> None:
    """Nothing is set; the node answers once its clock is right."""
    with running_join_server(cluster, listening):
        root = f"127.0.0.1:{listening.getsockname()[1]}"
        code = str(cluster.invite(60))
        done = subprocess.run(
            [*DURE, "join", code, "--root", root, "--name", "pi-1"],
            env=behind(tmp_path / "node", tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert [member.name for member in cluster.members] == ["pi-1"]
    assert f"{YEARS} years behind the root's when this node joined" in done.stderr
    assert "timedatectl set-ntp true" in done.stderr


# ---------------------------------------------------------------- words


def test_clocks_are_told_apart() -> None:
    """In which direction, in a unit that a person reads."""
    day = 86400.0
    assert "3 days behind this machine's" in str(apart("pi-1", 0.0, 3 * day))
    assert "2 years ahead of this machine's" in str(apart("pi-1", 800 * day, 0.0))
    assert "it says 1970-01-01 00:01 UTC" in str(apart("pi-1", 60.0, 3 * day))
    assert "look at both clocks" in str(apart("pi-1", 0.0, 60.0))


def test_a_certificate_says_when_it_was_made(node: Credentials) -> None:
    """A day after it became valid: clocks may differ by that much."""
    certificate = node.loaded
    made = certificate.not_valid_before_utc + datetime.timedelta(days=1)
    for good in (-datetime.timedelta(hours=23), datetime.timedelta(days=3000)):
        check_dates(certificate, "pi-1's", made + good)
        assert hint(certificate, made + good) == ""
    early, late = made - datetime.timedelta(days=9), made + datetime.timedelta(days=3660)
    with pytest.raises(ClockError, match="9 days before pi-1's certificate was made"):
        check_dates(certificate, "pi-1's", early)
    with pytest.raises(ClockError, match="10 days after pi-1's certificate has expired"):
        check_dates(certificate, "pi-1's", late)
    assert "9 days behind the root's when this node joined" in hint(certificate, early)
    assert "10 years ahead of the root's when this node joined" in hint(certificate, late)
