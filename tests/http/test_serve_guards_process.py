"""The server's address and process: what is refused before it runs, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dure.errors import ResourceError, UsageError
from dure.http.binding import bound
from dure.http.registry import running_servers
from dure.http.settings import ServerSettings, check_binding
from dure.places import runtime_directory
from dure.processes import since_boot_s
from tests.support.guarded_server import WAIT_S, serving, wait_for

SERVER = Path(__file__).parents[1] / "support" / "guarded_server.py"


# Before it runs


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 (it is refused)
def test_a_public_address_wants_a_key(host: str, tmp_path: Path) -> None:
    """Or --insecure; this machine's own addresses and unix sockets do not."""
    with pytest.raises(UsageError, match="--insecure"):
        check_binding(ServerSettings(host=host))
    check_binding(ServerSettings(host=host, insecure=True))
    check_binding(ServerSettings(host=host, api_keys=("a:b",)))
    check_binding(ServerSettings(host=host, api_key_file=tmp_path / "keys"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "unix:/x"])
def test_an_address_of_this_machine_alone_wants_no_key(host: str) -> None:
    """Loopback is safe by itself."""
    check_binding(ServerSettings(host=host))


def test_an_unknown_host_is_a_usage_error() -> None:
    """It is named."""
    with pytest.raises(UsageError, match=r"no\.such\.host\.invalid"):
        check_binding(ServerSettings(host="no.such.host.invalid"))


@pytest.mark.parametrize(
    "options",
    [
        {"port": 65536},
        {"port": -1},
        {"max_body_bytes": 0},
        {"header_timeout_s": float("nan")},
        {"requests_per_minute": 0},
        {"tls_cert": Path("x")},
        {"log_format": "xml"},
        {"cors_origins": ("chat.example",)},
        {"cors_origins": ("https://chat.example/",)},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """Before a server runs with them."""
    with pytest.raises(UsageError):
        ServerSettings(**options)


def test_a_taken_port_is_told_with_who_has_it() -> None:
    """In one line that names the port and the cure."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ResourceError, match=rf"port {port} is taken by .*{os.getpid()}.*--port"),
            bound(ServerSettings(port=port)),
        ):
            pass


def test_an_address_of_another_machine_is_a_usage_error() -> None:
    """It cannot be listened at."""
    settings = ServerSettings(host="192.0.2.1", insecure=True)
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"), bound(settings):
        pass


def test_every_address_of_a_name_is_listened_at() -> None:
    """At one port, so that localhost is reached by IPv4 and, where there is one, by IPv6."""
    with bound(ServerSettings(host="localhost", port=0)) as binding:
        ports = {sock.getsockname()[1] for sock in binding.sockets}
        assert ports == {binding.port}
        assert binding.port > 0


def test_a_unix_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    """Nobody else may open it; a dead one is replaced, a living one is not."""
    path = tmp_path / "s"
    with serving(tmp_path / "log", host=f"unix:{path}") as server:
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://dure/x").status_code == 200
        assert server.url == f"unix:{path}"
        with pytest.raises(ResourceError), bound(ServerSettings(host=f"unix:{path}")):
            pass
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bound(ServerSettings(host=f"unix:{path}")):
        pass
    path.write_text("mine")
    with (
        pytest.raises(UsageError, match="is no socket"),
        bound(ServerSettings(host=f"unix:{path}")),
    ):
        pass
    assert path.read_text() == "mine"


# Its process


@contextmanager
def process(
    directory: Path, *, error_pipe: int | None = None, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own, and its URL. error_pipe: where stderr goes instead of a file."""
    settings = {"log_file": str(directory / "log"), **options}
    with (
        (directory / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, SERVER, json.dumps(settings)],
            env={**os.environ, "DURE_RUNTIME": str(directory / "run"), "PYTHONPATH": _path()},
            stdout=subprocess.PIPE,
            stderr=stderr if error_pipe is None else error_pipe,
            text=True,
        ) as running,
    ):
        try:
            assert running.stdout
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def _path() -> str:
    return os.pathsep.join(path for path in sys.path if path)


def test_running_answers_finish_when_the_server_is_stopped(tmp_path: Path) -> None:
    """SIGTERM: the stream goes on to its end, new requests and health are 503, the exit code is 0."""
    with process(tmp_path) as (server, url):
        with httpx.stream("GET", f"{url}/stream?50") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "data: 0"
            server.send_signal(signal.SIGTERM)
            wait_for(lambda: httpx.get(f"{url}/health").status_code == 503)
            refused = httpx.post(f"{url}/x")
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            told = [line for line in lines if line]
        assert told[-2:] == ["data: 49", "data: [DONE]"]
        assert server.wait(WAIT_S) == 0
    assert (tmp_path / "stderr").read_text() == ""


def test_answers_that_are_late_end_with_an_error(tmp_path: Path) -> None:
    """At the deadline: a last event that says so, the exit code is 0 all the same."""
    with process(tmp_path, deadline_s=0.3) as (server, url):
        with httpx.stream("GET", f"{url}/stream?100000") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "data: 0"
            server.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503
        assert server.wait(WAIT_S) == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """However long the deadline is."""
    with (
        process(tmp_path, deadline_s=3600) as (server, url),
        httpx.stream("GET", f"{url}/stream?100000") as answer,
    ):
        lines = answer.iter_lines()  # kept: the connection goes with it
        assert next(lines) == "data: 0"
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/health").status_code == 503)
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 128 + signal.SIGTERM


def test_a_client_that_never_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Its connection is cut after the deadline."""
    with process(tmp_path, deadline_s=0.2, slow_client_timeout_s=3600) as (server, url):
        port = httpx.URL(url).port
        assert port
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
            sock.recv(1)
            server.send_signal(signal.SIGTERM)
            assert server.wait(WAIT_S) == 0


def test_a_server_is_found_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its file, which goes with it; the file of one that was killed is cleaned up."""
    monkeypatch.setenv("DURE_RUNTIME", str(tmp_path / "run"))
    assert running_servers() == []
    with process(tmp_path) as (server, url):
        (found,) = running_servers()
        assert (found.pid, found.url, found.model) == (server.pid, url, "m")
        assert 0 < found.started <= since_boot_s()
        server.send_signal(signal.SIGTERM)
        server.wait(WAIT_S)
    assert list(runtime_directory().glob("*")) == []
    with process(tmp_path) as (server, url):
        server.kill()
        server.wait(WAIT_S)
        assert len(list(runtime_directory().glob("*.json"))) == 1
        assert running_servers() == []
        assert list(runtime_directory().glob("*")) == []


def test_a_server_that_cannot_leave_word_runs_all_the_same(tmp_path: Path) -> None:
    """The log says so."""
    (tmp_path / "run").write_text("in the way")
    with process(tmp_path) as (server, url):
        assert httpx.get(f"{url}/x").status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
    assert "dure ps" in (tmp_path / "stderr").read_text()


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """Neither requests nor the end, where stderr is a pipe that is full."""
    read, write = os.pipe()
    with process(tmp_path, error_pipe=write, log_file=None) as (server, url):
        with httpx.Client() as client:
            for _ in range(200):
                assert client.get(f"{url}/{'x' * 600}").status_code == 200
        assert len(os.read(read, 10)) == 10  # and no more
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
    os.close(read)
    os.close(write)


def test_ipv6_is_served(tmp_path: Path) -> None:
    """Its address is in brackets."""
    try:
        with serving(tmp_path / "log", host="::1") as server:
            assert server.url == f"http://[::1]:{server.port}"
            assert httpx.get(f"{server.url}/x").status_code == 200
    except UsageError:
        pytest.skip("this machine has no IPv6")
