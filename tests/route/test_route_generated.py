"""Thousands of generated requests before three real upstreams, two of which are killed on the way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import get_args

import httpx

from dure.route.decision import RefusalCode, decide
from dure.route.decision_log import RoutedLine
from dure.route.learned_file import read_learned
from dure.route.rules_file import read_rules
from tests.support.dure_server import DEMO, WAIT_S, Home, Serving, end
from tests.support.generated_requests import CHATS, TEXTS, TOOL, Choices, Generated, generated
from tests.support.other_openai_server import N_CTX, OtherServer
from tests.support.routing import Routing, routing, upstream
from tests.support.same_answers import plain

N_REQUESTS = 2000
HUSH = "sk-upstream-hush-0123456789"
KEYS = {"anna": "sk-anna-0123456789", "ben": "sk-ben-0123456789"}
SEED = 21
DAILY_USD = 0.02  # of the third
REFUSALS = {*get_args(RefusalCode)}
CHOICES = Choices(
    models=("auto", "auto", "", "dure-demo", "dure-demo", "other-demo", "dure-demo@two", "none"),
    targets=("one", "two", "third", "nobody"),
    keys=tuple(KEYS),
    near=N_CTX,
)


class Killable:
    """A `dure serve` that can be started again at its address."""

    def __init__(self, home: Home) -> None:
        self._home, self._port = home, "0"
        self.serving = self.start()
        self.url = self.serving.url
        self._port = self.url.rpartition(":")[2]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.serving.process

    def start(self) -> Serving:
        """Start it, and wait for its model."""
        process = self._home.dure.start(
            *("serve", DEMO, "--port", self._port, "-t", "1", "--ctx", N_CTX),
            stderr=subprocess.PIPE,
        )
        self.serving = Serving(process)
        self.serving.wait_ready()
        return self.serving

    def close(self) -> None:
        """Kill it."""
        end(self.process)


class Three:
    """The upstreams, the router before them, and its clients."""

    def __init__(self, router: Routing, one: Killable, third: OtherServer) -> None:
        self.router, self.one, self.third = router, one, third
        limits = httpx.Limits(max_connections=8)
        self.client = httpx.Client(base_url=router.url, timeout=WAIT_S, limits=limits)
        no_kept = httpx.Limits(
            max_keepalive_connections=0
        )  # llama-server closes some without a word
        self.direct = httpx.Client(timeout=WAIT_S, limits=no_kept)

    def close(self) -> None:
        """Close the clients' connections."""
        self.client.close()
        self.direct.close()

    def ask(self, request: Generated) -> httpx.Response:
        headers = {"authorization": f"Bearer {KEYS[request.key]}", **request.headers}
        return self.client.post(request.path, json=request.body, headers=headers)

    def ask_all(self, requests: Sequence[Generated]) -> list[httpx.Response]:
        """Ask them, eight at once."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.ask, requests))

    def until_one_runs(self) -> None:
        """Wait until the router has sent a request, which is the only one."""
        headers = {"authorization": f"Bearer {KEYS['anna']}"}
        give_up = time.monotonic() + WAIT_S
        while "dure_requests_running 1.0" not in self.client.get("/metrics", headers=headers).text:
            assert time.monotonic() < give_up, "it is never sent"
            time.sleep(0.02)

    def until(self, name: str, state: str) -> None:
        """Wait until the router knows that an upstream is so."""
        give_up = time.monotonic() + WAIT_S
        while self.client.get("/health").json()["upstreams"][name] != state:
            assert time.monotonic() < give_up, f"{name} is never {state}"
            time.sleep(0.05)


@contextmanager
def three(directory: Path) -> Iterator[Three]:
    """Run two servers of ours and another's, which takes money and is no part of the house."""
    for name, text in (
        ("hush", f"router:{HUSH}"),
        ("key", HUSH),
        ("keys", "\n".join(f"{name}:{key}" for name, key in KEYS.items())),
    ):
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    home = Home(directory)
    with (
        closing(Killable(home)) as one,
        closing(OtherServer("other-demo")) as third,
        home.serving("--api-key-file", directory / "hush", "--ctx", N_CTX) as two,
    ):
        rules = '[route]\nprivate-keys = ["ben"]\n' + upstream("one", one.url)
        rules += upstream("two", two.url, key_file=f"{directory}/key", tools=False)
        limits = {"usd_per_million_answer_tokens": 10, "daily_usd": DAILY_USD}
        limits |= {"parallel": 1, "max_waiting": 0, "context": N_CTX}
        rules += upstream("third", third.url, kind="pod", **limits)
        with (
            routing(directory, rules, "--api-key-file", directory / "keys") as router,
            closing(Three(router, one, third)) as servers,
        ):
            yield servers


def test_generated_requests_go_where_the_rules_say(tmp_path: Path) -> None:
    """2,000 of all kinds: each logged decision is that of the rules, and the answer is its.

    In the middle two upstreams are killed, before and after the first token; nothing else fails.
    """
    chance = random.Random(SEED)
    requests = [generated(chance, CHOICES) for _ in range(N_REQUESTS)]
    half, most = N_REQUESTS // 2, N_REQUESTS * 3 // 4
    with three(tmp_path) as servers:
        _answers_are_the_upstreams_own(servers, requests)
        answers = servers.ask_all(requests[:half])
        _fill_the_third(servers)
        _die_after_the_first_token(servers)
        _die_before_the_first_token(servers)
        answers += servers.ask_all(requests[half:most])
        _spend_all_money(servers)
        servers.one.start()
        servers.until("one", "up")
        answers += servers.ask_all(requests[most:])
        servers.router.stop()
        lines = servers.router.log()
    _decisions_are_those_of_the_rules(tmp_path, lines)
    _answers_are_those_of_the_log(requests, answers, lines)
    late = Counter(line.target for line in lines[-N_REQUESTS // 4 :])
    assert late["one"] > 0, "it is back"


def _decisions_are_those_of_the_rules(directory: Path, lines: Sequence[RoutedLine]) -> None:
    rules = read_rules(directory / "rules.toml")
    for line in lines:
        decision = decide(rules, line.request, line.facts)
        assert (decision.target, decision.refusal or "") == (line.target, line.refusal)
        assert not (line.request.key == "ben" and line.target == "third"), "it is private"
    learned = read_learned(directory / "route" / "learned.json")
    assert learned.spent_usd["third"] <= DAILY_USD + 0.001
    assert {line.refusal for line in lines} - {""} == REFUSALS
    assert {line.target for line in lines} >= {"one", "two", "third"}
    assert any(not line.facts["third"].speaks for line in lines), "it has no Ollama's API"


def _answers_are_those_of_the_log(
    requests: Sequence[Generated], answers: Sequence[httpx.Response], lines: Sequence[RoutedLine]
) -> None:
    """Each client is told what the log says, and gets a whole answer or the reason why not."""
    last = {line.id: line for line in lines}
    for request, answer in zip(requests, answers, strict=True):
        line = last[answer.headers["x-request-id"]]
        assert answer.headers["x-route-reason"] == (line.reason or line.refusal)
        assert answer.status_code in (200, 400, 403, 404, 429, 501, 503), answer.text
        if line.target:
            assert answer.headers["x-route-target"] == line.target
        if line.target and answer.status_code == 200:
            assert line.outcome is not None
            assert line.outcome.whole, request
            assert b"broke off" not in answer.content


# ---------------------------------------------------------------- what happens on the way


def _answers_are_the_upstreams_own(servers: Three, requests: Sequence[Generated]) -> None:
    """Byte for byte, but for ids and times, from both kinds of servers; both find a cached prompt."""
    plain_ones = [one for one in requests if one.path in (*CHATS, *TEXTS) and _is_short(one)]
    n_same = Counter[tuple[str, bool]]()
    for request in plain_ones[:60]:
        for name, model, url in (
            ("one", "dure-demo", servers.one.url),
            ("third", "other-demo", servers.third.url),
        ):
            body = {**request.body, "model": model}
            for _ in range(2):
                direct = servers.direct.post(f"{url}{request.path}", json=body)
            headers = {"x-route-target": name}
            routed = servers.ask(
                Generated(path=request.path, body=body, key="anna", headers=headers)
            )
            assert routed.status_code == direct.status_code, routed.text
            if direct.status_code == 200:
                assert plain(routed.content) == plain(direct.content), request
                assert routed.headers["x-route-target"] == name
                n_same[name, request.body["stream"]] += 1
            else:
                assert (name, routed.headers["x-route-reason"]) == ("third", "no-dialect")
    assert len(n_same) == 4, "both servers, streams and whole answers"


def _is_short(request: Generated) -> bool:
    text = json.dumps(request.body)
    return "tools" not in request.body and "image_url" not in text and len(text) < 1000


def _story(most: int, *, target: str = "", tools: bool = False) -> Generated:
    body = {
        "messages": [{"role": "user", "content": "Tell me a story about a goat."}],
        "max_tokens": most,
        "temperature": 0,
        **({"tools": [TOOL]} if tools else {}),
    }
    headers = {"x-route-target": target} if target else {}
    return Generated(path="/v1/chat/completions", body=body, key="anna", headers=headers)


def _fill_the_third(servers: Three) -> None:
    """While its one place is taken, and nobody may wait there, it is full."""
    servers.third.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(servers.ask, _story(4, target="third"))
        servers.until_one_runs()
        second = servers.ask(_story(4, target="third"))
        servers.third.process.send_signal(signal.SIGCONT)
        assert first.result().status_code == 200
    assert (second.status_code, second.headers["x-route-reason"]) == (429, "full")


def _die_after_the_first_token(servers: Three) -> None:
    """A stream of the third that has begun ends with an error; then it is started again."""
    request = _story(400, target="third")
    headers = {"authorization": f"Bearer {KEYS['anna']}", **request.headers}
    body = {**request.body, "stream": True}
    with servers.client.stream("POST", request.path, json=body, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        pieces = answer.iter_raw()
        first = next(pieces)
        servers.third.close()
        rest = b"".join(pieces)
    assert first.startswith(b"data: ")
    assert b"broke off: third" in rest
    assert b"[DONE]" not in rest
    servers.until("third", "down")
    servers.third.start()
    servers.until("third", "up")


def _die_before_the_first_token(servers: Three) -> None:
    """A request at which the first dies is answered by the third, the only other one with tools."""
    servers.one.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(servers.ask, _story(200, tools=True))
        servers.until_one_runs()
        servers.one.close()
        assert answer.result().status_code == 200
        assert answer.result().headers["x-route-target"] == "third"
    servers.until("one", "down")


def _spend_all_money(servers: Three) -> None:
    """Ask the third until its ceiling of today is reached; a story costs a tenth of it."""
    give_up = time.monotonic() + WAIT_S
    while (answer := servers.ask(_story(200, target="third"))).status_code == 200:
        assert time.monotonic() < give_up, "it is never reached"
    assert (answer.status_code, answer.headers["x-route-reason"]) == (429, "spent")
