"""Upstreams that do not have all addresses: who answers instead, and what the client gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from dure.route.addresses import Addresses
from dure.route.client import HttpClient
from tests.support.routing import Routing, routing, upstream
from tests.support.scripted_upstream import WHOLE, Mode, ScriptedUpstream, scripted

WAIT_S = 30.0  # detects a hang; nothing is measured with it
RESPONSES = "/v1/responses"
NOTHING = b'{"detail":"Nothing at /v1/responses"}'


@contextmanager
def pair(
    directory: Path, absent: tuple[str, ...] = (), mode: Mode = "whole"
) -> Iterator[tuple[Routing, ScriptedUpstream, ScriptedUpstream]]:
    """Run a router before two upstreams; it prefers the first, which lacks these addresses."""
    with scripted(mode=mode) as one, scripted() as two:
        one.absent = absent
        rules = upstream("one", one.url, measure=False)
        rules += upstream("two", two.url, usd_per_million_answer_tokens=1e6)
        with routing(directory, rules) as router:
            yield router, one, two


def ask(router: Routing, path: str = RESPONSES, **headers: str) -> httpx.Response:
    return httpx.post(f"{router.url}{path}", json={"input": "Hi"}, headers=headers, timeout=WAIT_S)


def paths(one: ScriptedUpstream) -> list[str]:
    return [seen.path for seen in one.requests]


def test_who_lacks_an_address_is_asked_there_once(tmp_path: Path) -> None:
    """The other one answers, from the first request on; other addresses stay with the first."""
    with pair(tmp_path, (RESPONSES,)) as (router, one, two):
        for _ in range(3):
            answer = ask(router)
            assert (answer.status_code, answer.content) == (200, WHOLE)
            assert answer.headers["x-route-target"] == "two"
        assert ask(router, "/v1/chat/completions").headers["x-route-target"] == "one"
        assert paths(one) == [RESPONSES, "/v1/chat/completions"]
        assert paths(two) == [RESPONSES] * 3
        router.stop()
        assert [line.facts["one"].speaks for line in router.log()] == [
            *(True, False),  # the first request, decided twice
            *(False, False),
            True,
        ]


def test_if_nobody_has_the_address_the_client_gets_what_the_upstream_said(tmp_path: Path) -> None:
    """The first time; then the router's own refusal, as quickly."""
    with pair(tmp_path, (RESPONSES,)) as (router, _, two):
        two.absent = (RESPONSES,)
        answer = ask(router)
        assert (answer.status_code, answer.content) == (404, NOTHING)
        assert answer.headers["x-route-reason"] == "no-dialect"
        again = ask(router)
        assert (again.status_code, again.headers["x-route-reason"]) == (404, "no-dialect")
        assert "two has no such address" in again.json()["error"]["message"]
        named = ask(router, **{"x-route-target": "one"})
        assert (named.status_code, named.headers["x-route-reason"]) == (404, "no-dialect")


def test_a_404_about_something_else_goes_to_the_client(tmp_path: Path) -> None:
    """An upstream that does not know the model has the address all the same, and is asked there again."""
    with pair(tmp_path, mode="not-found") as (router, one, two):
        for _ in range(2):
            answer = ask(router)
            assert (answer.status_code, answer.headers["x-route-target"]) == (404, "one")
            assert answer.json() == {"error": {"message": "no model is named so"}}
        assert (paths(one), paths(two)) == ([RESPONSES] * 2, [])
        router.stop()
        assert [line.outcome.whole for line in router.log() if line.outcome] == [True, True]


def test_a_question_that_was_not_answered_tells_nothing(tmp_path: Path) -> None:
    """Whether there is such an address is asked again at the next request."""
    with pair(tmp_path, (RESPONSES,)) as (router, one, _):
        one.probes_break = True
        assert ask(router).content == NOTHING
        one.probes_break = False
        assert ask(router).headers["x-route-target"] == "two"


def test_what_was_had_is_asked_again_as_what_was_lacked() -> None:
    """An address that a server has may be gone once another one answers there."""

    async def asked(url: str) -> list[bool]:
        client = HttpClient(url, ca_file=None, connect_s=WAIT_S, silence_s=WAIT_S)
        new, old = Addresses(), Addresses(believed_s=0.0)
        bodies = (b"no model is named so", NOTHING)
        try:
            return [
                await one.learn(client, [], RESPONSES, 404, body)
                for one in (new, old)
                for body in bodies
            ]
        finally:
            client.close()

    with scripted() as one:
        assert asyncio.run(asked(one.url)) == [False, False, False, True]


def test_who_does_not_support_it_is_passed_over(tmp_path: Path) -> None:
    """As llama-server says 501 for embeddings; it is no failure for which it rests."""
    with pair(tmp_path, mode="not-supported") as (router, one, _):
        for _ in range(4):
            assert ask(router, "/v1/embeddings").headers["x-route-target"] == "two"
        assert paths(one) == ["/v1/embeddings"]
        one.mode = "whole"
        assert ask(router, "/v1/chat/completions").headers["x-route-target"] == "one"


def test_a_restarted_upstream_is_asked_anew(tmp_path: Path) -> None:
    """It may be a newer one, or another program."""
    with pair(tmp_path, (RESPONSES,)) as (router, one, _):
        assert ask(router).headers["x-route-target"] == "two"
        port = int(one.url.rpartition(":")[2])
        one.close()
        until(router, "down")
        with scripted(port=port):
            until(router, "up")
            assert ask(router).headers["x-route-target"] == "one"


def until(router: Routing, state: str) -> None:
    """Wait until the router knows that the first upstream is so."""
    give_up = time.monotonic() + WAIT_S
    while httpx.get(f"{router.url}/health").json()["upstreams"]["one"] != state:
        assert time.monotonic() < give_up, f"it is never {state}"
        time.sleep(0.05)
