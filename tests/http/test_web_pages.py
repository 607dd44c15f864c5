"""Web pages of others before a server without keys: refused by what a browser tells of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.guarded_server import Serving, serving

OTHER = {"origin": "https://page.example"}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """It wants no key, and listens on this machine alone."""
    with serving(tmp_path_factory.mktemp("open") / "log") as found:
        yield found


@pytest.mark.parametrize(
    "host",
    [
        "page.example",
        "page.example:8080",
        "127.0.0.1.page.example",
        "wifi",
        "a.lan",
        "a.internal",
        "localhost.example",
    ],
)
def test_a_name_of_the_internet_is_refused(open_server: Serving, host: str) -> None:
    """A page whose name leads here while it is open reads nothing."""
    answer = httpx.get(f"{open_server.url}/x", headers={"host": host})
    assert answer.status_code == 403
    assert "--cors-origin" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "host",
    ["localhost:1", "localhost.", "a.localhost", "127.0.0.1", "[::1]:80", socket.gethostname()],
)
def test_names_of_this_machine_are_answered(open_server: Serving, host: str) -> None:
    """Nobody else decides where these lead."""
    answer = httpx.get(f"{open_server.url}/x", headers={"host": host})
    assert answer.status_code == 200


def test_another_page_cannot_even_ask(open_server: Serving) -> None:
    """It could not read the answer, but the work would be done."""
    assert httpx.post(f"{open_server.url}/x", headers=OTHER).status_code == 403
    assert httpx.post(f"{open_server.url}/x", headers={"origin": "null"}).status_code == 403
    assert httpx.post(f"{open_server.url}/x", headers={"origin": "http://[x"}).status_code == 403
    picture = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert httpx.get(f"{open_server.url}/x", headers=picture).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert httpx.get(f"{open_server.url}/x", headers=link).status_code == 200
    own = {"origin": open_server.url}
    assert httpx.post(f"{open_server.url}/x", headers=own).status_code == 200
    assert httpx.post(f"{open_server.url}/x").status_code == 200


def test_pages_that_were_named_may_ask(tmp_path: Path) -> None:
    """Also by the name of their own host, as behind a proxy."""
    with serving(tmp_path / "log", cors_origins=["https://page.example", "localhost"]) as server:
        assert httpx.post(f"{server.url}/x", headers=OTHER).status_code == 200
        local = {"origin": "http://localhost:3000"}
        assert httpx.post(f"{server.url}/x", headers=local).status_code == 200
        proxied = {"host": "page.example", **OTHER}
        assert httpx.post(f"{server.url}/x", headers=proxied).status_code == 200
        stranger = {"origin": "https://other.example"}
        assert httpx.post(f"{server.url}/x", headers=stranger).status_code == 403


def test_a_key_is_enough(tmp_path: Path) -> None:
    """A server with keys is asked under any name: its key tells who may."""
    with serving(tmp_path / "log", api_keys=["anna:sk-web-0123456789"]) as server:
        key = {"authorization": "Bearer sk-web-0123456789", "host": "page.example", **OTHER}
        assert httpx.post(f"{server.url}/x", headers=key).status_code == 200
