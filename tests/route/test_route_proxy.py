"""A router before two real servers: every dialect, streams, models, keys, limits, and the log."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import psutil
import pytest

from dure.http.access_log import RequestRecord
from dure.http.guards.asgi import Message
from dure.route.decision_log import DecisionLog
from dure.route.exchange import Exchange
from dure.route.learning import Learned
from dure.route.measuring import measure
from dure.route.router import Router
from dure.route.upstream import RouteRules, Upstream
from dure.route.watching import look
from tests.support.dure_server import GREEDY, MESSAGES, Home, Serving
from tests.support.routing import Routing, routing, upstream
from tests.support.same_answers import plain
from tests.support.scripted_upstream import EVENTS, ScriptedUpstream, scripted

WAIT_S = 60.0  # detects a hang; nothing is measured with it
HUSH = "sk-upstream-hush-0123456789"
CLIENT = "sk-client-hush-0123456789"
SHORT = {**GREEDY, "max_tokens": 6}

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": SHORT,
    "/chat/completions": SHORT,
    "/v1/completions": {"prompt": "The bell", "temperature": 0, "max_tokens": 6},
    "/completion": {"prompt": "The bell", "temperature": 0, "n_predict": 6},
    "/v1/responses": {"input": "Ring it.", "temperature": 0, "max_output_tokens": 6},
    "/v1/messages": {"model": "dure-demo", **SHORT},
    "/api/chat": {
        "model": "dure-demo",
        "messages": MESSAGES,
        "options": {"num_predict": 6, "temperature": 0},
    },
    "/api/generate": {
        "model": "dure-demo",
        "prompt": "The bell",
        "options": {"num_predict": 6, "temperature": 0},
    },
    "/v1/embeddings": {"input": "The bell"},
    "/api/embed": {"model": "dure-demo", "input": "The bell"},
    "/tokenize": {"content": "The bell rings."},
    "/apply-template": {"messages": MESSAGES},
    "/v1/messages/count_tokens": {"model": "dure-demo", "messages": MESSAGES},
}
STREAMED = [path for path in BODIES if re.search("chat|compl|resp|messages$|generate", path)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Serving]]:
    """Two servers of the demo model; the second wants a key."""
    directory = tmp_path_factory.mktemp("servers")
    keys = directory / "keys"
    keys.write_text(f"router:{HUSH}\n")
    keys.chmod(0o600)
    home = Home(directory)
    with home.serving() as one, home.serving("--api-key-file", keys) as two:
        yield one, two


@pytest.fixture(scope="module")
def router(
    servers: tuple[Serving, Serving], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Routing]:
    """A router before both, which wants a key of its own."""
    directory = tmp_path_factory.mktemp("router")
    for name, text in (("hush", HUSH), ("keys", f"anna:{CLIENT}\nben:{CLIENT}-2")):
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    rules = '[route]\nprivate-keys = ["ben"]\n' + upstream("one", servers[0].url)
    rules += upstream("two", servers[1].url, key_file=str(directory / "hush"))
    with routing(directory, rules, "--api-key-file", directory / "keys") as found:
        yield found


def ask(router: Routing, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    with_key = {"authorization": f"Bearer {CLIENT}", **headers}
    return httpx.post(f"{router.url}{path}", json=body, headers=with_key, timeout=WAIT_S)


def shape(value: Any) -> Any:
    """The names in a JSON value, without what they hold."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


# ---------------------------------------------------------------- dialects


@pytest.mark.parametrize("path", BODIES)
def test_every_dialect_is_answered_as_by_the_server_itself(
    router: Routing, servers: tuple[Serving, Serving], path: str
) -> None:
    """Whole answers have the same text and the same names."""
    body = {**BODIES[path], **({"stream": False} if path in STREAMED else {})}
    direct = httpx.post(f"{servers[0].url}{path}", json=body, timeout=WAIT_S)
    routed = ask(router, path, body, **{"x-route-target": "one"})
    assert routed.status_code == 200, routed.text
    assert routed.headers["x-route-target"] == "one"
    assert routed.headers["content-type"] == direct.headers["content-type"]
    assert shape(routed.json()) == shape(direct.json())


@pytest.mark.parametrize("path", STREAMED)
def test_every_dialect_streams_as_the_server_itself(
    router: Routing, servers: tuple[Serving, Serving], path: str
) -> None:
    """Event for event, but for ids and times; the headers too."""
    body = {**BODIES[path], "stream": True}
    httpx.post(f"{servers[0].url}{path}", json=body, timeout=WAIT_S)  # both find a cached prompt
    direct = httpx.post(f"{servers[0].url}{path}", json=body, timeout=WAIT_S)
    routed = ask(router, path, body, **{"x-route-target": "one"})
    assert plain(routed.content) == plain(direct.content)
    ours = {"x-route-target", "x-route-reason"}
    assert set(routed.headers) - ours == set(direct.headers)


def test_streams_are_the_upstreams_byte_for_byte(tmp_path: Path) -> None:
    """Whatever the bytes are, and however they come in pieces; so are headers."""
    chance = random.Random(7)
    with scripted(mode="stream") as one, routing(tmp_path, upstream("one", one.url)) as router:
        for _ in range(40):
            pieces = [chance.randbytes(chance.choice((1, 3, 500))) for _ in range(5)]
            one.pieces = [*pieces, chance.randbytes(chance.choice((1, 300_000)))]
            answer = httpx.post(f"{router.url}/v1/chat/completions", json={"stream": True})
            assert answer.content == b"".join(one.pieces)
            assert answer.headers["x-of-upstream"] == "yes"


def test_the_body_goes_on_as_it_came(tmp_path: Path) -> None:
    """Blanks, order, numbers and fields that nobody knows; only a model that was left to us is added."""
    body = b'{ "messages" : [ ] ,"seed":1e2,  "model":"small","x":{"y":[1.0,"\\u00e9"]}}'
    with scripted() as one, routing(tmp_path, upstream("one", one.url)) as router:
        url = f"{router.url}/v1/chat/completions"
        assert httpx.post(url, content=body).status_code == 200
        assert one.requests[0].body == body
        assert httpx.post(url, content=body.replace(b"small", b"auto")).status_code == 200
        assert json.loads(one.requests[1].body) == json.loads(body)
        assert httpx.post(url, content=b"[1]").status_code == 400
        assert httpx.post(url, content=b'{"model":3}').status_code == 400


def test_the_official_clients_work(router: Routing) -> None:
    """OpenAI's, Anthropic's and Ollama's, streaming."""
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key=CLIENT) as one:
        names = [model.id for model in one.models.list()]
        assert names == ["auto", "dure-demo"]
        chunks = one.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "Tell me a story."}],
            stream=True,
            max_tokens=6,
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    with (
        anthropic.Anthropic(base_url=router.url, api_key=CLIENT) as two,
        two.messages.stream(
            model="dure-demo@two",
            messages=MESSAGES,  # type: ignore[arg-type]
            max_tokens=6,
        ) as stream,
    ):
        assert stream.get_final_text()
    with ollama.Client(router.url, headers={"authorization": f"Bearer {CLIENT}"}) as three:
        assert [model.model for model in three.list().models] == ["auto", "dure-demo"]
        parts = three.chat("auto", MESSAGES, stream=True, options={"num_predict": 6})
        assert "".join(part.message.content or "" for part in parts)


def test_models_of_all_upstreams_are_one_list(tmp_path: Path) -> None:
    """Each once, with who serves it; what nobody serves is 404, and names go where they are served."""
    with scripted(("small", "large")) as one, scripted(("large", "huge")) as two:
        rules = upstream("one", one.url) + upstream("two", two.url)
        with routing(tmp_path, rules) as router:
            models = httpx.get(f"{router.url}/v1/models").json()["data"]
            assert {model["id"]: model["upstreams"] for model in models} == {
                "auto": ["one", "two"],
                "small": ["one"],
                "large": ["one", "two"],
                "huge": ["two"],
            }
            url = f"{router.url}/v1/chat/completions"
            huge = httpx.post(url, json={"model": "huge", "messages": []})
            assert huge.headers["x-route-target"] == "two"
            missing = httpx.post(url, json={"model": "none", "messages": []})
            assert (missing.status_code, missing.headers["x-route-reason"]) == (404, "no-model")
            assert missing.headers["x-should-retry"] == "false"


# ---------------------------------------------------------------- guards and secrets


def test_any_name_of_a_model_is_counted_as_one_address(tmp_path: Path) -> None:
    """Whoever asks for many makes no figure for each."""
    with scripted() as one, routing(tmp_path, upstream("one", one.url, measure=False)) as router:
        for name in ("a", "b"):
            assert httpx.get(f"{router.url}/v1/models/{name}").status_code == 404
        httpx.get(f"{router.url}/v1/models")
        found = set(re.findall(r'[{,]path="([^"]*)"', httpx.get(f"{router.url}/metrics").text))
        assert found == {"/v1/models", "/v1/models/{model:path}"}


def test_a_running_request_is_known_by_its_upstream(tmp_path: Path) -> None:
    """Who shows it before it has ended reads its record: where it went, and why."""

    async def seen() -> dict[str, Any]:
        rules = RouteRules(upstreams=(Upstream(name="one", url=one.url, measure=False),))
        router = Router(rules, Learned())
        await look(router.upstreams["one"])
        messages: asyncio.Queue[Message] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": json.dumps(GREEDY).encode()})
        record = RequestRecord("1")
        path = "/v1/chat/completions"
        scope = {"type": "http", "path": path, "headers": [], "state": {"record": record}}

        async def send(_: Message) -> None:
            pass

        with DecisionLog(tmp_path / "log") as log:
            exchange = Exchange(router, log, scope, messages.get, send)
            task = asyncio.create_task(exchange.run())
            assert await asyncio.to_thread(one.answering.wait, 30)
            found = dict(record.extra)
            messages.put_nowait({"type": "http.disconnect"})
            await task
        return found

    with scripted(models=("dure-demo",), mode="hangs") as one:
        found = asyncio.run(seen())
        assert found["route_target"] == "one"
        assert found["route_reason"]


def test_the_guards_of_a_server_hold(router: Routing) -> None:
    """No key, no answer, in the shape of each dialect; health is open."""
    assert httpx.get(f"{router.url}/health").status_code == 200
    assert httpx.get(f"{router.url}/v1/models").status_code == 401
    refused = httpx.post(f"{router.url}/v1/messages", json={})
    assert (refused.status_code, refused.json()["type"]) == (401, "error")


def test_rates_hold_for_requests_and_tokens(tmp_path: Path) -> None:
    """A key's limit counts what upstreams answered."""
    with (
        scripted() as one,
        routing(tmp_path, upstream("one", one.url), "--tokens-per-minute", "15") as router,
    ):
        url, body = f"{router.url}/v1/chat/completions", {"model": "small"}
        statuses = [httpx.post(url, json=body).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]  # 9 tokens each


def test_private_requests_stay_in_the_house(tmp_path: Path) -> None:
    """By key and by header, though the pod outside is quicker; nothing of them reaches it."""
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{CLIENT}\nben:{CLIENT}-2")
    keys.chmod(0o600)
    with scripted() as home, scripted() as pod:
        rules = '[route]\nprivate-keys = ["ben"]\n' + upstream("home", home.url, measure=False)
        rules += upstream("pod", pod.url, kind="pod", answer_per_s=1e6)
        with routing(tmp_path, rules, "--api-key-file", keys) as router:

            def target(key: str, **headers: str) -> str:
                body = {"messages": MESSAGES, "model": headers.pop("model", "auto")}
                answer = httpx.post(
                    f"{router.url}/v1/chat/completions",
                    json=body,
                    headers={"authorization": f"Bearer {key}", **headers},
                )
                return str(answer.headers.get("x-route-target", answer.headers["x-route-reason"]))

            assert target(CLIENT) == "pod"
            n_asked = len(pod.requests)
            assert target(f"{CLIENT}-2") == "home"
            assert home.requests[-1].headers["x-route-private"] == "house", "it may be a router too"
            assert target(CLIENT, **{"x-route-private": "house"}) == "home"
            assert target(f"{CLIENT}-2", model="small@pod") == "private"
            assert len(pod.requests) == n_asked


def test_no_secret_is_ever_told(
    router: Routing, servers: tuple[Serving, Serving], tmp_path: Path
) -> None:
    """Neither key is in an answer, a log, the metrics, a process, or with another upstream."""
    seen = [ask(router, "/v1/chat/completions", SHORT, **{"x-route-target": "two"})]
    assert seen[0].status_code == 200, "the upstream got its key"
    seen.append(ask(router, "/v1/chat/completions", {"model": "none"}))
    for path in ("/metrics", "/v1/models", "/health"):
        url = f"{router.url}{path}"
        seen.append(httpx.get(url, headers={"authorization": f"Bearer {CLIENT}"}))
    texts = [f"{answer.headers} {answer.text}" for answer in seen]
    process = psutil.Process(router.process.pid)
    for one in (process, *process.children(recursive=True)):
        texts += [" ".join(one.cmdline()), str(one.environ())]
    texts += router.lines
    texts += [file.read_text() for file in router.directory.rglob("*") if file.is_file()]
    with scripted() as tap:
        (tmp_path / "hush").write_text(HUSH)
        (tmp_path / "hush").chmod(0o600)
        rules = upstream("tap", tap.url) + upstream(
            "two", servers[1].url, key_file=f"{tmp_path}/hush"
        )
        with routing(tmp_path / "router", rules, "--api-key", f"anna:{CLIENT}") as other:
            ask(other, "/v1/chat/completions", SHORT, **{"x-route-target": "tap"})
            texts += [str(request) for request in tap.requests]
            texts.append(other.stop())
            texts += [file.read_text() for file in other.directory.rglob("*") if file.is_file()]
    assert [text for text in texts if HUSH in text or CLIENT in text] == []


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The router does not start, and says what to do; the key is not in the error."""
    (tmp_path / "hush").write_text(HUSH)
    (tmp_path / "hush").chmod(0o644)
    (tmp_path / "rules.toml").write_text(
        upstream("one", "http://127.0.0.1:1", key_file=f"{tmp_path}/hush")
    )
    done = Home(tmp_path).dure("route", "serve", "--rules", tmp_path / "rules.toml", "--port", "0")
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    assert HUSH not in done.stderr


# ---------------------------------------------------------------- decisions


def test_a_new_upstream_is_measured_before_it_is_asked(servers: tuple[Serving, Serving]) -> None:
    """Two requests of the router's own tell its speeds, also of one that does not chat.

    One that fails to answer stays unknown.
    """
    home = Upstream(name="one", url=servers[0].url)
    dead = Upstream(name="two", url="http://127.0.0.1:1")

    async def measured(no_chat: ScriptedUpstream) -> list[bool]:
        mute = Upstream(name="three", url=no_chat.url)
        router = Router(RouteRules(upstreams=(home, dead, mute)), Learned())
        for live in router.upstreams.values():
            await look(live)
            await measure(live)
            live.client.close()
        ones = router.upstreams.values()
        return [live.learned.speed(live.upstream).measured for live in ones]

    with scripted(mode="stream") as no_chat:
        no_chat.absent = ("/v1/chat/completions",)
        no_chat.pieces = (b'data: {"timings":{"prompt_ms":4.0,"predicted_ms":9.0}}\n\n', *EVENTS)
        assert asyncio.run(measured(no_chat)) == [True, False, True]


def test_a_prompt_near_the_limit_is_counted_exactly(
    router: Routing, servers: tuple[Serving, Serving]
) -> None:
    """An estimate would let it in or keep it out wrongly; the upstream's own count decides."""
    text = "The bell rings over the village. "
    n_ctx = httpx.get(f"{servers[0].url}/props").json()["default_generation_settings"]["n_ctx"]

    def count(n: int) -> int:
        body = {"messages": [{"role": "user", "content": text * n}]}
        found = httpx.post(f"{servers[0].url}/v1/chat/completions/input_tokens", json=body)
        return int(found.json()["input_tokens"])

    each = count(11) - count(10)
    most = (n_ctx - 24) // each
    for n, status in ((most, 200), (most + 6, 400)):
        body = {"messages": [{"role": "user", "content": text * n}], "max_tokens": 1}
        answer = ask(router, "/v1/chat/completions", body)
        assert answer.status_code == status, (n, count(n), n_ctx, answer.text[:300])
    assert f"{count(most + 6)} tokens > {n_ctx} maximum" in answer.json()["error"]["message"]
