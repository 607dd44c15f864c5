"""LangChain's ChatOpenAI talks to `dure serve` on the demo model, over both of OpenAI's APIs."""

from __future__ import annotations

from tests.support.other_clients import PROGRAMS, Person, installed


def test_all_that_it_is_used_for(person: Person, demo: str) -> None:
    python = installed("langchain", "bin/python")
    found = person.result_of(python, PROGRAMS / "langchain_client.py", demo)
    for answers in (found["chat"], found["responses"]):
        assert answers["whole"] == answers["streamed"] != ""
        assert (answers["call"], answers["arguments"]) == ("ring", ["bell"])
        assert answers["after"]
        assert answers["parsed"] == ["Place", "Place"]
        assert answers["too_long"] is True
    assert found["embedded"] == 2
