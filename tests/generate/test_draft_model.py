"""A draft model changes no token of an answer; its guesses are right where it says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dure.engine.executor import Executor
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.generate.loop import EngineLoop
from dure.generate.request import Request
from dure.generate.speculative.draft_model import DraftModel, DraftRequest
from dure.generate.speculative.proposer import Proposer
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import whole_executor
from tests.support.dure_process import Dure, as_json, error_line
from tests.support.engine_loops import DEMO, KINDS, LIMITS, QUESTIONS, Eager, question, run
from tests.support.parrot import write_parrot

OTHER = [*range(400, 420)]  # what a parrot says that is mostly wrong


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    """The demo model's."""
    with open_gguf(DEMO) as gguf:
        made = Vocabulary(gguf)
        yield made
        made.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalExecutor]:
    """The demo model, four sequences."""
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


@pytest.fixture(scope="module")
def parrot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the demo model's vocabulary that says something else."""
    path = tmp_path_factory.mktemp("parrot") / "parrot.gguf"
    write_parrot(path, DEMO, OTHER)
    return path


@pytest.fixture(params=["itself", "a parrot"])
def draft(request: pytest.FixtureRequest, parrot_file: Path) -> Iterator[DraftModel]:
    """A draft model that is always right, or nearly never."""
    path = DEMO if request.param == "itself" else parrot_file
    model = DraftModel(LocalExecutor(path, LIMITS))
    yield model
    model.close()


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


def guessing(draft: DraftModel) -> Proposer:
    """All that a model may guess, whatever that costs."""
    return Proposer(Eager(n_max=5), draft)


def requests(vocabulary: Vocabulary, kind: str, questions: Sequence[str]) -> list[Request]:
    """Questions for answers of 60 tokens."""
    return [
        Request(id=q, prompt=question(vocabulary, q), max_tokens=60, ignore_eos=True, **KINDS[kind])
        for q in questions
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_model_changes_no_token(
    demo: Executor, vocabulary: Vocabulary, draft: DraftModel, kind: str
) -> None:
    """Six answers on four sequences: as without, with logprobs and all."""
    asked = requests(vocabulary, kind, QUESTIONS)
    plain = run(EngineLoop(demo, vocabulary), *asked)
    guessed = run(EngineLoop(demo, vocabulary, proposer=guessing(draft)), *asked)
    for name, told in guessed.items():
        assert told.ids == plain[name].ids
        assert told.done.reason == plain[name].done.reason


def test_a_model_guesses_its_own_text(demo: Executor, vocabulary: Vocabulary) -> None:
    """Nearly all guesses are right: only logits that are next to equal may fall otherwise."""
    draft = DraftModel(LocalExecutor(DEMO, LIMITS))
    told = run(
        EngineLoop(demo, vocabulary, proposer=guessing(draft)),
        *requests(vocabulary, "greedy", QUESTIONS[:3]),
    )
    drafted = sum(t.done.timings.drafted for t in told.values())
    assert drafted > 100
    assert sum(t.done.timings.accepted for t in told.values()) > 0.9 * drafted
    draft.close()


def test_guesses_follow_texts_that_change_and_end_with_the_context(
    vocabulary: Vocabulary,
) -> None:
    """After another text than was guessed, after a longer prompt than a step holds; none without room."""
    executor = LocalExecutor(DEMO, Limits(192, threads=1, n_batch=32, n_sequences=2))
    draft = DraftModel(executor)
    text = question(vocabulary, "Tell me a story about a goat.")
    long = (text * 9)[:120]

    def guess(tokens: Sequence[int], n: int = 4) -> tuple[int, ...]:
        return draft.propose([DraftRequest("a", tokens, n)])[0]

    first = guess(text)
    assert len(first) == 4
    assert guess([*text, *first[:2]], 2) == first[2:]
    changed = guess([*text, first[0] + 1])
    assert guess(text) == first
    assert guess([*text, first[0] + 1]) == changed
    assert [guess(long) for _ in range(3)] == [(), (), ()]  # 32 tokens a step
    assert len(guess(long)) == 4
    assert guess((text * 9)[:190]) == ()
    draft.close()


def test_an_answer_after_another_takes_up_its_text(vocabulary: Vocabulary) -> None:
    """Two sequences for many answers: of the free ones that with the same beginning."""
    draft = DraftModel(LocalExecutor(DEMO, replace(LIMITS, n_sequences=2)))
    texts = [question(vocabulary, q) for q in QUESTIONS[:4]]
    alone = []
    for text in texts:
        alone += draft.propose([DraftRequest("x", text, 3)])
        draft.finish("x")
    for i, j in ((0, 1), (2, 3), (1, 0)):
        both = draft.propose([DraftRequest("a", texts[i], 3), DraftRequest("b", texts[j], 3)])
        assert both == [alone[i], alone[j]]
        draft.finish("a")
        draft.finish("b")
    draft.close()


def test_run_with_a_draft_model(dure: Dure, parrot_file: Path) -> None:
    """The same text, and the figures say how many guesses were right."""
    words = ("run", DEMO, "Tell me a story about a goat.", "--temp", "0", "-n", "60", "--json")
    plain = as_json(dure(*words, "--draft", "off"))
    itself = as_json(dure(*words, "--draft", DEMO))
    wrong = as_json(dure(*words, "--draft", parrot_file, "--ranks", "2", "--sync", "f32"))
    assert plain["text"] == itself["text"] == wrong["text"]
    assert plain["drafted_tokens"] == 0


def test_a_draft_model_of_another_family_is_refused(
    dure: Dure, parrot_file: Path, tmp_path: Path
) -> None:
    """Its tokens mean something else; what is no model is told as ever."""
    other = tmp_path / "other.gguf"
    other.write_bytes(parrot_file.read_bytes().replace(b"goat", b"taog"))
    done = dure("run", DEMO, "hello", "--draft", other)
    assert "another vocabulary than dure-demo.gguf" in error_line(done.stderr)
    done = dure("run", DEMO, "hello", "--draft", tmp_path / "none.gguf")
    assert "none.gguf" in error_line(done.stderr)
