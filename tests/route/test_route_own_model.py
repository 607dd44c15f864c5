"""`dure serve` with rules: its own model is one of the upstreams, and the rest of its API is there."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dure.http.guards.asgi import Receive, Scope, Send
from dure.route.client import UpstreamError
from dure.route.here import Here
from tests.support.dure_process import as_json, error_line
from tests.support.dure_server import DEMO, GREEDY, Home, Serving
from tests.support.routing import routing, upstream
from tests.support.scripted_upstream import WHOLE, ScriptedUpstream, scripted

WAIT_S = 60.0  # detects a hang; nothing is measured with it
RUNS_NONE = re.compile(r"^dure_requests_running\S* 0", re.MULTILINE)
CHAT = "/v1/chat/completions"
KEYS = "anna:sk-anna-0123456789\nben:sk-ben-0123456789\n"
ANNA = {"authorization": "Bearer sk-anna-0123456789"}
_CHANGING = re.compile(
    rb'"(?:id|created|timings)":\s*(?:"[^"]*"|[0-9.]+|\{[^}]*\})'  # differs from answer to answer
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[ScriptedUpstream]:
    with scripted(("large",)) as one:
        yield one


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, cloud: ScriptedUpstream) -> Home:
    """A user who wrote the rules into the configuration file."""
    directory = tmp_path_factory.mktemp("own")
    found = Home(directory)
    rules = '[route]\nprivate-keys = ["ben"]\n' + upstream("own", "here")
    rules += upstream("cloud", cloud.url, kind="cloud", usd_per_million_answer_tokens=1e6)
    (directory / "dure.toml").write_text(rules)
    (directory / "keys").write_text(KEYS)
    (directory / "keys").chmod(0o600)
    found.dure.environment |= {
        "DURE_ROUTE": str(directory / "route"),
        "DURE_CONFIG": str(directory / "dure.toml"),
    }
    return found


@pytest.fixture(scope="module")
def server(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`dure serve` of the demo model, before which a router stands."""
    keys = Path(home.dure.environment["DURE_CONFIG"]).with_name("keys")
    with home.serving("--api-key-file", keys) as found:
        yield found


def ask(server: Serving, path: str = CHAT, **more: Any) -> httpx.Response:
    headers = {**ANNA, **more.pop("headers", {})}
    body = {**GREEDY, "max_tokens": 6, **more}
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=WAIT_S)


def test_the_own_model_answers_as_without_a_router(server: Serving, tmp_path: Path) -> None:
    """Whole and streamed, byte for byte but for ids and times; and it is told who answers."""
    with Home(tmp_path).serving() as alone:
        bodies: tuple[dict[str, Any], ...] = ({}, {"stream": True})
        for body in bodies:
            wanted = httpx.post(f"{alone.url}{CHAT}", json={**GREEDY, "max_tokens": 6, **body})
            found = ask(server, **body)
            assert found.headers["x-route-target"] == "own"
            content = re.sub(rb"chatcmpl-\w+", b"", _CHANGING.sub(b"", found.content))
            known = re.sub(rb"chatcmpl-\w+", b"", _CHANGING.sub(b"", wanted.content))
            assert content.replace(b'"cached_tokens"', b"") == known.replace(
                b'"cached_tokens"', b""
            )


def test_other_upstreams_are_asked_by_name(server: Serving, cloud: ScriptedUpstream) -> None:
    """A model that only another one serves; a private key never gets there."""
    assert ask(server, model="large").content == WHOLE
    ben = {"authorization": "Bearer sk-ben-0123456789"}
    assert ask(server, model="large@cloud", headers=ben).status_code == 403
    assert ask(server, headers=ben).headers["x-route-target"] == "own"


def test_models_are_those_of_all(server: Serving) -> None:
    """And what is not routed is answered by the server itself: an own model's page, slots, the docs."""
    models = httpx.get(f"{server.url}/v1/models", headers=ANNA).json()["data"]
    assert [one["id"] for one in models] == ["auto", "dure-demo", "large"]
    assert httpx.get(f"{server.url}/v1/models/dure-demo", headers=ANNA).json()["id"] == "dure-demo"
    assert len(httpx.get(f"{server.url}/slots", headers=ANNA).json()) == 4
    assert httpx.get(f"{server.url}/docs").status_code == 200


def test_the_figures_are_of_both(server: Serving) -> None:
    """The engine's and the router's, each metric once; the access log names key and target."""
    ask(server)
    text = httpx.get(f"{server.url}/metrics", headers=ANNA).text
    types = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(types) == len(set(types))
    assert {"dure_route_requests_total", "dure_generated_tokens_total"} <= set(types)
    assert re.search(r'dure_route_requests_total\{reason="\w+",target="own"\} [1-9]', text)
    found = re.search(r'dure_key_generated_tokens_total\{key="anna"[^}]*\} (\S+)', text)
    assert found, "the engine knows whose request it is"
    assert float(found[1]) >= 6


def test_explain_asks_the_running_router(server: Serving, home: Home) -> None:
    """It knows the model of `dure serve`, which has no address; another key's privacy holds."""
    found = as_json(home.dure("route", "explain", "Hello", "--json"))
    assert found["router"] == server.url
    assert found["facts"]["own"]["models"] == ["dure-demo"]
    assert found["decision"]["target"] == "own"
    assert "cloud (a cloud)" in home.dure("route", "explain", "Hello", "--key", "ben").stdout
    answer = httpx.post(
        f"{server.url}/route/explain", json={"prompt": "Hello", "key": "ben"}, headers=ANNA
    )
    assert answer.json()["request"]["key"] == "anna", "a client asks in its own name alone"
    assert httpx.post(f"{server.url}/route/explain", json=[], headers=ANNA).status_code == 400


def test_a_client_that_hangs_up_ends_its_answer(server: Serving) -> None:
    """The engine stops generating."""
    body = {**GREEDY, "max_tokens": 4000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{server.url}{CHAT}", json=body, headers=ANNA) as answer:
        next(answer.iter_bytes())
    give_up = time.monotonic() + WAIT_S
    while not re.search(RUNS_NONE, httpx.get(f"{server.url}/metrics", headers=ANNA).text):
        assert time.monotonic() < give_up, "it goes on for nobody"
        time.sleep(0.05)


def test_every_request_is_answered_while_the_engine_is_gone(server: Serving) -> None:
    """The engine is started anew meanwhile; who answers is a matter of time and money."""
    server.engine().kill()
    give_up = time.monotonic() + WAIT_S
    while True:
        answer = ask(server)
        assert answer.status_code == 200, answer.text
        health = httpx.get(f"{server.url}/health").json()["upstreams"]
        if answer.headers["x-route-target"] == "own" and health["own"] == "up":
            return
        assert time.monotonic() < give_up, "it never comes back"


def test_rules_and_commands_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A router without a model of its own, and a server that its rules do not name."""
    dure = Home(tmp_path).dure
    own, other = tmp_path / "own.toml", tmp_path / "other.toml"
    own.write_text(upstream("own", "here"))
    other.write_text(upstream("board", "http://127.0.0.1:9"))
    assert "the model of `dure serve`" in error_line(dure("route", "serve", "--rules", own).stderr)
    assert 'url = "here"' in error_line(dure("serve", DEMO, "--rules", other).stderr)
    own.write_text(upstream("own", "here") + upstream("also", "here"))
    assert "two upstreams" in error_line(dure("route", "explain", "x", "--rules", own).stderr)
    own.write_text(upstream("own", "here", wake="d8:3a:dd:01:02:03", start_s=3))
    assert "is this very server" in error_line(dure("route", "explain", "x", "--rules", own).stderr)
    own.write_text(upstream("own", "here"))
    shown = dure("route", "explain", "x", "--rules", own)
    assert "does not run" in shown.stdout


def test_what_is_not_read_waits() -> None:
    """A long answer stands still until its reader takes it, and ends if the reader goes."""
    sent: list[int] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            sent.append(1)
        assert (await receive())["type"] == "http.disconnect"
        sent.append(0)

    async def read() -> None:
        answer = await Here(app).send("POST", "/x", [], b"")
        for _ in range(50):
            await asyncio.sleep(0)
        assert 0 < len(sent) < 10
        assert len(await answer.piece()) >= 100_000
        answer.abort()
        while sent[-1:] != [0]:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(read(), WAIT_S))


def test_an_application_that_ends_early_is_an_error() -> None:
    """As a connection that breaks off."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def read() -> None:
        answer = await Here(app).send("GET", "/x?a=1", [])
        with pytest.raises(UpstreamError, match="ended before"):
            await answer.body()

    asyncio.run(asyncio.wait_for(read(), WAIT_S))


def test_the_log_has_the_own_model_too(home: Home, tmp_path: Path) -> None:
    """As any upstream; replay works on it."""
    shown = as_json(home.dure("route", "log", "--json", "-n", "500"))
    assert {"own", "cloud"} <= {line.get("target", "") for line in shown}
    other = tmp_path / "other.toml"
    other.write_text(upstream("own", "here"))
    found = as_json(home.dure("route", "replay", "--with", other, "--json"))
    assert found["n_requests"] == len(shown)
    assert json.dumps(shown).count("goat") == 0


def test_a_router_without_own_model_explains_too(tmp_path: Path, cloud: ScriptedUpstream) -> None:
    """`dure route explain` finds it, without knowing its rules."""
    with routing(tmp_path, upstream("board", cloud.url, measure=False)) as router:
        home = Home(tmp_path)
        home.dure.environment["DURE_ROUTE"] = str(router.directory)
        found = as_json(home.dure("route", "explain", "Hello", "--json"))
        assert found["router"] == router.url
        assert found["decision"]["target"] == "board"
