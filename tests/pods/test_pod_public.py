"""A pod that the world may ask: the real script in a pod lets in who has the key, and to the API alone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dure.pods.emulator.machine import LocalMachine
from dure.pods.emulator.model_server import ANSWER
from tests.support.pod_person import UP, Person, a_person
from tests.support.pod_servers import move_server

WAIT_S = 60.0  # detects a hang; nothing is measured with it
CHAT = {"messages": [{"role": "user", "content": "Ring it."}]}


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up, "it never was so"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody whose pod `w` has a public address."""
    with a_person(tmp_path_factory.mktemp("public")) as person:
        person.dure(*UP, "--public")
        move_server(person)
        person.dure("stop", "w")
        person.dure("start", "w", "--yes")
        wait_until(lambda: is_open(person))
        yield person


def address(person: Person) -> str:
    """Where the provider's proxy would lead to."""
    assert isinstance(person.pod.machine, LocalMachine)
    return f"http://127.0.0.1:{person.pod.machine.public_port}"


def is_open(person: Person) -> bool:
    try:
        return httpx.get(f"{address(person)}/health").status_code == 200
    except httpx.HTTPError:
        return False


def key(person: Person) -> str:
    (file,) = (person.home / ".local" / "state" / "dure" / "pods" / "keys").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    return file.read_text().strip()


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_who_has_the_key_is_answered(person: Person, header: str) -> None:
    """After a stop and a start too, which empties the pod's disk."""
    given = {header: f"Bearer {key(person)}" if header == "authorization" else key(person)}
    answer = httpx.post(f"{address(person)}/v1/chat/completions", json=CHAT, headers=given)
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert httpx.get(f"{address(person)}/v1/models", headers=given).status_code == 200


def test_a_stream_comes_through(person: Person) -> None:
    """Piece by piece, as events."""
    given = {"authorization": f"Bearer {key(person)}"}
    url = f"{address(person)}/v1/chat/completions"
    with httpx.stream("POST", url, json={**CHAT, "stream": True}, headers=given) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert list(answer.iter_lines())[-2] == "data: [DONE]"


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer dure-guess"}, {"x-api-key": ""}])
def test_nobody_else_is(person: Person, given: dict[str, str]) -> None:
    """Without the key, or with another."""
    url = f"{address(person)}/v1/chat/completions"
    assert httpx.post(url, json=CHAT, headers=given).status_code == 401
    assert httpx.get(f"{address(person)}/v1/models", headers=given).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/props", "/metrics", "/slots", "/tokenize", "/v1", "/v1/", "/v1/../props"),
        *("/v1//models", "/v1/%2e%2e/props", "/v1/..;/props", "/healthz", "http://a/props"),
    ],
)
def test_only_the_api_is_there(person: Person, path: str) -> None:
    """With the key too: what a server shows beside its API is not for the world."""
    assert raw(person, f"GET {path} HTTP/1.1", f"authorization: Bearer {key(person)}") == 404


def test_a_request_inside_a_request_is_refused(person: Person) -> None:
    """No two servers that read one stream of bytes differently."""
    head = f"authorization: Bearer {key(person)}\r\ntransfer-encoding: chunked"
    assert raw(person, "POST /v1/chat/completions HTTP/1.1", head) == 411


def raw(person: Person, line: str, head: str) -> int:
    """Send a request as it is, which clients would tidy up; return the status."""
    port = int(address(person).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
        sock.sendall(f"{line}\r\nhost: pod\r\n{head}\r\n\r\n".encode())
        return int(sock.recv(1000).split(b" ")[1])


def test_the_key_is_nowhere_else(person: Person, tmp_path: Path) -> None:
    """Neither at the provider, nor in the ledger, nor in what was said, nor in a process list."""
    told = json.loads(person.dure("show", "w", "--json"))
    assert told["public"].endswith("-8100.proxy.runpod.net")
    secret, pod = key(person), person.pod
    shown = json.dumps([told, pod.env, pod.body, person.server.account.shown(pod)])
    commands = [
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)
    ]
    machine = person.pod.machine
    assert machine is not None
    assert secret not in "\n".join([shown, *person.said, *machine.log()])
    assert not any(secret.encode() in command for command in commands)
    kept = Path(told["key_file"])
    texts = [path for path in person.home.rglob("*") if path.is_file() and path != kept]
    assert not any(secret.encode() in path.read_bytes() for path in texts)


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_without_a_key_the_port_is_closed(tmp_path: Path) -> None:
    """A pod that somebody else started has none; nothing listens there then."""
    with a_person(tmp_path) as person:
        person.dure(*UP, "--public")
        wait_until(lambda: is_open_at_all(person))
        person.server.account.act(person.pod.id, "restart")
        person.dure("ssh", "w", "--", "true")
        assert not is_open_at_all(person)
        person.dure("rm", "w", "--yes")
        keys = person.home / ".local" / "state" / "dure" / "pods" / "keys"
        assert list(keys.iterdir()) == []


def is_open_at_all(person: Person) -> bool:
    try:
        httpx.get(f"{address(person)}/nothing")
    except httpx.HTTPError:
        return False
    return True


def test_a_workbench_has_no_address(tmp_path: Path) -> None:
    """It serves nothing that could be shown."""
    with a_person(tmp_path) as person:
        said = person.dure("up", "--template", "workbench", "--public", "--yes", status=2)
        assert "serves nothing" in said
