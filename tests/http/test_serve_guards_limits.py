"""How often a caller may ask, and which web pages may call."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dure.http.guards.rate import Bucket, Rate
from tests.support.guarded_server import KEYS, serving, wait_for


def test_a_key_that_asks_too_often_is_429(tmp_path: Path) -> None:
    """With Retry-After; other keys, and reading, go on."""
    with serving(tmp_path / "log", api_keys=KEYS, requests_per_minute=3) as server:
        alice, bob = ({"x-api-key": key.partition(":")[2]} for key in KEYS)
        answers = [httpx.post(f"{server.url}/x", headers=alice) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [a.headers.get("x-ratelimit-remaining-requests") for a in answers[:3]] == list("210")
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        assert "x-should-retry" not in answers[3].headers
        assert httpx.post(f"{server.url}/x", headers=bob).status_code == 200
        assert httpx.get(f"{server.url}/x", headers=alice).status_code == 200


def test_a_key_that_uses_too_many_tokens_is_429(tmp_path: Path) -> None:
    """Tokens are charged when they are known: the answer after the one that took too many waits."""
    with serving(tmp_path / "log", tokens_per_minute=100) as server:
        assert httpx.post(f"{server.url}/tokens", content="[60, 90]").status_code == 200
        wait_for(lambda: httpx.post(f"{server.url}/tokens", content="[0, 0]").status_code == 429)
        late = httpx.post(f"{server.url}/tokens", content="[0, 0]")
        assert 25 <= int(late.headers["retry-after"]) <= 31


def test_a_bucket_holds_a_minutes_worth_and_fills_evenly() -> None:
    """Debts are waited for; a full bucket takes no more; one a minute is possible."""
    bucket = Bucket(Rate(60), 60, 0)
    bucket.take(100)
    assert bucket.wait_s(1, 0) == 41
    assert bucket.wait_s(1, 41) == 0
    bucket.fill(10_000)
    assert bucket.level == 60
    assert Bucket(Rate(0.5), Rate(0.5).capacity, 0).wait_s(1, 0) == 0


def test_no_page_may_call_unless_it_is_named(tmp_path: Path) -> None:
    """CORS is off by default; a named origin's preflight needs no key."""
    asked = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    with serving(tmp_path / "log") as server:
        closed = httpx.options(f"{server.url}/x", headers=asked)
        assert "access-control-allow-origin" not in closed.headers
    origins = ("https://chat.example",)
    with serving(tmp_path / "log", api_keys=KEYS, cors_origins=origins) as server:
        good = httpx.options(f"{server.url}/x", headers=asked)
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == "https://chat.example"
        evil = httpx.options(f"{server.url}/x", headers={**asked, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


@pytest.mark.parametrize(
    "page", ["http://localhost", "http://127.0.0.1:3000", "https://[::1]:8443"]
)
def test_localhost_lets_in_the_pages_of_this_machine_at_any_port(tmp_path: Path, page: str) -> None:
    """And no page whose name only begins or ends like it. Header names are as the standard writes them."""
    asked = {"origin": page, "access-control-request-method": "POST"}
    with serving(tmp_path / "log", cors_origins=("localhost",)) as server:
        good = httpx.options(f"{server.url}/x", headers=asked)
        assert (b"Access-Control-Allow-Origin", page.encode()) in good.headers.raw
        for other in ("http://localhost.evil.example", "http://notlocalhost", "http://127.0.0.11"):
            evil = httpx.options(f"{server.url}/x", headers={**asked, "origin": other})
            assert evil.status_code == 200
            assert "access-control-allow-origin" not in evil.headers
