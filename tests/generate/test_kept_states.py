"""Models that do not keep all of a sequence say what they would say if nothing were reused.

With windows: the same model with all positions in all layers, and without a prefix cache, says what is
expected. With running states: the same model, without a prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from dure.engine.executor import FullExecutor
from dure.engine.limits import Limits
from dure.generate.loop import EngineLoop
from dure.generate.prefix_store import PrefixStore
from dure.generate.request import Request
from dure.generate.speculative.proposer import Proposer
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import cut_executor, whole_executor
from tests.support.engine_loops import DEMO, GREEDY, Eager, run
from tests.support.random_models import SHAPES, write_random_model
from tests.support.recurrent_models import RECURRENT, write_recurrent_model

N_VOCAB = 2048
N_WINDOW = 40
WINDOWED = ("gemma3", "gpt-oss")
LIMITS = Limits(n_ctx=1024, threads=1, n_batch=64, n_sequences=4)  # a window has 256 cells
SYSTEM = [300 + i % 97 for i in range(330)]
N_ANSWER = 24

Start = Callable[[], AbstractContextManager[FullExecutor]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    paths = {name: directory / f"{name}.gguf" for name in (*WINDOWED, *RECURRENT)}
    for name in WINDOWED:
        shape = replace(SHAPES[name], n_vocab=N_VOCAB, n_swa=N_WINDOW, n_ff=256, n_ctx_train=1024)
        write_random_model(paths[name], shape, "F32", vocab=DEMO)
    for name in RECURRENT:
        write_recurrent_model(paths[name], name, N_VOCAB, DEMO)
    return paths


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with open_gguf(DEMO) as model:
        made = Vocabulary(model)
    yield made
    made.close()


CASES = [*((name, n) for name in WINDOWED for n in (1, 2, 3)), *((name, 1) for name in RECURRENT)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}", scope="module")
def case(request: pytest.FixtureRequest) -> tuple[str, int]:
    """A model and how many ranks it runs on."""
    found: tuple[str, int] = request.param
    return found


@pytest.fixture(scope="module")
def executor(
    case: tuple[str, int], models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FullExecutor]:
    name, n_ranks = case
    if n_ranks == 1:
        with whole_executor(models[name], LIMITS) as whole:
            yield whole
        return
    directory = tmp_path_factory.mktemp("shards")
    with cut_executor(models[name], [1] * n_ranks, directory, limits=LIMITS) as cut:
        yield cut


@pytest.fixture(scope="module")
def expected(
    case: tuple[str, int], models: dict[str, Path], vocabulary: Vocabulary
) -> Iterator[Callable[[list[int]], list[int]]]:
    """What one process says of a prompt that keeps all positions and reuses nothing."""
    with whole_executor(models[case[0]], replace(LIMITS, full_window=True)) as whole:

        def say(prompt: list[int]) -> list[int]:
            loop = EngineLoop(whole, vocabulary)
            return run(loop, ask("e", prompt, cache_prompt=False))["e"].ids

        yield say


def ask(name: str, prompt: list[int], *points: int, cache_prompt: bool = True) -> Request:
    return Request(
        id=name,
        prompt=prompt,
        sampling=GREEDY,
        max_tokens=N_ANSWER,
        ignore_eos=True,
        cache_prompt=cache_prompt,
        return_points=points,
    )


def question(n: int, length: int = 90) -> list[int]:
    return [(17 * n + 7 * i * i) % 250 + 5 for i in range(length)]


def test_questions_with_one_system_message_compute_only_what_is_new(
    executor: FullExecutor,
    vocabulary: Vocabulary,
    expected: Callable[[list[int]], list[int]],
) -> None:
    """One after the other; the text is that of a model that keeps everything and reuses nothing."""
    loop = EngineLoop(executor, vocabulary)
    for n in range(3):
        prompt = [*SYSTEM, *question(n)]
        told = run(loop, ask("r", prompt, len(SYSTEM), len(prompt) - 3))["r"]
        assert told.ids == expected(prompt)
        assert told.done.timings.cached_tokens == (len(SYSTEM) if n else 0)


def test_a_conversation_goes_on_from_what_is_held_or_from_the_prompts_end(
    executor: FullExecutor,
    vocabulary: Vocabulary,
    expected: Callable[[list[int]], list[int]],
) -> None:
    """With the whole answer in the history all is reused; with another answer in it, the prompt."""
    loop = EngineLoop(executor, vocabulary)
    prompt = [*SYSTEM, *question(1)]
    answer = run(loop, ask("r", prompt, len(prompt) - 3))["r"].ids
    whole = [*prompt, *answer, *question(2)]
    told = run(loop, ask("r", whole, len(whole) - 3))["r"]
    assert told.ids == expected(whole)
    assert told.done.timings.cached_tokens == len(prompt) + N_ANSWER - 1
    changed = [*whole[:-3], *question(3)]
    told = run(loop, ask("r", changed, len(changed) - 3))["r"]
    assert told.ids == expected(changed)
    assert told.done.timings.cached_tokens == len(whole) - 3


def test_many_at_once_with_drafts_and_swaps_say_what_each_says_alone(
    executor: FullExecutor,
    vocabulary: Vocabulary,
    expected: Callable[[list[int]], list[int]],
) -> None:
    """Prompts that repeat themselves are drafted from; answers of many lengths free slots between."""
    loop = EngineLoop(executor, vocabulary, proposer=Proposer(Eager()), pass_tokens=100_000)
    prompts = [[*SYSTEM, *question(n, 20 + 30 * n), *SYSTEM[:60]] for n in range(8)]
    told = run(loop, *(ask(f"r{n}", p, len(SYSTEM)) for n, p in enumerate(prompts)))
    for n, prompt in enumerate(prompts):
        assert told[f"r{n}"].ids == expected(prompt)


def test_what_was_pushed_out_comes_back_from_files(
    case: tuple[str, int],
    executor: FullExecutor,
    vocabulary: Vocabulary,
    expected: Callable[[list[int]], list[int]],
    tmp_path: Path,
) -> None:
    """A stored conversation goes on, whole or from a kept state, also in an engine after this one."""
    store = PrefixStore(tmp_path, executor)
    loop = EngineLoop(executor, vocabulary, store=store, store_tokens=10_000)
    prompt = [*SYSTEM, *question(1)]
    answer = run(loop, ask("r", prompt, len(SYSTEM), len(prompt) - 3))["r"].ids
    for n in range(4):  # takes every slot, and no state but one
        run(loop, ask("r", [*question(10 + n), *SYSTEM[:200]], 250))
    changed = [*SYSTEM, *question(2)]
    told = run(loop, ask("r", changed, len(SYSTEM)))["r"]
    assert told.ids == expected(changed)
    whole = [*prompt, *answer, *question(3)]
    loop.persist()
    again = EngineLoop(executor, vocabulary, store=store, store_tokens=10_000)
    told = run(again, ask("r", whole))["r"]
    assert told.ids == expected(whole)
    assert told.done.timings.cached_tokens == len(prompt) + N_ANSWER - 1
