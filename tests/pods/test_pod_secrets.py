"""No secret is in a log, a ledger, a process list, a URL, a child's environment or an error.

A whole life of a pod with a gated model, every command and some failures; then everything that was
written, said, asked for and started is searched for the account's key, the token of Hugging Face, the keys
of the user's own server and the pod's own key.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.hub_server import HubServer, Repo
from tests.support.pod_accounts import wait_until
from tests.support.pod_person import KEY, UP, Person, a_person

HUB = "hf_the-user-s-own-secret"
SERVER = "sk-key-of-the-user-s-server"


class ProcessList:
    """Looks at the arguments of every process of this machine, again and again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> ProcessList:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or ()))


@dataclass
class Traces:
    """What a life has left. places: name of the place: text. programs: the arguments and variables of
    every program that was started, here and in the pod. secrets: name: text.
    """

    places: dict[str, str]
    programs: str
    secrets: dict[str, str]


def live(person: Person) -> None:
    """Use every command, and let some fail."""
    person.dure("volume", "create", "models", "--data-center", "EMU-1", "--yes")
    person.dure(*UP)
    wait_until(lambda: "it downloads with a token" in person.dure("logs", "w"))
    for words in (
        ("gpus",), ("ls",), ("show", "w"), ("cost",), ("volume", "ls"), ("guard", "--once"),
        ("ssh", "w", "--", "true"), ("ssh", "w", "--json"), ("sync", "w:/dev/null", str(person.home)),
        ("export", "w", "--dstack"), ("export", "w", "--ledger"),
    ):  # fmt: skip
        person.dure(*words)
    person.dure("doctor", status=1)
    for fault in ("repeats_key", "no_balance"):
        person.faults(**{fault: 1})
        person.dure("up", "--name", "other", *UP[3:], status=1)
    person.faults(down=-1)
    person.dure("ls", status=1)
    person.faults(down=0)
    person.dure("ls", status=1, RUNPOD_API_KEY=f"{KEY}-wrong")


def gathered(folder: Path, person: Person, hub: HubServer, processes: ProcessList) -> Traces:
    state = person.home / ".local" / "state"
    token = folder / "pod-0" / "disk" / "state" / "hf-token"
    assert token.read_text() == HUB, "the one file that has it"
    files = [path for path in folder.rglob("*") if path.is_file() and path != token]
    return Traces(
        {
            "log": (folder / "pod-0" / "log").read_text(),
            "ledger": "".join(p.read_text(errors="replace") for p in state.rglob("*.sqlite3*")),
            "file": "".join(path.read_text(errors="replace") for path in files),
            "process list": "\n".join(processes.seen),
            "URL": "\n".join([*person.server.requests, *(r.path for r in hub.requests)]),
            "output or error": "\n".join(person.said),
            "provider": json.dumps(person.server.account.shown(person.pod)),
        },
        (folder / "seen").read_text(),
        {"account": KEY, "hub": HUB, "server": SERVER, "pod": person.pod.key},
    )


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    folder = tmp_path_factory.mktemp("life")
    with HubServer() as hub, a_person(folder) as person, ProcessList() as processes:
        hub.repos["Qwen/Qwen3-4B-GGUF"] = Repo({"q4.gguf": b"GGUF"}, gated=True)
        hub.tokens = hub.accepted = {HUB}
        person.variables = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": HUB,
            "DURE_API_KEYS": f"me:{SERVER}",
        }
        person.watch_programs()
        curl = folder / "pod-0" / "bin" / "curl"
        curl.parent.mkdir(parents=True)
        look = f'{{ echo curl "$@"; env; }} >>{folder}/seen'
        curl.write_text(f'#!/bin/sh\n{look}\nexec {shutil.which("curl")} "$@"\n')
        curl.chmod(0o755)
        live(person)
        yield gathered(folder, person, hub, processes)


@pytest.mark.parametrize("secret", ["account", "hub", "server", "pod"])
@pytest.mark.parametrize(
    "place",
    ["log", "ledger", "file", "process list", "URL", "output or error", "provider"],
)
def test_no_secret_is_in(place: str, secret: str, traces: Traces) -> None:
    """Whatever was done, and whatever failed."""
    assert traces.places[place], "something was written there"
    assert traces.secrets[secret] not in traces.places[place]


@pytest.mark.parametrize("secret", ["account", "hub", "server", "pod"])
def test_no_program_has_a_secret(secret: str, traces: Traces) -> None:
    """Neither as an argument nor in its environment: ssh, ssh-keygen and rsync here, curl in the pod."""
    started = {line.split(" ")[0] for line in traces.programs.splitlines()}
    assert {"ssh", "ssh-keygen", "rsync", "curl"} <= started
    assert "HOME=" in traces.programs
    assert traces.secrets[secret] not in traces.programs


def test_the_search_finds_what_is_there(traces: Traces) -> None:
    """Each place has what belongs there, so that an empty one is no proof."""
    assert "dure-w" in traces.places["ledger"]
    assert "ssh -F" in traces.places["process list"]
    assert "/auth-check" in traces.places["URL"]
    assert "POST /v2/pods" in traces.places["URL"]
    assert "key is not accepted" in traces.places["output or error"]
    assert "not with Bearer …" in traces.places["output or error"], "the provider repeated the key"
