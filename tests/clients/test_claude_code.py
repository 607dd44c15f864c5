"""Claude Code, as its users run it: whole turns, none of whose requests is refused."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import msgspec

from tests.clients.conftest import Caller
from tests.support.other_clients import Person, call, installed, last_prompt, speaking
from tests.support.serving import Script, ScriptedEngine

SETUP = {
    "ANTHROPIC_MODEL": "dure-demo",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "65536",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
}
THOUGHT = "I will see.</think>\n\n"  # with effort, the demo model's template opens its thoughts


def claude(
    person: Person, url: str, *options: object, key: str = "none"
) -> subprocess.CompletedProcess[str]:
    program = installed("npm", "node_modules/.bin/claude")
    server = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key}
    return person.run(program, "-p", *options, **SETUP, **server)


def test_it_reads_a_file_and_says_what_the_model_says(person: Person) -> None:
    """A turn is two requests: the model calls a tool, and gets what the tool found."""
    read = call("Read", file_path=str(person.work / "note.txt"))
    with speaking(THOUGHT + read, THOUGHT + "It leaves at noon.") as server:
        done = claude(person, server.url, "What does note.txt say?", "--allowedTools", "Read")
        assert (done.stdout, done.returncode) == ("It leaves at noon.\n", 0), done.stderr
        assert server.answers == [("POST", "/v1/messages", 200)] * 2
        _, asked, after = last_prompt(server).rpartition("What does note.txt say?")
        assert asked
        assert "The ferry leaves at noon." in after


def test_it_reads_a_file_for_a_model_that_runs(person: Person, caller: Caller) -> None:
    """The same turn with `dure serve` and a model whose tokens are computed."""
    read = call("Read", file_path=str(person.work / "note.txt"))
    with caller(read) as (url, log):
        done = claude(person, url, "What does note.txt say?", "--allowedTools", "Read")
        assert (done.stdout, done.returncode) == ("It leaves at noon.\n", 0), done.stderr
        answers = [line for line in log.read_text().splitlines() if " /v1/messages " in line]
    assert len(answers) == 2
    assert all(" 200 " in line for line in answers)


def test_several_tools_and_those_that_it_has_to_look_up_first(person: Person) -> None:
    """Tools named by its ToolSearch come as references; two calls in one answer both run."""
    both = call("Bash", command="echo one") + "\n" + call("Bash", command="echo two")
    search = call("ToolSearch", query="select:TaskStop", max_results=1)
    with speaking(THOUGHT + search, THOUGHT + both, THOUGHT + "Done.") as server:
        options = ("--allowedTools", "Bash", "--output-format", "stream-json", "--verbose")
        done = claude(person, server.url, "Go on.", *options)
        assert done.returncode == 0, done.stderr
        assert server.answers == [("POST", "/v1/messages", 200)] * 3
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["result"] == "Done."
    results = [
        block["content"]
        for event in events
        if event["type"] == "user"
        for block in event["message"]["content"]
    ]
    assert sorted(map(str, results[1:])) == ["one", "two"]


def test_a_conversation_goes_on_later(person: Person) -> None:
    """What was thought and said comes back in the next turn."""
    with speaking(THOUGHT + "I am glad.", THOUGHT + "As I said.") as server:
        assert claude(person, server.url, "Good morning.").stdout == "I am glad.\n"
        again = claude(person, server.url, "What did you say?", "--continue")
        assert again.stdout == "As I said.\n"
        assert {status for *_, status in server.answers} == {200}


def test_a_conversation_that_outgrows_the_context_is_shortened(person: Person) -> None:
    """It recognizes the error, has the conversation summed up, and then gets its answer."""
    long = "The old bell rang, and nobody heard it in the long night. " * 60
    with speaking() as server:
        engine = server.state.model.engine
        assert isinstance(engine, ScriptedEngine)
        engine.default = Script(THOUGHT + "I have noted it.")
        for _ in range(3):
            assert claude(person, server.url, "--continue", long).stdout == "I have noted it.\n"
        room = len(engine.requests[-1].prompt) + 300
        engine.info = msgspec.structs.replace(engine.info, n_ctx=room)
        done = claude(person, server.url, "--continue", long)
        assert (done.stdout, done.returncode) == ("I have noted it.\n", 0), done.stderr
        assert server.answers[3] == ("POST", "/v1/messages", 400)
        assert len(engine.requests[-1].prompt) < room


def test_a_context_without_room_for_its_instructions_is_named(person: Person) -> None:
    with speaking(n_ctx=4096) as server:
        done = claude(person, server.url, "Good morning.")
    assert done.returncode == 1
    assert "Prompt is too long" in done.stdout


def test_sessions_share_what_their_prompts_have_in_common(
    person: Person, parrot: tuple[str, Path]
) -> None:
    """With a real model: the instructions and tools are computed for the first session alone."""
    url, log = parrot
    for greeting in ("Good morning.", "Good evening."):
        done = claude(person, url, greeting, "--tools", "Read", key="sesame-sesame-sesame")
        assert (done.stdout, done.returncode) == ("The old bell rang.\n", 0), done.stderr
    answers = [line for line in log.read_text().splitlines() if " /v1/messages " in line]
    assert all(" 200 " in line for line in answers)
    prompt, cached = map(int, re.findall(r" (?:prompt|cached)_tokens=(\d+)", answers[-1]))
    assert cached > prompt // 2
