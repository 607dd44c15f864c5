"""`dure ui`: the page of a server, here or elsewhere, without its key in the browser."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.dure_process import error_line
from tests.support.dure_server import GREEDY, Home, Serving, end

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


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    """No server, no address, nobody there."""
    home = Home(tmp_path)
    assert "no server runs here" in error_line(home.dure("ui").stderr)
    assert "is no address" in error_line(home.dure("ui", "ftp://x").stderr)
    with shown(home, "http://127.0.0.1:9") as page:
        answer = page.get("/v1/models")
        assert answer.status_code == 502
        assert "cannot be reached" in answer.text
