"""Keys share a server: none waits behind another's requests, and the figures say who had what."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.support.dure_server import GREEDY, WAIT_S, Home, Serving
from tests.support.serving import wait_until

GENERATED = "dure_key_generated_tokens_total anna"
KEYS = "batch:key-of-batch priority=low\nanna:key-of-anna weight=2\nbert:key-of-bert\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that runs two answers and lets one more of each key wait."""
    home = tmp_path_factory.mktemp("home")
    keys = home / "keys"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    with Home(home).serving("--parallel", 2, "--queue", 1, "--api-key-file", keys) as server:
        yield server


def post(server: Serving, key: str, **more: Any) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/chat/completions",
        json={**GREEDY, **more},
        headers={"x-api-key": f"key-of-{key}"},
        timeout=WAIT_S,
    )


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    """Let a process do nothing within the block."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def figures(server: Serving) -> dict[str, float]:
    """Return the figures of every key, by name and key."""
    text = httpx.get(f"{server.url}/metrics", headers={"x-api-key": "key-of-anna"}).text
    assert "key-of" not in text
    found = {}
    for line in text.splitlines():
        if line.startswith("dure_key_"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            key = labels.partition('key="')[2].partition('"')[0]
            found[f"{name} {key}"] = float(line.rpartition(" ")[2])
    return found


def test_a_key_that_fills_the_server_holds_up_no_other(server: Serving) -> None:
    """One of its four requests is refused; another key's is answered while the others run."""
    text = post(server, "anna").json()["choices"][0]["message"]
    long = {"max_tokens": 1500, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    with ThreadPoolExecutor(4) as pool:
        with suspended(server.engine()):  # no answer ends before the last request comes
            answers = [pool.submit(post, server, "bert", **long) for _ in range(4)]
            refused = next(as_completed(answers)).result()
        assert post(server, "anna").json()["choices"][0]["message"] == text
    assert refused.status_code == 429
    assert "3 requests of this client" in refused.json()["error"]["message"]
    assert "dure_key_pauses_total bert" in figures(server)


def test_answers_of_one_request_are_the_same_beside_others(server: Serving) -> None:
    """n answers share the slots with a request of the same key; each has its own seed's text."""
    body = {"n": 6, "temperature": 1.0, "seed": 5}
    alone = [choice["message"] for choice in post(server, "anna", **body).json()["choices"]]
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(post, server, "anna", **body)
        few = [post(server, "anna", max_tokens=1) for _ in range(3)]
    assert [one.status_code for one in few] == [200] * 3
    assert [choice["message"] for choice in many.result().json()["choices"]] == alone


def test_the_figures_of_a_key_are_under_its_name(server: Serving) -> None:
    """Tokens that were computed and generated for it."""
    before = figures(server)
    answer = post(server, "anna", cache_prompt=False).json()["usage"]
    wanted = before[GENERATED] + answer["completion_tokens"]
    wait_until(lambda: figures(server)[GENERATED] >= wanted, "the figures do not come")
    after = figures(server)
    grown = {name: after[name] - before[name] for name in after if name.endswith("_total anna")}
    assert grown[GENERATED] == answer["completion_tokens"]
    assert grown["dure_key_prompt_tokens_total anna"] == answer["prompt_tokens"]


def test_the_rank_of_a_key_is_shown(server: Serving) -> None:
    """Weight and priority, as the file of keys gives them."""
    for key in ("batch", "anna", "bert"):
        assert post(server, key, max_tokens=1).status_code == 200

    def ranks() -> dict[str, float]:
        return {n: v for n, v in figures(server).items() if "weight" in n or "priority" in n}

    wait_until(lambda: len(ranks()) == 6, "the figures do not come")
    assert ranks() == {
        "dure_key_weight batch": 1,
        "dure_key_weight anna": 2,
        "dure_key_weight bert": 1,
        "dure_key_priority batch": -1,
        "dure_key_priority anna": 0,
        "dure_key_priority bert": 0,
    }
