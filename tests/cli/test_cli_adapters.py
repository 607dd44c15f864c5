"""`--lora` of the commands: an adapter changes the answer, and what is none is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.adapters import write_adapter
from tests.support.dure_process import Dure, as_json, error_line
from tests.support.random_models import SHAPES, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
STORY = "Tell me a story about a goat."
GREEDY = ("--temp", 0, "-t", 1, "-n", 20)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(DEMO, tmp_path_factory.mktemp("adapter") / "style.gguf")


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


def test_run_and_chat_use_adapters(dure: Dure, adapter: Path) -> None:
    """With a scale of 0 the text is the model's own; with 1 another, which is the same over two ranks."""

    def said(*options: object) -> str:
        told: str = as_json(dure("run", DEMO, STORY, *GREEDY, "--json", *options))["text"]
        return told

    own, changed = said(), said("--lora", adapter)
    assert said("--lora", f"{adapter}:0") == own != changed
    assert said("--lora", f"{adapter}:0.5", "--lora", f"{adapter}:0.5") == changed
    assert said("--lora", adapter, "--ranks", 2, "--sync", "f32") == changed
    chatted = dure("chat", DEMO, *GREEDY, "--lora", adapter, stdin=f"{STORY}\n")
    assert chatted.stdout.strip() == changed


def test_bench_measures_with_adapters(dure: Dure, adapter: Path) -> None:
    """It runs, on two ranks with a trace too."""
    few = ("-p", 16, "-n", 4, "--repeat", 1, "-t", 1, "--json", "--lora", adapter)
    assert as_json(dure("bench", DEMO, *few))["rows"]
    trace = dure.environment["DURE_CACHE"] + ".json"
    assert as_json(dure("bench", DEMO, *few, "--ranks", 2, "--trace", trace))["trace"]


def test_refusals_have_one_line(dure: Dure, adapter: Path, tmp_path: Path) -> None:
    """Before the model is loaded: another model's, no adapter, no number, no file, no place on ranks."""
    other = tmp_path / "other.gguf"
    write_random_model(other, SHAPES["llama"], "F32")
    wrong = write_adapter(other, tmp_path / "wrong.gguf")
    tables = write_adapter(other, tmp_path / "tables.gguf", wanted=lambda name: "output.w" in name)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((DEMO, "--lora", wrong), "it was made for another model: name that one"),
        ((DEMO, "--lora", DEMO), "is no adapter: its general.type is model"),
        ((DEMO, "--lora", f"{adapter}:much"), "give a file, or a file and a scale"),
        ((DEMO, "--lora", tmp_path / "none.gguf"), "none.gguf"),
        ((other, "--lora", tables, "--ranks", 2), "changes output.weight, which cannot be cut"),
    ]
    for arguments, words in cases:
        done = dure("run", arguments[0], STORY, *arguments[1:])
        assert words in error_line(done.stderr)
        assert done.returncode in {1, 2}
