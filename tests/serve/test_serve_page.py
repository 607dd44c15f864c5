"""What the page asks a real server for: its feed, its journal, a token's path, and what it may end."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dure.engine.trace import PARTS
from dure.model.architectures import shape_of
from dure.model.gguf import open_gguf
from dure.serve.page import built
from tests.support.dure_server import DEMO, GREEDY, Home, Serving
from tests.support.random_models import SHAPES, write_random_model

WAIT_S = 60.0  # detects a hang; nothing is measured with it
LONG = {**GREEDY, "max_tokens": 1500, "ignore_eos": True, "stream": True}
KEY = "sk-page-0123456789"

Event = tuple[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server of the demo model over two ranks, without keys."""
    with Home(tmp_path_factory.mktemp("page")).serving("--ranks", "2") as found:
        yield found


@contextmanager
def feeding(url: str, **headers: str) -> Iterator[Iterator[Event]]:
    """Read the feed, event by event."""
    with httpx.stream("GET", f"{url}/page/feed", headers=headers, timeout=WAIT_S) as answer:
        assert answer.status_code == 200
        yield _events(answer)


def _events(answer: httpx.Response) -> Iterator[Event]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def writing(url: str, n: int = 1, **headers: str) -> Iterator[list[bytes]]:
    """Have a long answer written meanwhile; yields what has come of it."""
    pieces: list[bytes] = []
    begun = threading.Event()

    def read() -> None:
        path = f"{url}/v1/chat/completions"
        with httpx.stream(
            "POST", path, json={**LONG, "n": n}, headers=headers, timeout=WAIT_S
        ) as answer:
            for piece in answer.iter_bytes():
                pieces.append(piece)
                begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert begun.wait(WAIT_S)
        yield pieces
    finally:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def seen(events: Iterator[Event], name: str, enough: Any = lambda _: True) -> Any:
    """Return the first event of that name that is enough."""
    give_up = time.monotonic() + WAIT_S
    for found, data in events:
        if found == name and enough(data):
            return data
        assert time.monotonic() < give_up
    raise AssertionError("the feed ended")


def test_the_feed_tells_machines_requests_and_steps(server: Serving) -> None:
    """While an answer is written: its speed, what each rank holds, and where each step's time went."""
    with feeding(server.url) as events:
        first = seen(events, "state")
        assert first["server"]["state"] == "ready"
        assert first["server"]["n_ranks"] == 2
        assert [node["ranks"] for node in first["nodes"]] == [[0], [1]], (
            "each as on its own machine"
        )
        assert sum(node["share"] for node in first["nodes"]) == pytest.approx(1)
        assert all(node["weights_bytes"] > 3e6 and node["is_up"] for node in first["nodes"])
        with writing(server.url, 4):
            state = seen(
                events, "state", lambda s: s["requests"] and s["requests"][0]["tokens"] > 9
            )
            request = state["requests"][0]
            answer = httpx.post(f"{server.url}/page/requests/{request['id']}/cancel")
            assert answer.status_code == 204
            assert (request["state"], request["max_tokens"]) == ("writing", 1500)
            assert request["tokens_per_s"] > 0
        with writing(server.url, 4):
            steps = seen(events, "steps", lambda notes: any(not n["n_prompt"] for n in notes))
            for compute_s, sync_s, _idle_s, n_bytes in steps[-1]["ranks"]:
                assert compute_s > 0
                assert sync_s > 0
                assert n_bytes > 0
            (link,) = seen(events, "state", lambda s: s["links"][0]["wire_s_per_token"])["links"]
            assert link["ranks"] == [0, 1]
            assert link["wait_s_per_token"] >= 0
        assert seen(events, "state", lambda s: not s["requests"])


def test_a_request_that_is_ended_there_tells_its_client(server: Serving) -> None:
    """Its stream ends with an error; an id that is not known is 404."""
    with feeding(server.url) as events, writing(server.url, 4) as pieces:
        request = seen(events, "state", lambda s: s["requests"])["requests"][0]
        httpx.post(f"{server.url}/page/requests/{request['id']}/cancel")
    assert b"ended at the server" in pieces[-1]
    assert httpx.post(f"{server.url}/page/requests/x/cancel").status_code == 404


def test_a_token_is_traced_through_every_layer(server: Serving) -> None:
    """Without a gap, on every rank; alone, and while an answer is written."""
    traces = [httpx.post(f"{server.url}/page/trace", timeout=WAIT_S).json()]
    with writing(server.url):
        traces.append(httpx.post(f"{server.url}/page/trace", timeout=WAIT_S).json())
    for trace in traces:
        assert (trace["n_ranks"], trace["n_layers"], trace["sums"]) == (2, 4, 8)
        assert trace["bytes_sent"] > 0
        assert trace["experts"] is None
        for rank, parts in zip(trace["ranks"], trace["parts"], strict=True):
            ends = [begun for _, begun, _, _ in rank["intervals"][1:]]
            assert ends == [ended for _, _, ended, _ in rank["intervals"][:-1]]
            assert set(parts) == set(PARTS)
            took_s = rank["intervals"][-1][2] - rank["intervals"][0][1]
            assert sum(parts.values()) == pytest.approx(took_s)
            assert 0 < took_s <= trace["token_s"]


def test_a_mixtures_token_is_traced_with_its_experts(tmp_path: Path) -> None:
    """In each layer as many as the model uses, the same on both ranks."""
    with open_gguf(DEMO) as demo:
        n_vocab = shape_of(demo).n_vocab
    shape = replace(SHAPES["qwen3moe"], n_vocab=n_vocab)
    write_random_model(tmp_path / "m.gguf", shape, "Q8_0", vocab=DEMO)
    with Home(tmp_path).serving("--ranks", "2", model=tmp_path / "m.gguf") as server:
        trace = httpx.post(f"{server.url}/page/trace", timeout=WAIT_S).json()
    assert trace["n_experts"] == shape.n_expert
    first, second = trace["experts"]
    assert first == second
    assert [len(own) for own in first] == [shape.n_expert_used] * trace["n_layers"]


def test_a_killed_rank_is_in_the_journal(server: Serving) -> None:
    """The feed goes on, and so does the answer."""
    with feeding(server.url) as events, writing(server.url) as pieces:
        ranks = [
            one
            for one in server.engine().children(recursive=True)
            if any("rank" in word for word in one.cmdline())
        ]
        ranks[-1].kill()
        lines = seen(events, "log", lambda new: any("ended" in line["text"] for line in new))
        assert lines[-1]["level"] == "warning"
        assert seen(events, "state", lambda s: s["server"]["state"] == "restarting")
        assert seen(events, "state", lambda s: s["server"]["state"] == "ready")
        assert seen(events, "steps")
    assert b"[DONE]" in pieces[-1]


def test_models_and_history_are_shown(server: Serving) -> None:
    """The model that is served is listed though it is not in the library."""
    models = httpx.get(f"{server.url}/page/models").json()
    served = [one for one in models["models"] if one["is_served"]]
    assert [one["architecture"] for one in served] == ["qwen3"]
    assert httpx.get(f"{server.url}/page/history").json()["every_s"] == 60


def test_a_pull_that_fails_says_why(server: Serving) -> None:
    """And a name that is none is refused at once. This server has no such file, which ends a pull."""
    begun = httpx.post(f"{server.url}/page/models/pull", json={"name": f"{server.url}/x.gguf"})
    work = _work(server, begun.json()["id"], lambda one: one["state"] != "running")
    assert work["state"] == "failed"
    assert work["error"]
    refused = httpx.post(f"{server.url}/page/models/pull", json={"name": ""})
    assert refused.status_code == 400
    assert httpx.post(f"{server.url}/page/work/77/stop").status_code == 404


def test_a_model_is_made_smaller(server: Serving) -> None:
    """By a process of its own, whose end is in the journal; other files, names and numbers are refused."""
    models = httpx.get(f"{server.url}/page/models").json()["models"]
    (served,) = (one for one in models if one["is_served"])
    asked, path = f"{server.url}/page/models/quantize", served["path"]
    for body, status in (
        ({"path": path, "target_bpw": 99}, 400),
        ({"path": path, "target_bpw": True}, 400),
        ({"path": "/etc/passwd", "target_bpw": 4.5}, 404),
        ({"target_bpw": 4.5}, 400),
    ):
        answer = httpx.post(asked, json=body, timeout=WAIT_S)
        assert answer.status_code == status, (body, answer.text)
    for change, status in (
        ({"name": "../goats"}, 400),
        ({"name": ".goats"}, 400),
        ({"examples": " "}, 400),
        ({"epochs": 0}, 400),
        ({"path": "/etc/passwd"}, 404),
    ):
        whole = {"path": path, "name": "goats", "examples": "{}", "epochs": 1, **change}
        answer = httpx.post(f"{server.url}/page/models/tune", json=whole, timeout=WAIT_S)
        assert answer.status_code == status, (change, answer.text)
    many = httpx.post(
        f"{server.url}/page/models/cut", json={"path": path, "ranks": 100}, timeout=WAIT_S
    )
    assert many.status_code == 400
    assert "100 ranks are more than" in many.json()["error"]["message"], "as the command says"
    begun = httpx.post(asked, json={"path": path, "target_bpw": 4.5}, timeout=WAIT_S).json()
    assert (begun["kind"], begun["state"], begun["can_stop"]) == ("quantize", "running", True)
    busy = httpx.post(f"{server.url}/page/models/cut", json={"path": path, "ranks": 2})
    assert busy.status_code == 429
    with feeding(server.url) as events:
        assert httpx.post(f"{server.url}/page/work/{begun['id']}/stop").status_code == 204
        lines = seen(events, "log", lambda new: any("quantizing" in one["text"] for one in new))
    assert lines[-1]["text"] == "quantizing dure-demo.gguf: stopped"


def test_the_page_is_for_browsers_and_safe(server: Serving) -> None:
    """Others get a line of text; no file but the page's own can be had."""
    assert "dure is running" in httpx.get(server.url).text
    page = httpx.get(server.url, headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    for name in ("..%2f..%2froutes.py", "%2e%2e", "index.html%00", "x.js"):
        assert httpx.get(f"{server.url}/page/assets/{name}").status_code == 404


class _Busy(BaseHTTPRequestHandler):
    """A place of models that has no time."""

    def do_GET(self) -> None:
        self.send_error(503)

    def do_HEAD(self) -> None:
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


def test_a_pull_that_waits_says_why_and_can_be_stopped(server: Serving) -> None:
    """Though no byte comes; and once it was asked to stop, it cannot be asked again."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        name = f"http://127.0.0.1:{hub.server_port}/busy.gguf"
        pull = httpx.post(f"{server.url}/page/models/pull", json={"name": name}).json()
        waits = _work(server, pull["id"], lambda one: one["note"])
        assert "503" in waits["note"]
        assert waits["can_stop"]
        assert httpx.post(f"{server.url}/page/work/{pull['id']}/stop").status_code == 204
        assert not _work(server, pull["id"])["can_stop"]
        ended = _work(server, pull["id"], lambda one: one["state"] != "running")
        assert (ended["state"], ended["note"], ended["error"]) == ("stopped", "", "")
        hub.shutdown()


def _work(server: Serving, work_id: str, enough: Any = lambda _: True) -> Any:
    """Return what is told of some work, once it is enough."""
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        works = httpx.get(f"{server.url}/page/models").json()["work"]
        (found,) = (one for one in works if one["id"] == work_id)
        if enough(found):
            return found
        time.sleep(0.1)
    raise AssertionError("it never was")


@pytest.mark.skipif(built.index() is None, reason="the page was not built: make page")
def test_files_of_the_page_travel_small(server: Serving) -> None:
    """Gzipped for whoever takes that, as they are for others; a browser keeps them for ever."""
    page = httpx.get(server.url, headers={"accept": "text/html"}).text
    (script,) = re.findall(r'src="(page/assets/[^"]+[.]js)"', page)
    plain, small, refused = (
        httpx.get(f"{server.url}/{script}", headers={"accept-encoding": accepted})
        for accepted in ("identity", "br, gzip", "gzip;q=0, br")
    )
    assert plain.content == small.content == refused.content
    assert plain.headers["content-type"].startswith("text/javascript"), "else no browser runs it"
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    for answer in (plain, refused):
        assert "content-encoding" not in answer.headers
    for answer in (plain, small):
        assert answer.headers["vary"] == "accept-encoding"
        assert "immutable" in answer.headers["cache-control"]


def test_the_feed_begins_with_the_state(server: Serving) -> None:
    """The first piece that arrives has all of it: what the page draws first waits for no second one."""
    with httpx.stream("GET", f"{server.url}/page/feed", timeout=WAIT_S) as answer:
        first = next(answer.iter_bytes())
    assert b"event: state\n" in first
    assert first.endswith(b"\n\n")


def test_the_feed_wants_a_key_where_there_are_keys(tmp_path: Path) -> None:
    """The page itself does not: it asks for the key."""
    with Home(tmp_path).serving("--api-key", f"anna:{KEY}") as server:
        assert httpx.get(f"{server.url}/page/feed").status_code == 401
        assert httpx.post(f"{server.url}/page/trace").status_code == 401
        assert httpx.get(server.url, headers={"accept": "text/html"}).status_code == 200
        assert httpx.get(f"{server.url}/page/assets/none.js").status_code == 404
        with_key = {"authorization": f"Bearer {KEY}"}
        with feeding(server.url, **with_key) as events, writing(server.url, 4, **with_key):
            state = seen(events, "state", lambda s: s["requests"])
            assert state["requests"][0]["key"] == "anna"
            assert KEY not in json.dumps(state)


def test_a_key_ends_its_own_requests_alone(tmp_path: Path) -> None:
    """Nor may it pull a model: that is for the server's owner."""
    keys = f"anna:{KEY},ben:{KEY}-2"
    with Home(tmp_path).serving("--api-key", keys) as server:
        anna, ben = ({"authorization": f"Bearer {key}"} for key in (KEY, f"{KEY}-2"))
        with feeding(server.url, **anna) as events, writing(server.url, 4, **anna):
            request = seen(events, "state", lambda s: s["requests"])["requests"][0]
            path = f"{server.url}/page/requests/{request['id']}/cancel"
            assert httpx.post(path, headers=ben).status_code == 403
            assert httpx.post(path, headers=anna).status_code == 204
        pull = f"{server.url}/page/models/pull"
        assert httpx.post(pull, json={"name": "qwen3:0.6b"}, headers=anna).status_code == 403
        assert httpx.post(f"{server.url}/page/work/1/stop", headers=anna).status_code == 403


def test_a_revoked_key_ends_its_feed(tmp_path: Path) -> None:
    """At once, and not when the page is closed; the feeds of other keys go on."""
    file, new = tmp_path / "keys", tmp_path / "new"
    file.write_text(f"anna:{KEY}\nben:{KEY}-2\n")
    file.chmod(0o600)
    anna, ben = ({"authorization": f"Bearer {key}"} for key in (KEY, f"{KEY}-2"))
    with (
        Home(tmp_path).serving("--api-key-file", file) as server,
        feeding(server.url, **anna) as hers,
        feeding(server.url, **ben) as his,
    ):
        seen(hers, "state")
        new.write_text(f"ben:{KEY}-2\n")
        new.chmod(0o600)
        new.rename(file)
        with pytest.raises(AssertionError, match="the feed ended"):
            seen(hers, "nothing of that name")
        assert httpx.get(f"{server.url}/page/feed", headers=anna).status_code == 401
        assert seen(his, "state")


def test_an_open_page_does_not_hold_a_server_that_stops(tmp_path: Path) -> None:
    """It ends at once, not after the time that answers get."""
    with Home(tmp_path).serving("--deadline", "600") as server, feeding(server.url) as events:
        seen(events, "state")
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0


def test_watchers_leave_nothing_behind(server: Serving) -> None:
    """A watcher that goes away ends the engine's notes, and its own task."""
    process = psutil.Process(server.process.pid)
    for _ in range(5):
        with feeding(server.url) as events:
            seen(events, "state")
    before = process.memory_info().rss
    with writing(server.url):
        pass
    assert process.memory_info().rss - before < 32e6
