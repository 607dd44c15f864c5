"""A gated model: the token of Hugging Face is handed to the pod by ssh, if it is needed, and only then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import HubServer, Repo
from tests.support.pod_accounts import wait_until
from tests.support.pod_person import UP, Person, a_person

GOOD = "hf_good"
REPOSITORY = "Qwen/Qwen3-4B-GGUF"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.repos[REPOSITORY] = Repo({"q4.gguf": b"GGUF"}, gated=True)
        yield hub


@pytest.fixture
def person(tmp_path: Path, hub: HubServer) -> Iterator[Person]:
    with a_person(tmp_path) as person:
        person.variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": GOOD}
        yield person


def test_a_gated_model_gets_the_token_by_ssh_after_each_start(
    person: Person, tmp_path: Path
) -> None:
    """The program in the pod has it, and no file of it outlives a stop."""
    token = tmp_path / "pod-0" / "disk" / "state" / "hf-token"
    assert json.loads(person.dure(*UP))["hf_token"]
    assert token.read_text() == GOOD
    assert token.stat().st_mode & 0o777 == 0o600
    wait_until(lambda: "it downloads with a token of 7 characters" in person.dure("logs", "w"))
    person.dure("stop", "w")
    assert not token.exists()
    person.dure("start", "w", "--yes")
    assert token.read_text() == GOOD
    assert not any(GOOD in text for text in (*person.server.requests, str(person.pod.env)))


def test_a_model_for_everybody_gets_no_token(person: Person, hub: HubServer) -> None:
    """Unless it is asked for."""
    hub.repos[REPOSITORY] = Repo({"q4.gguf": b"GGUF"})
    assert not json.loads(person.dure(*UP))["hf_token"]
    person.dure("rm", "w", "--yes")
    assert json.loads(person.dure(*UP, "--hf-token"))["hf_token"]


def test_nothing_is_rented_for_a_model_that_may_not_be_read(person: Person, hub: HubServer) -> None:
    """Without a token, or with one whose owner has not accepted the terms, it says what to do."""
    person.variables["HF_TOKEN"] = ""
    assert "accept its terms at" in person.dure(*UP, status=1)
    person.variables["HF_TOKEN"] = "hf_other"  # noqa: S105  # of this test alone
    hub.tokens.add("hf_other")
    assert "with the account of your HF_TOKEN" in person.dure(*UP, status=1)
    assert "hf_other" not in person.said[-1]
    assert person.server.account.pods == {}


def test_a_token_is_not_handed_over_without_an_answer(person: Person) -> None:
    """The question names it; a program must have agreed to it."""
    asked = UP[:-2]
    assert "hand your token of Hugging Face to w, by ssh?" in person.dure(*asked, status=1)
    assert "--yes" in person.dure(*asked, "--json", status=2)
    assert person.server.account.pods == {}


def test_a_hub_that_is_silent_gets_no_token_out(person: Person) -> None:
    """It is not known then whether one is needed."""
    person.variables["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert not json.loads(person.dure(*UP))["hf_token"]
