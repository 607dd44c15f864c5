"""The commands around a router: explain, log, replay and report, as a user runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.dure_process import Dure, as_json, error_line
from tests.support.dure_server import Home
from tests.support.routing import routing, upstream
from tests.support.scripted_upstream import ScriptedUpstream, scripted


@pytest.fixture(scope="module")
def board() -> Iterator[ScriptedUpstream]:
    with scripted(("small", "large")) as one:
        yield one


@pytest.fixture(scope="module")
def routed(board: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Dure:
    """A user whose router has answered three requests and refused one; its rules are the configuration."""
    directory = tmp_path_factory.mktemp("routed")
    rules = "[route]\nworth-usd-per-s = 0.00001\n\n" + upstream("board", board.url)
    rules += upstream("cloud", board.url, kind="cloud", usd_per_million_answer_tokens=50)
    with routing(directory, rules) as router:
        for body in ({}, {"max_tokens": 10}, {"model": "large@cloud"}, {"model": "none"}):
            httpx.post(f"{router.url}/v1/chat/completions", json={"messages": [], **body})
        router.stop()
    dure = Home(directory).dure
    dure.environment["DURE_ROUTE"] = str(directory / "route")
    dure.environment["DURE_CONFIG"] = str(directory / "rules.toml")
    return dure


def test_explain_shows_every_rule_and_the_choice(routed: Dure) -> None:
    """What each saw, whom it excluded, and last the predictions with their price."""
    done = routed("route", "explain", "Tell me a story.", "--model", "large", "-n", "100")
    assert done.returncode == 0, done.stderr
    rules = [
        "target",
        "privacy",
        "model",
        "dialect",
        "tools",
        "vision",
        "context",
        "health",
        "queue",
        "money",
    ]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:11]] == rules
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"board: \S+ s predicted; cloud \S+ s, \$\S+ \((quickest|thrifty)\)", last)


def test_explain_says_why_nobody_answers(routed: Dure) -> None:
    """A private request for a named pod has nowhere to go."""
    done = routed("route", "explain", "Hush.", "--model", "large@cloud", "--private")
    assert "cloud (a cloud)" in done.stdout
    assert done.stdout.splitlines()[-1] == "nobody answers it (private)"


def test_explain_as_data_has_all_facts(routed: Dure) -> None:
    """Of the request, of each upstream, and the decision."""
    found = as_json(routed("route", "explain", "Hello", "--key", "anna", "--json"))
    assert found["request"]["key"] == "anna"
    assert found["facts"]["board"]["models"] == ["small", "large"]
    assert found["decision"]["target"] == "board"


def test_the_log_has_each_request_and_how_it_went(routed: Dure) -> None:
    """As a table and as data; no prompt in either."""
    shown = routed("route", "log").stdout
    assert [line.split()[5] for line in shown.splitlines()[1:4]] == ["board", "board", "cloud"]
    lines: list[dict[str, Any]] = as_json(routed("route", "log", "--json", "-n", "2"))
    assert [line.get("target") or line["refusal"] for line in lines] == ["cloud", "no-model"]
    assert lines[0]["outcome"]["answer_tokens"] == 2
    assert "messages" not in json.dumps(lines)


def test_replay_tells_what_other_rules_would_change(
    routed: Dure, board: ScriptedUpstream, tmp_path: Path
) -> None:
    """Requests that go elsewhere, and the predicted time and money of both."""
    other = tmp_path / "other.toml"
    other.write_text(upstream("cloud", board.url, kind="cloud", usd_per_million_answer_tokens=50))
    found = as_json(routed("route", "replay", "--with", other, "--json"))
    assert (found["n_requests"], found["moved"], found["n_both"]) == (4, 2, 3)
    assert found["usd"] > found["usd_before"]
    assert "2 of 4 requests go elsewhere" in routed("route", "replay", "--with", other).stdout


def test_the_report_sums_up_money_and_predictions(routed: Dure) -> None:
    """What was spent at the cloud, and what the board saved."""
    found = as_json(routed("route", "report", "--json"))
    assert (found["n_requests"], found["n_refused"]) == (4, 1)
    assert {one["name"]: one["n_answers"] for one in found["targets"]} == {"board": 2, "cloud": 1}
    assert found["usd"] == pytest.approx(2 * 50e-6)
    assert found["saved_usd"] > 0
    assert "4 requests, 1 refused" in routed("route", "report").stdout


def test_rules_in_the_configuration_file_disturb_no_other_command(routed: Dure) -> None:
    """`dure config show` reads the same file; a table that no command has is a mistake still."""
    assert routed("config", "show", "run").returncode == 0
    path = Path(routed.environment["DURE_CONFIG"])
    text = path.read_text()
    try:
        path.write_text(f"{text}\n[route.serv]\nport = 1\n")
        assert "[route.serv]: no such command" in error_line(routed("ls").stderr)
    finally:
        path.write_text(text)


def test_without_rules_the_error_says_where_to_write_them(tmp_path: Path) -> None:
    """And names the other way."""
    done = Home(tmp_path).dure("route", "explain", "Hello")
    assert done.returncode == 2
    line = error_line(done.stderr)
    assert "config.toml" in line
    assert "--rules FILE" in line


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """It names the file."""
    done = Home(tmp_path).dure("route", "log", tmp_path / "none.jsonl")
    assert done.returncode == 1
    assert "none.jsonl" in error_line(done.stderr)
