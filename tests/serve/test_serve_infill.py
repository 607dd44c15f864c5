"""Filling in the middle: a prompt and a suffix, given to a model that was taught to write between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from dure.chat.reading import TextTools
from dure.isolation import Isolation
from dure.model.gguf import Value, ValueKind, open_gguf, value_of
from dure.model.vocabulary import Vocabulary
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from tests.support.parrot import tokens_of, write_parrot
from tests.support.serving import (
    DEMO_MODEL,
    ScriptedEngine,
    Served,
    engine_of,
    served,
    served_engine,
)
from tests.support.serving import state_of as demo_state

BEFORE, AFTER, MIDDLE = 300, 301, 302  # any tokens do
BOS = 303
MARKS = {
    f"tokenizer.ggml.{name}_token_id": value_of(ValueKind.UINT32, token)
    for name, token in (("fim_pre", BEFORE), ("fim_suf", AFTER), ("fim_mid", MIDDLE))
}
REPOSITORY, FILE = 304, 305
PROJECT = {
    "tokenizer.ggml.fim_rep_token_id": value_of(ValueKind.UINT32, REPOSITORY),
    "tokenizer.ggml.fim_sep_token_id": value_of(ValueKind.UINT32, FILE),
}
BEGINS: dict[str, Value] = {
    "tokenizer.ggml.bos_token_id": value_of(ValueKind.UINT32, BOS),
    "tokenizer.ggml.add_bos_token": value_of(ValueKind.BOOL, True),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("infill") / "parrot.gguf"
    write_parrot(path, DEMO_MODEL, tokens_of(DEMO_MODEL, "the old bell"), metadata=MARKS)
    return path


@contextmanager
def state_of(model: Path, engine: object) -> Iterator[ServerState]:
    with open_gguf(model) as gguf:
        vocabulary = Vocabulary(gguf)
    with Isolation(TextTools(vocabulary, None)) as texts:
        yield ServerState(ServedModel(engine, vocabulary, texts, "parrot"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Served]:
    engine = engine_of(model)
    with state_of(model, engine) as state, served_engine(state, engine) as running:
        yield running


def ask(server: Served, suffix: str, **options: object) -> openai.types.Completion:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60) as client:
        return client.completions.create(  # type: ignore[call-overload,no-any-return]
            model="any", prompt="Who rings", suffix=suffix, **options
        )


def test_what_is_between_prompt_and_suffix_is_written(server: Served) -> None:
    answer = ask(server, " at noon?", max_tokens=len(tokens_of(DEMO_MODEL, "the old bell")))
    assert answer.choices[0].text == "the old bell"
    around = [*tokens_of(DEMO_MODEL, "Who rings"), *tokens_of(DEMO_MODEL, " at noon?")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(around) + 3


def test_an_empty_suffix_asks_for_nothing_between(server: Served) -> None:
    answer = ask(server, "", max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokens_of(DEMO_MODEL, "Who rings"))


@pytest.mark.parametrize("begins", [False, True])
def test_the_models_own_marks_stand_around_both_after_what_begins_a_text(
    tmp_path: Path, begins: bool
) -> None:
    path = tmp_path / "parrot.gguf"
    metadata = {**MARKS, **BEGINS} if begins else MARKS
    write_parrot(path, DEMO_MODEL, [10, 11], metadata=metadata)
    engine = ScriptedEngine()
    with state_of(path, engine) as state, served(state) as server:
        ask(server, " at noon?")
    asked, suffix = tokens_of(DEMO_MODEL, "Who rings"), tokens_of(DEMO_MODEL, " at noon?")
    first = [BOS] if begins else []
    assert engine.requests[0].prompt == [*first, BEFORE, *asked, AFTER, *suffix, MIDDLE]


def infill(server: Served, **body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/infill", json=body, timeout=60)


def test_llama_servers_own_form_fills_in_too(server: Served) -> None:
    """Prefix, suffix, and more of the prefix; the answer is that of /completion, streamed as well."""
    n = len(tokens_of(DEMO_MODEL, "the old bell"))
    body = {"input_prefix": "Who", "prompt": " rings", "input_suffix": " at noon?", "n_predict": n}
    answer = infill(server, **body).json()
    assert answer["content"] == "the old bell"
    assert answer["tokens_evaluated"] == len(tokens_of(DEMO_MODEL, "Who rings at noon?")) + 3
    lines = infill(server, **body, stream=True).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "".join(chunk["content"] for chunk in chunks) == "the old bell"


@pytest.mark.parametrize("project", [False, True])
def test_other_files_come_before(tmp_path: Path, project: bool) -> None:
    """With the marks of files and projects, if the model has them; as text, if it has none."""
    path = tmp_path / "parrot.gguf"
    metadata = {**MARKS, **PROJECT} if project else MARKS
    write_parrot(path, DEMO_MODEL, [10, 11], metadata=metadata)
    engine = ScriptedEngine()
    files = [{"text": "The bell is old.", "filename": "bell.txt"}]
    with state_of(path, engine) as state, served(state) as server:
        infill(server, input_prefix="Who", input_suffix=" rings", input_extra=files)
    prompt = engine.requests[0].prompt

    def text(words: str) -> list[int]:
        return tokens_of(DEMO_MODEL, words)

    around = [BEFORE, *text("Who"), AFTER, *text(" rings"), MIDDLE]
    assert prompt[-len(around) :] == around
    others = [REPOSITORY, *text("project\n"), FILE, *text("bell.txt\n"), *text("The bell is old.")]
    others += [FILE, *text("this\n")]
    plain = [*text("\n\n--- snippet ---\n\n"), *text("The bell is old.")]
    assert prompt[: -len(around)] == (others if project else plain)


def test_a_model_that_was_not_taught_it_says_so_by_name() -> None:
    with served(demo_state(ScriptedEngine())) as server:
        done = infill(server, input_prefix="Who", input_suffix=" rings")
    assert done.status_code == 400
    assert done.json()["error"]["param"] == "input_suffix"
    assert "was not taught to fill in the middle" in done.text
