"""`llm`, the command line, talks to `dure serve`: prompts, conversations, schemas and tools."""

from __future__ import annotations

import json

import pytest

from tests.support.other_clients import Person, call, installed, last_prompt, speaking

MODEL = """
- model_id: dure
  model_name: dure-demo
  api_base: "{url}/v1"
  supports_tools: true
  supports_schema: true
"""


def llm(person: Person, url: str, *options: object) -> str:
    program = installed("llm", "bin/llm")
    settings = person.home / "llm"
    settings.mkdir(exist_ok=True)
    (settings / "extra-openai-models.yaml").write_text(MODEL.format(url=url))
    done = person.run(program, *options, LLM_USER_PATH=str(settings), OPENAI_API_KEY="none")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prompt_and_the_conversation_that_follows(person: Person) -> None:
    with speaking("I am glad.", "As I said.") as server:
        assert llm(person, server.url, "-m", "dure", "Good morning.") == "I am glad.\n"
        again = llm(person, server.url, "-c", "--no-stream", "What did you say?")
        assert again == "As I said.\n"
        assert "Good morning." in last_prompt(server)
        assert server.answers == [("POST", "/v1/chat/completions", 200)] * 2


def test_a_tool_is_called_and_its_result_told(person: Person) -> None:
    with speaking(call("llm_version"), "It is the newest.") as server:
        said = llm(person, server.url, "-m", "dure", "-T", "llm_version", "Which version?")
        assert said == "It is the newest.\n"
        assert "<tool_response>" in last_prompt(server)
        assert server.answers == [("POST", "/v1/chat/completions", 200)] * 2


@pytest.mark.parametrize("seed", [1, 2])
def test_a_schema_is_followed(person: Person, demo: str, seed: int) -> None:
    limits = ("-o", "max_tokens", 400, "-o", "seed", seed)
    said = llm(person, demo, "-m", "dure", "--schema", "village, size int", *limits, "Where?")
    assert set(json.loads(said)) == {"village", "size"}
