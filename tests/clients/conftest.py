"""Fixtures of the tests of other people's programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from dure.model.gguf import open_gguf
from tests.support.other_clients import Person
from tests.support.parrot import tokens_of, write_parrot, write_speaker
from tests.support.serve_process import DEMO_MODEL, dure_serve

Caller = Callable[[str], AbstractContextManager[tuple[str, Path]]]

PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """Somebody whose folder of work has one file, note.txt."""
    somebody = Person.moved_into(tmp_path)
    (somebody.work / "note.txt").write_text("The ferry leaves at noon.\n")
    return somebody


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `dure serve` with the demo model."""
    with dure_serve(tmp_path_factory.mktemp("demo"), "--parallel", 2) as url:
        yield url


@pytest.fixture(scope="session")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of `dure serve` with a model that says "The old bell rang.", and its access log.

    It wants the key "sesame", and its context has room for a coding agent's instructions.
    """
    directory = tmp_path_factory.mktemp("parrot")
    says = tokens_of(DEMO_MODEL, "The old bell rang.<|im_end|>")
    write_parrot(directory / "parrot.gguf", DEMO_MODEL, says, template=PLAIN)
    (directory / "keys").write_text("anna:sesame-sesame-sesame\n")
    (directory / "keys").chmod(0o600)
    options = ("--ctx", 65536, "--parallel", 1, "--api-key-file", directory / "keys")
    with dure_serve(directory, *options, model=directory / "parrot.gguf") as url:
        yield url, directory / "log"


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Run `dure serve` with a model that makes a call, and says when the ferry leaves once it has a result.

    The function takes the call as the model writes it, and gives the server's URL and access log.
    """

    @contextmanager
    def serving(call: str) -> Iterator[tuple[str, Path]]:
        directory = tmp_path / "caller"
        directory.mkdir()
        opened, text, closed = (
            "<tool_call>",
            call[len("<tool_call>") : -len("</tool_call>")],
            "</tool_call>",
        )
        then = ("<tool_response>", ["It leaves at noon."])
        write_speaker(
            directory / "caller.gguf", DEMO_MODEL, [opened, text, closed], _without_thoughts(), then
        )
        options = ("--ctx", 65536, "--parallel", 1)
        with dure_serve(directory, *options, model=directory / "caller.gguf") as url:
            yield url, directory / "log"

    return serving


def _without_thoughts() -> str:
    """Return the demo model's template, which then opens no thoughts for the answer."""
    with open_gguf(DEMO_MODEL) as demo:
        template = str(demo.metadata["tokenizer.chat_template"].value)
    return template.replace("enable_thinking is defined and enable_thinking", "false")
