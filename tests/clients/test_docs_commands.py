"""docs/clients.md sets programs up so that they work: its lines are run as it has them, one question each.

What installs a program, or serves a model, is left out: `make clients` has done the first, and a server is
here. Its address and its model take the place of those on the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.other_clients import Person, installed, speaking

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
FILES = {  # where the page says that a block belongs
    "Codex CLI": ("toml", ".codex/config.toml"),
    "llm": ("yaml", ".config/io.datasette.llm/extra-openai-models.yaml"),
}
ASKING = """
claude() { command claude -p "Good morning."; }
codex() { command codex exec --skip-git-repo-check --sandbox danger-full-access "Good morning."; }
aider() { command aider "$@" --yes --no-git --message "Good morning."; }
"""
PROGRAMS = {  # where `make clients` has it, and what the model says
    "Claude Code": ("npm", "node_modules/.bin/claude", "I see.</think>\n\nHello."),
    "Codex CLI": ("npm", "node_modules/.bin/codex", "Hello."),
    "aider": ("aider", "bin/aider", "Hello."),
    "llm": ("llm", "bin/llm", "Hello."),
    "LangChain": ("langchain", "bin/python", "Hello."),
    "LiteLLM": ("litellm", "bin/python", "Hello."),
}
TOLD = {  # what a program prints that the page's lines do not
    "LiteLLM": "print(answer.choices[0].message.content)",
    "openai": "print(client.chat.completions.create(model='MODEL', messages=SAID)"
    ".choices[0].message.content)",
    "anthropic": "print(client.messages.create(model='MODEL', messages=SAID, max_tokens=9)"
    ".content[0].text)",
    "ollama": "print(client.chat('MODEL', SAID).message.content)",
}
SAID = [{"role": "user", "content": "Good morning."}]


def blocks_of(title: str, kind: str) -> list[str]:
    """The blocks of a section in a language; "" has those that are typed into a shell."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, title
    if kind:
        return re.findall(rf"^```{kind}\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return ["\n".join(re.findall(r"^    (.+)$", section[1], re.MULTILINE))]


def here(text: str, url: str) -> str:
    """A text of the page, with this server and its model."""
    return re.sub(r"\bMODEL\b", "dure-demo", text.replace("http://127.0.0.1:8080", url))


@pytest.mark.parametrize("title", PROGRAMS)
def test_a_program_that_is_set_up_as_the_page_says_gets_its_answer(
    title: str, person: Person
) -> None:
    folder, path, says = PROGRAMS[title]
    program = installed(folder, path)
    with speaking(says, says) as server:
        if title in FILES:
            kind, name = FILES[title]
            file = person.home / name
            file.parent.mkdir(parents=True)
            file.write_text(here(blocks_of(title, kind)[0], server.url))
        if python := blocks_of(title, "python"):
            lines = "\n".join([*python, TOLD.get(title, "")])
            done = person.run(program, "-c", here(lines, server.url))
        else:
            typed = here(blocks_of(title, "")[0], server.url).replace("FILE", "note.txt")
            left_out = r"^(npm|pip) install .*|^dure serve .*"
            script = ASKING + re.sub(left_out, "", typed, flags=re.MULTILINE)
            search = f"{program.parent}:/usr/local/bin:/usr/bin:/bin"
            done = person.run("bash", "-ec", script, PATH=search, DURE_KEY="none")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Hello." in done.stdout, done.stderr[-2000:]
    assert all(status == 200 for _, _, status in server.answers)
    assert server.answers


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama"])
def test_a_client_that_is_made_as_the_page_says_gets_its_answer(name: str, person: Person) -> None:
    title = "ollama" if name == "ollama" else "openai and anthropic"
    (line,) = [
        line
        for block in blocks_of(title, "python")
        for line in block.splitlines()
        if f"{name}." in line
    ]
    with speaking("Hello.") as server:
        lines = f"import {name}\nSAID = {SAID}\n{line}\n{TOLD[name]}"
        done = person.run(sys.executable, "-c", here(lines, server.url), ANTHROPIC_API_KEY="none")
    assert done.stdout == "Hello.\n", done.stderr[-2000:]


def test_every_program_of_the_page_is_tried_somewhere() -> None:
    """Those that are not set up by lines have tests of their own."""
    titles = set(re.findall(r"^## (.+)$", PAGE, re.MULTILINE))
    elsewhere = {"openai and anthropic", "ollama", "Open WebUI", "lm-eval"}
    assert titles == elsewhere | set(PROGRAMS)
