"""`dure serve`, `ps` and `stop`, as a user types them: real processes, real HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.dure_server import DEMO, GREEDY, WAIT_S, Home, end


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_served_model_answers_is_listed_and_stops(home: Home) -> None:
    """serve, a chat, ps as JSON, stop by name: exit code 0, and no process is left."""
    with home.serving("--alias", "goat-teller") as server:
        answer = server.chat()
        assert answer["model"] == "goat-teller"
        assert answer["choices"][0]["finish_reason"] == "length"
        (row,) = json.loads(home.dure("ps", "--json").stdout)["servers"]
        assert row["url"] == server.url
        assert row["status"] == "ready"
        assert row["generated_tokens"] == 24
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children, "the engine is a process of its own"
        stopped = home.dure("stop", "goat-teller")
        assert stopped.returncode == 0, stopped.stderr
        assert server.process.wait(WAIT_S) == 0
        wait_until(lambda: not any(child.is_running() for child in children))
    assert json.loads(home.dure("ps", "--json").stdout)["servers"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ctx", 10**6), "--ctx 1000000 is more than the 2048 tokens"),
        (("--ctx", 0), "--ctx 0"),
        (("--ctx", 2048, "--parallel", 500), "--parallel 500"),
        (("--threads", 0), "--threads 0"),
        (("--ranks", 100), "100 ranks are more than"),
        (("--ranks", 2, "--shares", "1,2,3"), "--shares 1,2,3 names 3 ranks"),
        (("--pin", "--threads", 500), "--pin holds 500 threads"),
        (("--nodes", "pi-1"), "--nodes, --interface and --share-node are for --cluster"),
    ],
)
def test_what_cannot_start_is_refused_before_there_is_an_address(
    home: Home, options: tuple[object, ...], words: str
) -> None:
    """The refusal is all that is said."""
    done = home.dure("serve", DEMO, "--port", 0, *options)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(f"dure: {words}")
    assert done.stderr.count("\n") == 1


def test_a_server_stopped_while_it_loads_says_so_and_no_more(home: Home) -> None:
    """Ctrl-C before the model is there ends it well; no task's error is left untaken, and no bar is drawn
    after the last word.
    """
    with home.dure.terminal("serve", DEMO, "--port", 0, "-t", 1, "--ranks", 2) as terminal:
        terminal.read_until("(loading)")
        time.sleep(0.5)
        terminal.type("\x03")
        after = terminal.read_all()
    assert "%" not in after.partition("stopping when running answers are done")[2]
    assert "stopping" in after
    assert "Traceback" not in after
    assert "never retrieved" not in after


def test_on_a_terminal_the_bar_goes_when_the_model_is_there(home: Home) -> None:
    """Then nothing is drawn any more until Ctrl-C, which is answered with a word."""
    with home.dure.terminal("serve", DEMO, "--port", 0, "-t", 1) as terminal:
        terminal.read_until("Ctrl-C stops")
        time.sleep(1)
        terminal.type("\x03")
        after = terminal.read_all()
    assert "stopping when running answers are done" in after
    assert "loading" not in after
    assert "%" not in after


def test_addresses_are_whole_on_a_narrow_terminal(home: Home) -> None:
    with home.serving("--alias", "a-name-of-a-model-that-is-rather-long") as server:
        shown = home.dure("ps", COLUMNS="80").stdout
    assert server.url in shown


def test_several_ranks_serve_the_same_text_as_one(home: Home) -> None:
    """With float32 sums, a model cut over two ranks gives one rank's greedy answer."""
    with home.serving() as one:
        text = one.chat()["choices"][0]["message"]["content"]
    with home.serving("--ranks", "2", "--sync", "f32") as two:
        assert two.chat()["choices"][0]["message"]["content"] == text


def test_health_tells_that_the_model_is_loading(home: Home) -> None:
    """Before the model is there the server answers 503, with how far it is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = home.dure.start("serve", DEMO, "--port", port, "-t", "1", stderr=subprocess.PIPE)
    try:
        seen: list[httpx.Response] = []

        def answered() -> bool:
            with contextlib.suppress(httpx.TransportError):
                seen.append(httpx.get(f"http://127.0.0.1:{port}/health"))
            return bool(seen) and seen[-1].status_code == 200

        wait_until(answered)
    finally:
        process.terminate()
        code = process.wait(WAIT_S)
        end(process)
    assert code == 0
    assert seen[0].status_code == 503
    assert 0 <= seen[0].json()["error"]["progress"] <= 1


def test_ps_sees_a_server_that_wants_a_key(home: Home) -> None:
    """The user's own commands are let in by a key of their own; others are not."""
    with home.serving(DURE_API_KEYS="anna:secret-of-anna") as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        (row,) = json.loads(home.dure("ps", "--json").stdout)["servers"]
        assert row["status"] == "ready"
        bearer = {"Authorization": "Bearer secret-of-anna"}
        assert httpx.get(f"{server.url}/v1/models", headers=bearer).status_code == 200


def test_a_key_may_be_given_on_the_command_line(home: Home) -> None:
    """With a name and without, several too; nobody else is let in. An empty one is no open door."""
    options = ("--api-key", "secret-of-all", "--api-key", "bora:secret-of-bora,cho:secret-of-cho")
    with home.serving(*options, DURE_API_KEYS="anna:secret-of-anna") as server:
        for person in ("all", "bora", "cho", "anna"):
            bearer = {"Authorization": f"Bearer secret-of-{person}"}
            assert httpx.get(f"{server.url}/v1/models", headers=bearer).status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
    done = home.dure("serve", DEMO, "--api-key", "")
    assert done.returncode == 2
    assert "--api-key is empty" in done.stderr


@pytest.mark.parametrize(("think", "told"), [("high", "degree high"), ("off", "no thoughts")])
def test_what_is_said_of_thinking_reaches_the_template(
    home: Home, tmp_path: Path, think: str, told: str
) -> None:
    """Of the whole server; a request that says something else has its way."""
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if reasoning_effort %} degree {{ reasoning_effort }}{% endif %}"
        "{% if enable_thinking is false %} no thoughts{% endif %}"
        "{% if add_generation_prompt %}<think>\n\n</think>{% endif %}"
    )
    asked = {"messages": [{"role": "user", "content": "Hello"}]}
    with home.serving("--think", think, "--chat-template", template) as server:
        url = f"{server.url}/apply-template"
        assert f"Hello {told}<think>" in httpx.post(url, json=asked).json()["prompt"]
        own = httpx.post(url, json={**asked, "reasoning_effort": "low"}).json()["prompt"]
        assert "degree low" in own


def test_a_killed_engine_is_started_again(home: Home) -> None:
    """After kill -9 of the engine the server says so, and answers as before."""
    with home.serving() as server:
        text = server.chat()["choices"][0]["message"]["content"]
        os.kill(server.engine().pid, signal.SIGKILL)
        assert server.chat()["choices"][0]["message"]["content"] == text
        server.read_until(lambda line: "the engine ended" in line)


def test_computed_prompts_survive_a_restart(home: Home, tmp_path: Path) -> None:
    """With --cache-dir, a prompt that was computed before the restart is not computed again."""
    question = [{"role": "user", "content": " ".join(f"Field {i} is green." for i in range(60))}]
    with home.serving("--cache-dir", tmp_path, "--ctx", "2048") as server:
        first = server.chat(messages=question, max_tokens=4)
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0
    with home.serving("--cache-dir", tmp_path, "--ctx", "2048") as server:
        again = server.chat(messages=question, max_tokens=4)
    n_prompt = first["usage"]["prompt_tokens"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= n_prompt - 1
    assert again["choices"][0]["message"] == first["choices"][0]["message"]


def test_stop_needs_a_name_where_several_run(home: Home) -> None:
    """Two servers: stop alone refuses and lists them, --all ends both."""
    with home.serving("--alias", "a") as one, home.serving("--alias", "b") as other:
        refused = home.dure("stop")
        assert refused.returncode == 2
        assert one.url in refused.stderr
        assert other.url in refused.stderr
        unknown = home.dure("stop", "c")
        assert unknown.returncode == 2
        assert home.dure("stop", "--all").returncode == 0
        assert one.process.wait(WAIT_S) == other.process.wait(WAIT_S) == 0


def test_stop_waits_for_running_answers(home: Home) -> None:
    """A stream that runs when the server is stopped is complete."""
    with home.serving("--ctx", "2048") as server:
        body = {**GREEDY, "max_tokens": 300, "stream": True, "ignore_eos": True}
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=WAIT_S) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.terminate()
            rest = list(lines)
        assert "data: [DONE]" in rest
        assert sum('"content":' in line for line in rest) > 200
        assert server.process.wait(WAIT_S) == 0


def test_commands_without_a_server_say_so(home: Home) -> None:
    """ps lists nothing, stop refuses."""
    listed = home.dure("ps")
    assert listed.returncode == 0
    assert "no server runs" in listed.stderr
    assert home.dure("stop").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--host", "0.0.0.0"], "host 0.0.0.0 can be reached from"),  # noqa: S104  # it is refused
        (["--parallel", "0"], "--parallel 0"),
        (["--parallel", "1000"], "--parallel 1000"),
        (["--ctx", "999999"], "--ctx 999999"),
        (["--cache-size", "-1"], "--cache-size -1"),
        (["--port", "99999"], "port 99999"),
        (["--tls-cert", "nowhere.pem"], "TLS needs both files"),
        (["--ranks", "99"], "99"),
        (["--temp", "-1"], "--temp -1"),
        (["--chat-template", "nowhere.jinja"], "nowhere.jinja"),
        (["--embedding-model", "./nowhere.gguf"], "nowhere.gguf"),
        (["--api-key-file", "nowhere.keys"], "nowhere.keys"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    home: Home, arguments: list[str], named: str
) -> None:
    """No traceback, no server: one line that names the value, and an exit code."""
    done = home.dure("serve", DEMO, *arguments)
    assert done.returncode in (1, 2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("dure: ")]
    assert len(errors) == 1, done.stderr
    assert named in errors[0]
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told(home: Home) -> None:
    """The port, and the cure."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = home.dure("serve", DEMO, "--port", port)
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert "--port" in done.stderr
