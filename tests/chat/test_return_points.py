"""Prompts say where later ones may leave them, if the model cannot go back to anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dure.chat.format import ChatFormatter
from dure.chat.task import ChatTask
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.engine_loops import DEMO
from tests.support.random_models import SHAPES, write_random_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SYSTEM = {"role": "system", "content": "You tell stories of a village. " * 5}


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatFormatter]:
    """A model with a sliding window."""
    path = tmp_path_factory.mktemp("models") / "gemma3.gguf"
    write_random_model(path, replace(SHAPES["gemma3"], n_vocab=2048), "Q8_0", vocab=DEMO)
    with open_gguf(path) as model:
        vocabulary = Vocabulary(model)
    yield ChatFormatter(vocabulary, default_template=TEMPLATE)
    vocabulary.close()


@pytest.mark.parametrize("question", ["Who is the baker?", "\nWhere?", "a" * 500])
def test_a_prompt_can_be_left_after_its_system_message_and_before_its_answer(
    windowed: ChatFormatter, question: str
) -> None:
    """Another question shares the first point, the next turn the second, without the thought's tag."""
    messages = [SYSTEM, {"role": "user", "content": question}]
    prepared = windowed.prepare(ChatTask(messages))
    other = windowed.prepare(ChatTask([SYSTEM, {"role": "user", "content": "What then?"}]))
    turn = [*messages, {"role": "assistant", "content": "Bo."}, {"role": "user", "content": "Why?"}]
    later = windowed.prepare(ChatTask(turn))
    after_system, before_answer = prepared.return_points
    assert prepared.prompt[:after_system] == other.prompt[:after_system]
    assert prepared.prompt[:before_answer] == later.prompt[:before_answer]
    without_system = windowed.prepare(ChatTask(messages[1:]))
    assert len(prepared.prompt) - len(without_system.prompt) <= after_system
    assert prepared.prompt[:before_answer] != prepared.prompt[: before_answer - 1]


def test_a_template_that_refuses_a_system_message_alone_still_gives_the_end(
    windowed: ChatFormatter,
) -> None:
    """What a template refuses is left out, and the request goes on."""
    strict = ChatFormatter(
        windowed._vocabulary,  # the same model
        default_template="{% if messages|length < 3 %}{{ raise_exception('too few') }}{% endif %}"
        + TEMPLATE,
    )
    messages = [SYSTEM, *({"role": role, "content": role} for role in ("user", "assistant"))]
    prepared = strict.prepare(ChatTask([*messages, {"role": "user", "content": "So?"}]))
    assert len(prepared.return_points) == 1


def test_a_model_that_keeps_all_has_no_such_points() -> None:
    """It goes back to anywhere: nothing is rendered twice for it."""
    with open_gguf(DEMO) as model:
        vocabulary = Vocabulary(model)
    prepared = ChatFormatter(vocabulary).prepare(ChatTask([{"role": "user", "content": "Hi"}]))
    assert prepared.return_points == ()
    vocabulary.close()
