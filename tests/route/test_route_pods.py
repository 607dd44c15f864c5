"""Rented pods as upstreams: the real router and a real sshd, at the shipped emulator of a provider."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
import pytest

from dure.pods.emulator.model_server import ANSWER
from tests.support.dure_process import Dure
from tests.support.dure_server import Home, Serving
from tests.support.pod_person import KEY, UP, Person, a_person
from tests.support.pod_servers import move_server
from tests.support.routing import Routing, routing, upstream
from tests.support.scripted_upstream import ScriptedUpstream, scripted

WAIT_S = 120.0  # detects a hang; nothing is measured with it
START_S = 30
SHORT, LONG = 1, 1000  # tokens: a slow board is quicker for the first, a pod for the second
POD = f'[route.upstreams.pod]\npod = "w"\nstart-s = {START_S}\nmodels = ["m"]\n\n'


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up, "it never was so"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def board() -> Iterator[ScriptedUpstream]:
    with scripted() as found:
        yield found


def slow(board: ScriptedUpstream) -> str:
    return upstream("board", board.url, prompt_per_s=10, answer_per_s=0.5, measure=False)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    """Somebody whose pod `w` runs, and whose guard at home has looked just now."""
    with a_person(tmp_path) as person:
        person.programs = tmp_path / "bin"
        person.programs.mkdir()
        shim = person.programs / "ssh"
        look = f'{{ echo "$@"; env; }} >>{tmp_path}/seen'
        shim.write_text(f'#!/bin/sh\n{look}\nexec {shutil.which("ssh")} "$@"\n')
        shim.chmod(0o755)
        person.dure("guard", "--once", "--again")
        person.dure(*UP)
        move_server(person)
        person.server.account.act(person.pod.id, "restart")
        person.dure("ssh", "w", "--", "true")
        yield person


@contextmanager
def router(person: Person, rules: str) -> Iterator[Routing]:
    with (
        TemporaryDirectory(prefix="r-") as short,  # a tunnel's socket needs a short path
        routing(person.home / "router", rules, **account(person), TMPDIR=short) as found,
    ):
        yield found


def account(person: Person) -> dict[str, str]:
    names = ("HOME", "PATH", "RUNPOD_API_BASE_URL", "RUNPOD_API_KEY")
    found = {name: person.environment[name] for name in names}
    return {**found, "DURE_PODS": str(person.home / ".local" / "state" / "dure" / "pods")}


def explained(person: Person, rules: str, most: int) -> str:
    """What `dure route explain` says."""
    file = person.home / "rules.toml"
    file.write_text(rules)
    dure = Dure(person.home / "cache")
    words = ("route", "explain", "Ring it.", "-n", most, "--rules", file)
    done = dure(*words, **account(person), DURE_ROUTE=str(person.home / "none"))
    assert done.returncode == 0, done.stderr
    person.said += [done.stdout, done.stderr]
    return done.stdout


def ask(router: Routing | Serving, most: int, **headers: str) -> tuple[str, Any]:
    """Return who answered, and what."""
    body = {"messages": [{"role": "user", "content": "Ring it."}], "max_tokens": most}
    url = f"{router.url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers=headers, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["message"]["content"]
    return answer.headers["x-route-target"], text


def state(router: Routing) -> str:
    """How the pod is, as the router's own health page has it."""
    page: dict[str, Any] = httpx.get(f"{router.url}/health", timeout=WAIT_S).json()
    return str(page["upstreams"]["pod"])


def tunnels(person: Person) -> list[psutil.Process]:
    """The ssh processes that lead to this person's pods."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            is_ssh = bool(words) and Path(words[0]).name == "ssh"
            if is_ssh and str(person.home) in " ".join(words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_stopped_pod_is_started_by_a_request_that_is_worth_it(
    person: Person, board: ScriptedUpstream, tmp_path: Path
) -> None:
    """A short answer is not; a long one is, and comes through the tunnel, which ends with the router."""
    person.dure("stop", "w")
    rules = slow(board) + POD
    assert "board: " in explained(person, rules, SHORT)
    told = explained(person, rules, LONG)
    assert "pod: " in told
    assert "with its start, $0.0" in told
    assert person.server.account.billing() == []
    with router(person, rules) as routed:
        assert ask(routed, LONG) == ("pod", ANSWER)
        assert len(person.server.account.billing()) == 1
        assert len(tunnels(person)) == 1
        said = routed.stop()
        (line,) = (one for one in routed.log() if one.target == "pod")
    assert tunnels(person) == []
    assert line.outcome is not None
    assert line.outcome.usd > 0
    seen = (tmp_path / "seen").read_text()
    assert "HOME=" in seen
    assert KEY not in seen + said
    assert not any(KEY.encode() in path.read_bytes() for path in files(person.home))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_server_before_its_own_model_starts_a_pod_that_is_worth_it(
    person: Person, tmp_path: Path
) -> None:
    """`dure serve --rules`: what is short is answered here; the tunnel ends with the server."""
    person.dure("stop", "w")
    rules = tmp_path / "rules.toml"
    rules.write_text(upstream("own", "here", answer_per_s=0.5, measure=False) + POD)
    home = Home(tmp_path)
    home.dure.environment |= account(person) | {"DURE_ROUTE": str(tmp_path / "route")}
    with (
        TemporaryDirectory(prefix="r-") as short,  # a tunnel's socket needs a short path
        home.serving("--rules", rules, TMPDIR=short) as server,
    ):
        assert ask(server, SHORT)[0] == "own"
        assert person.server.account.billing() == []
        assert ask(server, LONG) == ("pod", ANSWER)
        assert len(person.server.account.billing()) == 1
        assert len(tunnels(person)) == 1
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 0
    assert tunnels(person) == []
    person.said += server.lines


def test_a_port_that_changed_is_found_again(person: Person) -> None:
    """With a first port that is an old one, and without a request that waits for it."""
    with router(person, POD) as routed:
        wait_until(lambda: state(routed) == "up")
        port = person.pod.port
        person.faults(stale_port=2, late_ssh=1)
        person.server.account.act(person.pod.id, "restart")
        wait_until(lambda: state(routed) != "up")
        wait_until(lambda: state(routed) == "up")
        assert person.pod.port != port
        assert ask(routed, LONG) == ("pod", ANSWER)
        assert len(tunnels(person)) == 1


def test_a_pod_that_is_gone_leaves_the_answer_to_others(
    person: Person, board: ScriptedUpstream
) -> None:
    """Also a request that is under way to it then; another pod of its name is found by itself."""
    rules = slow(board) + POD
    with router(person, rules) as routed:
        wait_until(lambda: state(routed) == "up")
        assert ask(routed, LONG)[0] == "pod"
        person.dure("rm", "w", "--yes")
        assert ask(routed, LONG)[0] == "board"
        assert "pod (there is no pod named w)" in explained(person, rules, LONG)
        wait_until(lambda: tunnels(person) == [])
        refused = httpx.post(
            f"{routed.url}/v1/chat/completions",
            json={"messages": []},
            headers={"x-route-target": "pod"},
            timeout=WAIT_S,
        )
        assert refused.status_code == 503, refused.text


def test_no_tunnel_outlives_a_router_that_is_killed(person: Person) -> None:
    """Nobody is left to end it: it ends by itself."""
    with router(person, POD) as routed:
        wait_until(lambda: state(routed) == "up")
        assert len(tunnels(person)) == 1
        routed.process.send_signal(signal.SIGKILL)
        wait_until(lambda: tunnels(person) == [])


def test_a_router_that_ends_while_a_pod_starts_leaves_it_with_a_guard_or_stopped(
    person: Person, board: ScriptedUpstream
) -> None:
    """No guard at home looks here, and its own cannot be checked: it is stopped again."""
    person.dure("stop", "w")
    person.server.account.clock.forward(60)
    ledger = person.home / ".local" / "state" / "dure" / "pods" / "ledger.sqlite3"
    forget_guard(ledger)
    person.faults(late_ssh=10_000)
    with router(person, slow(board) + POD) as routed:
        asking = threading.Thread(target=lambda: ask_anyway(routed))
        asking.start()
        wait_until(lambda: bool(person.server.account.billing()))
        routed.stop()
        asking.join(WAIT_S)
    assert person.server.account.billing() == []
    assert person.pod.status == "EXITED"


def ask_anyway(router: Routing) -> None:
    with suppress(httpx.HTTPError, AssertionError):
        ask(router, LONG, **{"x-route-target": "pod"})


def forget_guard(ledger: Path) -> None:
    with sqlite3.connect(ledger) as db:
        db.execute("DELETE FROM rounds")
    db.close()


def test_explain_says_why_a_pod_is_not_started(person: Person, board: ScriptedUpstream) -> None:
    """A ceiling, a lock, money that is spent: each is named, and another answers."""
    person.dure("stop", "w")
    rules = slow(board) + POD
    poor = f"[route]\npods-hourly-usd = 0.5\n\n{rules}"
    assert "pods-hourly-usd is $0.50" in explained(person, poor, LONG)
    person.pod.locked = True
    assert "pod (it is stopped, and locked at its provider)" in explained(person, rules, LONG)
    person.pod.locked = False
    person.server.account.clock.forward(730 * 3600)
    told = explained(person, rules, LONG)
    assert "it is stopped, and has cost" in told
    assert "(only)" in told
    assert person.server.account.billing() == []


def test_the_guard_in_a_pod_hears_a_router(person: Person, tmp_path: Path) -> None:
    """A router that reaches a pod is somebody at home."""
    beat = tmp_path / "pod-0" / "disk" / "state" / "heartbeat"
    beat.unlink(missing_ok=True)
    with router(person, POD):
        wait_until(beat.exists)


def test_without_a_key_of_the_account_it_does_not_start(person: Person) -> None:
    """The cure says where one is put."""
    file = person.home / "rules.toml"
    file.write_text(POD)
    given = account(person) | {"RUNPOD_API_KEY": "", "DURE_POD_KEY_FILE": ""}
    done = Dure(person.home / "cache")("route", "serve", "--rules", file, **given)
    assert done.returncode == 2
    assert "there is no key for RunPod" in done.stderr
    assert json.dumps(KEY) not in done.stderr
