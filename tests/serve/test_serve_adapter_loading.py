"""Adapters that clients load and unload while a model runs: on every rank, and without a pause.

A real `dure serve` with a directory of adapters, on one rank and on two.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.adapters import write_adapter
from tests.support.dure_server import DEMO, WAIT_S, Home, Serving
from tests.support.random_models import SHAPES, write_random_model
from tests.support.serving import wait_until

PROMPT = {
    "prompt": "The goat of the village went to the mill. " * 12,
    "n_predict": 4,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of the demo model, one of another model, and what is no adapter."""
    directory = tmp_path_factory.mktemp("adapters")
    for n in (1, 2):
        write_adapter(DEMO, directory / f"style-{n}.gguf", seed=n, rank=6, strength=4)
    other = directory.parent / "other.gguf"
    write_random_model(other, SHAPES["llama"], "F32")
    write_adapter(other, directory / "foreign.gguf")
    (directory / "text.gguf").write_text("no model")
    (directory / "peft").mkdir()
    (directory / "link.gguf").symlink_to(DEMO)
    return directory


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def server(
    request: pytest.FixtureRequest, directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """The demo model; clients may load from the directory."""
    options = ("--ranks", request.param, "--lora-dir", directory, "--parallel", 3)
    with Home(tmp_path_factory.mktemp("home")).serving(*options) as server:
        yield server


def load(server: Serving, name: str, path: str, **more: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": path, **more}
    return httpx.post(f"{server.url}/v1/load_lora_adapter", json=body, timeout=WAIT_S)


def unload(server: Serving, name: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/unload_lora_adapter", json={"lora_name": name}, timeout=WAIT_S
    )


def text(server: Serving, **more: Any) -> str:
    said: str = server.chat(ignore_eos=True, **more)["choices"][0]["message"]["content"]
    return said


def names(server: Serving) -> list[str]:
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    return [one["id"] for one in listed]


def refusal(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    said: str = answer.json()["error"]["message"]
    return said


def test_an_adapter_is_loaded_named_used_and_unloaded(server: Serving, directory: Path) -> None:
    """It writes what it writes when it is given at the start; the model itself stays as it was."""
    plain = text(server)
    assert load(server, "a", "style-1.gguf").json()["name"] == "a"
    second = load(server, "b", str(directory / "style-2.gguf")).json()
    assert names(server) == ["dure-demo", "dure-demo:a", "dure-demo:b"]
    one, two = text(server, model="a"), text(server, model="dure-demo:b")
    assert len({plain, one, two}) == 3
    assert text(server) == plain
    assert text(server, lora=[{"id": second["id"], "scale": 1.0}]) == two
    assert unload(server, "a").json() == {"success": True}
    assert names(server) == ["dure-demo", "dure-demo:b"]
    assert text(server, model="b") == two
    assert unload(server, "b").json() == {"success": True}
    assert "there is no adapter b" in refusal(unload(server, "b"), 404)
    assert text(server) == plain


def test_what_cannot_be_loaded_is_refused_and_changes_nothing(server: Serving) -> None:
    """What lies elsewhere, fits another model, is no adapter, or has a name that is taken."""
    assert load(server, "a", "style-1.gguf").status_code == 200
    before = text(server, model="a")
    for name, path, why in (
        ("b", "../other.gguf", "is no file in the server's directory"),
        ("b", "/etc/hostname", "is no file in the server's directory"),
        ("b", "link.gguf", "is no file in the server's directory"),
        ("b", "none.gguf", "is no file in the server's directory"),
        ("b", "peft", "is no file in the server's directory"),
        ("b", "x" * 4000, "is no file in the server's directory"),
        ("b", "nul\0.gguf", "is no file in the server's directory"),
        ("b", "text.gguf", "text.gguf"),
        ("b", "foreign.gguf", "foreign.gguf"),
        ("a", "style-2.gguf", "there is an adapter a already"),
        ("dure-demo", "style-2.gguf", "names the model"),
        ("dure-demo:b", "style-2.gguf", "names the model"),
        ("", "style-2.gguf", "lora_name"),
    ):
        assert why in refusal(load(server, name, path), 400)
    assert names(server) == ["dure-demo", "dure-demo:a"]
    assert text(server, model="a") == before
    assert unload(server, "a").status_code == 200


def test_one_takes_anothers_place(server: Serving) -> None:
    """With load_inplace: the name means the new one from then on, and nothing of the old is cached."""
    assert load(server, "a", "style-1.gguf").status_code == 200
    first = text(server, model="a")
    assert load(server, "a", "style-2.gguf", load_inplace=True).status_code == 200
    second = text(server, model="a")
    assert names(server) == ["dure-demo", "dure-demo:a"]
    assert unload(server, "a").status_code == 200
    assert load(server, "b", "style-2.gguf").status_code == 200
    assert text(server, model="b") == second != first
    assert unload(server, "b").status_code == 200


def test_a_name_means_the_new_adapter_while_the_old_one_still_answers(server: Serving) -> None:
    """A long answer keeps the adapter that it began with; who asks meanwhile gets the new one."""
    assert load(server, "b", "style-2.gguf").status_code == 200
    second = text(server, model="b")
    assert unload(server, "b").status_code == 200
    assert load(server, "a", "style-1.gguf").status_code == 200
    told: dict[str, str] = {}
    long = threading.Thread(
        target=lambda: told.update(long=text(server, model="a", max_tokens=1500))
    )
    replacing = threading.Thread(
        target=lambda: load(server, "a", "style-2.gguf", load_inplace=True)
    )
    long.start()
    wait_until(lambda: n_running(server) == 1, "it does not begin")
    replacing.start()
    wait_until(lambda: "style-2" in str(adapters(server)), "it is not replaced")
    assert text(server, model="a") == second
    long.join()
    replacing.join()
    assert told["long"]
    assert len(adapters(server)) == 1
    assert unload(server, "a").status_code == 200


def adapters(server: Serving) -> Any:
    return httpx.get(f"{server.url}/lora-adapters").json()


def test_answers_go_on_while_adapters_come_and_go(server: Serving) -> None:
    """One without an adapter, and one whose adapter is unloaded before it has ended."""
    assert load(server, "a", "style-1.gguf").status_code == 200
    long = {"max_tokens": 600}
    wanted = [text(server, **long), text(server, model="a", **long)]
    told: dict[int, str] = {}

    def ask(n: int, model: str) -> None:
        told[n] = text(server, model=model, **long)

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(("dure-demo", "a"))]
    for thread in threads:
        thread.start()
    wait_until(lambda: n_running(server) == 2, "they do not begin")
    assert load(server, "b", "style-2.gguf").status_code == 200
    assert unload(server, "a").status_code == 200
    assert unload(server, "b").status_code == 200
    for thread in threads:
        thread.join()
    assert [told[0], told[1]] == wanted


def n_running(server: Serving) -> int:
    return sum(slot["is_processing"] for slot in httpx.get(f"{server.url}/slots").json())


def test_a_new_engine_has_what_was_loaded(server: Serving) -> None:
    """The engine is killed; name and number mean the same afterwards."""
    assert load(server, "a", "style-1.gguf").status_code == 200
    assert load(server, "b", "style-2.gguf").status_code == 200
    assert unload(server, "a").status_code == 200
    wanted = text(server, model="b")
    server.engine().kill()
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code != 200, "it does not notice")
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200, "it does not restart")
    assert text(server, model="b") == wanted
    assert unload(server, "b").status_code == 200


def test_a_stored_prompt_is_never_anothers(directory: Path, tmp_path: Path) -> None:
    """A store on disk outlives the server, and the numbers of adapters that were loaded do not."""
    lora = tmp_path / "lora"
    shutil.copytree(directory, lora, symlinks=True)
    options = ("--lora-dir", lora, "--cache-dir", tmp_path / "store", "--parallel", 1)
    with Home(tmp_path / "home").serving(*options) as server:
        plain = httpx.post(f"{server.url}/completion", json=PROMPT, timeout=WAIT_S).json()
        assert load(server, "a", "style-1.gguf").json()["id"] == 0
        httpx.post(f"{server.url}/completion", json={**PROMPT, "model": "a"}, timeout=WAIT_S)
        server.process.terminate()
        server.process.wait(WAIT_S)
    with Home(tmp_path / "home").serving(*options) as server:
        assert load(server, "b", "style-2.gguf").json()["id"] == 0
        answers = [
            httpx.post(f"{server.url}/completion", json={**PROMPT, "model": name}, timeout=WAIT_S)
            for name in ("b", "dure-demo")
        ]
    assert [answer.json()["timings"]["cache_n"] > 0 for answer in answers] == [False, True]
    assert answers[1].json()["content"] == plain["content"]


def test_nobody_loads_unless_the_owner_said_from_where(tmp_path: Path) -> None:
    """Without --lora-dir both routes are refused with the cure; a directory that is none ends the start."""
    with Home(tmp_path / "home").serving() as server:
        for answer in (load(server, "a", "style-1.gguf"), unload(server, "a")):
            assert "start it with --lora-dir DIR" in refusal(answer, 501)
    done = Home(tmp_path / "home").dure("serve", DEMO, "--lora-dir", tmp_path / "none")
    assert done.returncode == 2
    assert "--lora-dir" in done.stderr
