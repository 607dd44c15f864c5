"""Upstreams that fail in every way: what a client gets, and who answers instead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.routing import Routing, routing, upstream
from tests.support.scripted_upstream import EVENTS, WHOLE, Mode, ScriptedUpstream, scripted

CHAT = {"messages": [{"role": "user", "content": "Ring it."}], "max_tokens": 4}
WAIT_S = 30.0  # detects a hang; nothing is measured with it


@contextmanager
def pair(
    directory: Path, first: Mode, second: Mode = "whole", rules: str = "[route]\n", **more: object
) -> Iterator[tuple[Routing, ScriptedUpstream, ScriptedUpstream]]:
    """Run a router before two upstreams; it prefers the first, as the second takes money."""
    with scripted(mode=first) as one, scripted(mode=second) as two:
        rules += upstream("one", one.url, measure=False, **more)
        rules += upstream("two", two.url, usd_per_million_answer_tokens=1e6)
        with routing(directory, rules) as router:
            yield router, one, two


def ask(router: Routing, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {**CHAT, **more}
    return httpx.post(f"{router.url}{path}", json=body, headers=headers, timeout=WAIT_S)


def n_asked(one: ScriptedUpstream) -> int:
    """How many requests it got; one that is sent again on a new connection is the same."""
    return len({seen.headers["x-request-id"] for seen in one.requests})


def until(url: str, state: str) -> None:
    """Wait until the router knows that the first upstream is so."""
    give_up = time.monotonic() + WAIT_S
    while httpx.get(f"{url}/health").json()["upstreams"]["one"] != state:
        assert time.monotonic() < give_up, f"it is never {state}"
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["dies-before", "busy", "loading"])
def test_who_has_not_begun_to_answer_is_passed_over(tmp_path: Path, mode: Mode) -> None:
    """The client gets the other's answer, and sees whose it is."""
    with pair(tmp_path, mode) as (router, one, two):
        answer = ask(router)
        assert answer.content == WHOLE
        assert answer.headers["x-route-target"] == "two"
        assert (n_asked(one), n_asked(two)) == (1, 1)
        ask(router)
        if mode != "dies-before":  # it rests for as long as it said
            assert n_asked(one) == 1


def test_an_answer_that_has_begun_is_ended_by_an_error(tmp_path: Path) -> None:
    """Nobody else begins it anew: the first words stand, and the stream says that it broke off."""
    with pair(tmp_path, "dies-after") as (router, _, two):
        answer = ask(router, stream=True)
        assert answer.content.startswith(EVENTS[0] + b"data: ")
        assert b"broke off: one closed the connection" in answer.content
        assert two.requests == []
        answer = ask(router, "/v1/messages", stream=True)
        assert b"event: error\ndata: " in answer.content


COMMENT = b": keep-alive\n\n"


def test_a_stream_of_comments_goes_on_elsewhere(tmp_path: Path) -> None:
    """They keep the client waiting, and say nothing: if the upstream dies, the other one answers."""
    with pair(tmp_path, "dies-after", "stream") as (router, one, two):
        one.pieces = [COMMENT[:5]]
        two.pieces = [COMMENT, *EVENTS]
        answer = ask(router, stream=True)
        assert answer.status_code == 200
        told = COMMENT[:5] + b"\n\n: answered by two\n\n" + COMMENT
        assert answer.content == told + b"".join(EVENTS)
        router.stop()
        lines = router.log()
        assert [line.target for line in lines] == ["one", "two"]
        outcomes = [line.outcome for line in lines if line.outcome]
        assert [(one.whole, one.first_s > 0) for one in outcomes] == [(False, False), (True, True)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_after_comments_an_error_is_an_event(tmp_path: Path, path: str) -> None:
    """The status has been sent: what the other upstream says, or that nobody is left, ends the stream."""
    event = b"event: error\n" if path == "/v1/messages" else b""
    with pair(tmp_path, "dies-after", "fault") as (router, one, two):
        one.pieces = [COMMENT]
        answer = ask(router, path, stream=True)
        told = COMMENT + event + b'data: {"error":{"message":"a bug"}}\n\n'
        assert (answer.status_code, answer.content) == (200, told)
        two.close()
        answer = ask(router, path, stream=True)
        assert answer.content.startswith(COMMENT + event + b'data: {"')
        assert b"no upstream answers now (one closed the connection" in answer.content


def test_an_event_after_comments_is_the_beginning(tmp_path: Path) -> None:
    """Nobody else begins the answer anew."""
    with pair(tmp_path, "dies-after", "stream") as (router, one, two):
        one.pieces = [COMMENT + EVENTS[0]]
        answer = ask(router, stream=True)
        assert answer.content.startswith(COMMENT + EVENTS[0] + b'data: {"error"')
        assert two.requests == []


def test_a_refusal_of_the_upstream_reaches_the_client(tmp_path: Path) -> None:
    """A mistake of the client's is answered by the first, and asked of nobody else; so is a fault."""
    with pair(tmp_path, "fault") as (router, _, two):
        answer = ask(router)
        assert (answer.status_code, answer.content) == (500, b'{"error":{"message":"a bug"}}')
        assert two.requests == []


def test_if_all_are_busy_the_client_gets_what_the_last_one_said(tmp_path: Path) -> None:
    """With its Retry-After; then, while both rest, the router's own."""
    with pair(tmp_path, "busy", "busy") as (router, one, two):
        answer = ask(router)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
        assert answer.headers["x-route-target"] == "two"
        again = ask(router)
        assert again.status_code == 503
        assert again.headers["x-route-reason"] == "down"
        assert 0 < int(again.headers["retry-after"]) <= 60
        assert (n_asked(one), n_asked(two)) == (1, 1)


def test_who_keeps_failing_rests(tmp_path: Path) -> None:
    """After three failures in a row it is not asked for a while."""
    with pair(tmp_path, "dies-before") as (router, one, two):
        for _ in range(5):
            assert ask(router).status_code == 200
        assert (n_asked(one), n_asked(two)) == (3, 5)


def test_who_is_gone_is_found_again(tmp_path: Path) -> None:
    """An upstream that is switched off is passed over at once, and gets requests again when it is back."""
    with scripted() as one, scripted() as two:
        rules = upstream("one", one.url, measure=False)
        rules += upstream("two", two.url, usd_per_million_answer_tokens=1e6)
        with routing(tmp_path, rules) as router:
            assert ask(router).headers["x-route-target"] == "one"
            port = int(one.url.rpartition(":")[2])
            one.close()
            assert ask(router).headers["x-route-target"] == "two"
            with scripted(port=port):
                until(router.url, "up")
                assert ask(router).headers["x-route-target"] == "one"


def test_an_upstream_that_hangs_is_given_up(tmp_path: Path) -> None:
    """After silence-s the other one answers."""
    with pair(tmp_path, "hangs", rules="[route]\nsilence-s = 0.5\n") as (router, one, _):
        assert ask(router).headers["x-route-target"] == "two"
        assert len(one.requests) == 1


def test_a_connection_that_is_closed_after_a_stream_is_not_used_again(tmp_path: Path) -> None:
    """The upstream does not say so before, and closes it just when the next request comes."""
    with scripted(mode="stream-and-close") as one:
        rules = upstream("one", one.url, measure=False)
        with routing(tmp_path, rules) as router, httpx.Client(timeout=WAIT_S) as client:
            for _ in range(20):
                body = {**CHAT, "stream": True}
                answer = client.post(f"{router.url}/v1/chat/completions", json=body)
                assert answer.content == b"".join(EVENTS)
            assert len(one.requests) == 20


def test_hanging_up_ends_the_request_upstream(tmp_path: Path) -> None:
    """The upstream sees its connection close, in the middle of a stream and before it begins."""
    with pair(tmp_path, "endless") as (router, one, _):
        url = f"{router.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={**CHAT, "stream": True}, timeout=WAIT_S) as answer:
            assert next(answer.iter_raw()).startswith(EVENTS[0])
        assert one.left.wait(WAIT_S)
        log = router.stop()
        assert "Traceback" not in log
        assert [line.outcome.whole for line in router.log() if line.outcome] == [False]


def test_a_named_target_is_not_replaced(tmp_path: Path) -> None:
    """Who names an upstream gets its answer or its failure, by header and by the model's name."""
    with pair(tmp_path, "dies-before") as (router, _, two):
        for more in ({"headers": {"x-route-target": "one"}}, {"model": "small@one"}):
            answer = ask(router, **more)
            assert (answer.status_code, answer.headers["x-route-reason"]) == (503, "down")
        assert two.requests == []
        answer = ask(router, model="small@two")
        assert answer.headers["x-route-reason"] == "explicit"
        assert b'"model":"small"' in two.requests[0].body


def test_a_stopping_router_ends_its_streams(tmp_path: Path) -> None:
    """At its deadline a stream gets an error, and the upstream is left."""
    with (
        scripted(mode="endless") as one,
        routing(tmp_path, upstream("one", one.url), "--deadline", "0.5") as router,
    ):
        url = f"{router.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={**CHAT, "stream": True}, timeout=WAIT_S) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            router.process.terminate()
            assert b"the server is stopping" in b"".join(pieces)
        assert one.left.wait(WAIT_S)


def test_an_upstream_that_tells_nonsense_of_itself_is_watched_still(tmp_path: Path) -> None:
    """Lists and figures of another kind than expected are as good as none."""
    with scripted() as one:
        one.models_page = b'{"data": {"id": 3}}'
        with routing(tmp_path, upstream("one", one.url)) as router:
            assert ask(router).content == WHOLE
            one.close()
            until(router.url, "down")
