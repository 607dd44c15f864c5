"""`dure ui`: the page of a server, here or elsewhere, without its key in the browser."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from dure.http.guards.asgi import Message
from dure.route.client import HttpClient
from dure.route.forwarding import Forwarding
from tests.support.dure_process import error_line
from tests.support.dure_server import GREEDY, Home, Serving, end
from tests.support.scripted_upstream import scripted

KEY = "sk-page-0123456789"
WAIT_S = 60.0  # detects a hang; nothing is measured with it


class Shown(Serving):
    """A running `dure ui`. url: its own; password: what its page shows as a key."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(process)
        self.read_until(lambda line: "is shown at" in line)
        found = re.search(r"shown at (\S+)/#key=(\S+);", self.lines[-1])
        assert found, self.lines
        self.url, self.password = found.groups()

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask for a page as its browser does."""
        shown = {"authorization": f"Bearer {self.password}", **headers}
        return httpx.get(f"{self.url}{path}", headers=shown, timeout=WAIT_S)


@contextmanager
def shown(home: Home, *arguments: object) -> Iterator[Shown]:
    """Run `dure ui` within the block."""
    process = home.dure.start("ui", *arguments, stderr=subprocess.PIPE)
    try:
        yield Shown(process)
    finally:
        end(process)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Serving]]:
    """A server that wants a key."""
    home = Home(tmp_path_factory.mktemp("ui"))
    with home.serving("--api-key", f"anna:{KEY}") as found:
        yield home, found


def test_a_server_here_is_shown_without_asking_for_its_key(server: tuple[Home, Serving]) -> None:
    """Whoever started it may look; whoever does not know the password may not."""
    home, served = server
    with shown(home) as page:
        assert served.url in page.lines[-1]
        assert page.get("/v1/models").json()["data"][0]["id"] == "dure-demo"
        assert page.get("/", accept="text/html").headers["content-type"].startswith("text/html")
        assert httpx.get(f"{page.url}/v1/models").status_code == 401
        with_real = {"authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{page.url}/v1/models", headers=with_real).status_code == 401
        assert page.get("/page/nothing").status_code == 404


def test_answers_stream_through(server: tuple[Home, Serving]) -> None:
    """A feed comes piece by piece, and an answer is the server's own; also beside another page."""
    home, served = server
    with shown(home), shown(home, served.url.rpartition(":")[2]) as page:
        headers = {"authorization": f"Bearer {page.password}"}
        with httpx.stream("GET", f"{page.url}/page/feed", headers=headers) as feed:
            assert next(feed.iter_lines()).startswith("event: ")
        body = {**GREEDY, "stream": True}
        answer = httpx.post(f"{page.url}/v1/chat/completions", json=body, headers=headers)
        assert answer.text.endswith("data: [DONE]\n\n")


def test_a_server_elsewhere_is_shown_with_a_key_from_a_file(
    server: tuple[Home, Serving], tmp_path: Path
) -> None:
    """Without one it is refused there, and the page asks for it; a file that others may read is refused."""
    home, served = server
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o644)
    assert "can be read by other users" in error_line(
        home.dure("ui", served.url, "--key-file", key_file).stderr
    )
    key_file.chmod(0o600)
    with shown(home, served.url, "--key-file", key_file) as page:
        assert page.get("/v1/models").status_code == 200
    with shown(home, served.url) as page:
        assert page.get("/v1/models").status_code == 401


def test_a_head_ends_without_a_body() -> None:
    """Nothing is waited for after it, nor passed on, whatever length it tells."""

    async def bodies() -> list[bytes]:
        client = HttpClient(other.url, ca_file=None, connect_s=WAIT_S, silence_s=WAIT_S)
        messages: asyncio.Queue[Message] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b""})
        sent = list[Message]()

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "HEAD", "path": "/v1/some", "headers": []}
        await Forwarding(client, "it", "")(scope, messages.get, send)
        assert sent[0]["status"] == 200
        return [one["body"] for one in sent[1:]]

    with scripted(mode="endless") as other:
        assert asyncio.run(asyncio.wait_for(bodies(), WAIT_S)) == [b""]


def test_the_servers_key_is_for_who_knows_the_password(tmp_path: Path) -> None:
    """Addresses that are open here are asked for without it."""
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    with scripted() as other, shown(Home(tmp_path), other.url, "--key-file", key_file) as page:
        httpx.get(f"{page.url}/", timeout=WAIT_S)
        page.get("/")
        assert [seen.headers.get("authorization") for seen in other.requests] == [
            None,
            f"Bearer {KEY}",
        ]


def test_a_page_is_no_server_of_its_own(tmp_path: Path) -> None:
    """It is not listed, not stopped unless named, and no prompt goes to where it leads."""
    home = Home(tmp_path)
    with scripted() as other, shown(home, other.url):
        assert json.loads(home.dure("ps", "--json").stdout)["servers"] == []
        home.dure("route", "explain", "Hi")
        assert not other.requests
        assert "no server runs here" in error_line(home.dure("stop").stderr)
        assert home.dure("stop", "ui").returncode == 0


def test_a_request_that_is_ended_leaves_nothing_behind() -> None:
    """Neither the question after its client nor the request to the server goes on."""

    async def left() -> int:
        client = HttpClient(other.url, ca_file=None, connect_s=WAIT_S, silence_s=WAIT_S)
        messages: asyncio.Queue[Message] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b""})

        async def send(_: Message) -> None:
            pass

        scope = {"type": "http", "method": "GET", "path": "/v1/hangs", "headers": []}
        task = asyncio.create_task(Forwarding(client, "it", "")(scope, messages.get, send))
        assert await asyncio.to_thread(other.answering.wait, WAIT_S)
        task.cancel()
        await asyncio.wait({task})
        return len(asyncio.all_tasks()) - 1

    with scripted(mode="hangs") as other:
        assert asyncio.run(left()) == 0


def test_a_page_has_the_same_address_at_every_start(tmp_path: Path) -> None:
    """Another server's page has another one; a password is good for one start."""
    home = Home(tmp_path)
    with shown(home, "http://127.0.0.1:9") as first:
        pass
    with shown(home, "http://127.0.0.1:9/") as second, shown(home, "http://127.0.0.1:10") as other:
        assert second.url == first.url != other.url
        assert second.password != first.password
    assert (tmp_path / "ui.json").stat().st_mode & 0o077 == 0
    (tmp_path / "ui.json").write_text("damaged")
    with shown(home, "http://127.0.0.1:9") as third:
        assert third.url == first.url


def test_a_page_whose_port_is_taken_has_another_one(tmp_path: Path) -> None:
    """It says so, and has its own again when that is free; --port is taken at its word."""
    home = Home(tmp_path)
    with shown(home, "http://127.0.0.1:9") as first, shown(home, "http://127.0.0.1:9") as second:
        assert second.url != first.url
        taken = first.url.rpartition(":")[2]
        assert f"port {taken} is taken by" in second.lines[-2]
        assert "with conversations of its own" in second.lines[-2]
        chosen = home.dure("ui", "http://127.0.0.1:9", "--port", taken)
        assert f"port {taken} is taken by" in error_line(chosen.stderr)
    with shown(home, "http://127.0.0.1:9") as third:
        assert third.url == first.url
    with shown(home, "http://127.0.0.1:9", "--port", "0") as any_port:
        assert any_port.url != first.url


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    """No server, no address, nobody there."""
    home = Home(tmp_path)
    assert "no server runs here" in error_line(home.dure("ui").stderr)
    assert "is no address" in error_line(home.dure("ui", "ftp://x").stderr)
    with shown(home, "http://127.0.0.1:9") as page:
        answer = page.get("/v1/models")
        assert answer.status_code == 502
        assert "cannot be reached" in answer.text
