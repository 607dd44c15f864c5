"""LiteLLM as a client of `dure serve` on the demo model, through each of its providers that fits."""

from __future__ import annotations

from tests.support.other_clients import PROGRAMS, Person, installed


def test_all_that_it_is_used_for(person: Person, demo: str) -> None:
    python = installed("litellm", "bin/python")
    program = PROGRAMS / "litellm_client.py"
    found = person.result_of(python, program, demo, LITELLM_LOCAL_MODEL_COST_MAP="True")
    for provider, answers in found.items():
        assert answers["whole"] == answers["streamed"] != "", provider
        assert answers["tokens"] == 24
        assert answers["parsed"] == "Place"
    # Ollama's API has no tool_choice, and LiteLLM knows no error of it by its text.
    assert found.pop("ollama_chat")["too_long"] == "BadRequestError"
    assert {answers["call"] for answers in found.values()} == {"ring"}
    assert {answers["too_long"] for answers in found.values()} == {"ContextWindowExceededError"}
