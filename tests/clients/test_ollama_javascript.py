"""Ollama's JavaScript client talks to `dure serve` on the demo model: all that it is used for works."""

from __future__ import annotations

from tests.support.other_clients import PROGRAMS, Person, installed


def test_all_that_it_is_used_for(person: Person, demo: str) -> None:
    modules = installed("npm", "node_modules")
    program = PROGRAMS / "ollama_client.cjs"
    found = person.result_of("node", program, demo, NODE_PATH=str(modules))
    assert found["whole"] == found["streamed"] != ""
    assert found["call"]["name"] == "weather"
    assert isinstance(found["call"]["arguments"]["place"], str)
    assert found["answered"]
    assert list(found["formed"]) == ["name"]
    assert found["thought"]
    assert found["unloaded"] is True
    assert found["embedded"] == 2
    assert found["listed"] == found["running"] == ["dure-demo"]
    assert {"completion", "tools", "thinking"} <= set(found["capabilities"])
    assert found["version"][0].isdigit()
