"""Codex CLI, as its users run it: whole turns, none of whose requests is refused."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.clients.conftest import Caller
from tests.support.other_clients import Person, call, installed, last_prompt, speaking

CONFIG = """
model = "{model}"
model_provider = "dure"
model_context_window = 65536
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.dure]
name = "dure"
base_url = "{url}/v1"
env_key = "DURE_KEY"
wire_api = "responses"
"""

THOUGHT = "I will see.</think>\n\n"  # with effort, the demo model's template opens its thoughts


def codex(
    person: Person, url: str, *options: object, model: str = "dure-demo", key: str = "none"
) -> subprocess.CompletedProcess[str]:
    program = installed("npm", "node_modules/.bin/codex")
    folder = person.home / ".codex"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CONFIG.format(model=model, url=url))
    # The commands that it runs are ours; a sandbox of its own needs rights that CI may lack.
    trusting = ("--skip-git-repo-check", "--sandbox", "danger-full-access")
    return person.run(program, "exec", *trusting, *options, DURE_KEY=key)


def test_it_runs_a_command_and_says_what_the_model_says(person: Person) -> None:
    """A turn is two requests: the model calls a tool, and gets what the command printed."""
    with speaking(call("exec_command", cmd="cat note.txt"), "It leaves at noon.") as server:
        done = codex(person, server.url, "What does note.txt say?")
        assert (done.stdout, done.returncode) == ("It leaves at noon.\n", 0), done.stderr
        assert server.answers == [("POST", "/v1/responses", 200)] * 2
        _, asked, after = last_prompt(server).rpartition("What does note.txt say?")
        assert asked
        assert "The ferry leaves at noon." in after


def test_it_runs_a_command_for_a_model_that_runs(person: Person, caller: Caller) -> None:
    """The same turn with `dure serve` and a model whose tokens are computed."""
    with caller(call("exec_command", cmd="cat note.txt")) as (url, log):
        done = codex(person, url, "What does note.txt say?", model="caller")
        assert (done.stdout, done.returncode) == ("It leaves at noon.\n", 0), done.stderr
        answers = [line for line in log.read_text().splitlines() if " /v1/responses " in line]
    assert len(answers) == 2
    assert all(" 200 " in line for line in answers)


def test_a_model_of_a_name_that_it_knows_gets_what_it_sends_to_that(person: Person) -> None:
    """It then asks for thoughts and a length, and offers tools that only OpenAI's models know."""
    with speaking(THOUGHT + call("exec_command", cmd="cat note.txt"), THOUGHT + "Noon.") as server:
        done = codex(person, server.url, "What does note.txt say?", model="gpt-5.5-codex")
        assert (done.stdout, done.returncode) == ("Noon.\n", 0), done.stderr
        assert server.answers == [("POST", "/v1/responses", 200)] * 2


def test_an_answer_of_a_schema_and_thoughts_that_come_back(person: Person) -> None:
    schema = {
        "type": "object",
        "properties": {"hour": {"type": "string"}},
        "required": ["hour"],
        "additionalProperties": False,
    }
    (person.work / "schema.json").write_text(json.dumps(schema))
    read = call("exec_command", cmd="cat note.txt")
    with speaking(THOUGHT + read, THOUGHT + '{"hour": "noon"}') as server:
        effort = ("-c", "model_reasoning_effort=high", "--output-schema", "schema.json")
        done = codex(person, server.url, *effort, "When does the ferry leave?")
        assert json.loads(done.stdout) == {"hour": "noon"}, done.stderr
        assert server.answers == [("POST", "/v1/responses", 200)] * 2


def test_sessions_share_what_their_prompts_have_in_common(
    person: Person, parrot: tuple[str, Path]
) -> None:
    """With a real model: the instructions and tools are computed for the first session alone."""
    url, log = parrot
    for greeting in ("Good morning.", "Good evening."):
        done = codex(person, url, greeting, key="sesame-sesame-sesame")
        assert (done.stdout, done.returncode) == ("The old bell rang.\n", 0), done.stderr
    answers = [line for line in log.read_text().splitlines() if " /v1/responses " in line]
    assert all(" 200 " in line for line in answers)
    prompt, cached = map(int, re.findall(r" (?:prompt|cached)_tokens=(\d+)", answers[-1]))
    assert cached > prompt // 2
