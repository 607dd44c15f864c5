"""The page at /docs, in a DOM without a browser around it, on a server that wants keys."""

from __future__ import annotations

from pathlib import Path

from tests.support.other_clients import PROGRAMS, Person, installed


def test_a_person_opens_the_address_gives_the_key_and_tries_it(
    person: Person, parrot: tuple[str, Path]
) -> None:
    """The page says that a key is wanted; with one it works."""
    modules = installed("npm", "node_modules")
    url, key = parrot[0], "sesame-sesame-sesame"
    told = person.result_of("node", PROGRAMS / "docs_page.cjs", url, key, NODE_PATH=str(modules))
    assert told["url"] == f"{url}/docs"
    assert told["locked"].startswith("Give an API key: an API key is wanted")
    assert told["wrong"].startswith("Give an API key: this API key is not known")
    assert told["boxes"] > 20
    assert told["tried"].startswith("200\n")
    assert told["errors"] == []
