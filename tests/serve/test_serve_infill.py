"""Filling in the middle: a prompt and a suffix, given to a model that was taught to write between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

BEFORE, AFTER, MIDDLE = 300, 301, 302  # any tokens do
BOS = 303
MARKS = {
    f"tokenizer.ggml.{name}_token_id": value_of(ValueKind.UINT32, token)
    for name, token in (("fim_pre", BEFORE), ("fim_suf", AFTER), ("fim_mid", MIDDLE))
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
