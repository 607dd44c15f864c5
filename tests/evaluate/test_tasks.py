"""Questions as lm-eval writes them are scored as it scores them, from `import dure`'s own numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dure
from dure.deploy.options import RunOptions
from dure.deploy.start import start_model
from dure.engine.executor import FullExecutor
from dure.errors import ResourceError, UsageError
from dure.evaluate.task_scores import TaskScore, _known, _likelihood, prepared_task
from dure.evaluate.tasks import ChoiceQuestion, OpenQuestion, read_tasks
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
CHOICES: list[tuple[str, list[str], int]] = [
    ("Once upon a time there was a barley farmer called", ["Nari.", "spoon."], 0),
    ("She had a small house next to the", ["sang.", "south field in Solbat."], 1),
    ("In Solbat, where people keep their doors open, lived", ["Gita the tailor.", "the and."], 0),
    ("Once upon a time there was a barley farmer called", ["of the the", "Nari."], 0),
]
"""The last one has a wrong answer in its key, so no model should be right everywhere."""


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def sample(arguments: Any, target: str, metrics: list[str], **more: Any) -> dict[str, Any]:
    """Return a line as lm-eval 0.4.12 writes it with --log_samples."""
    sent = {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(one)}
        for i, one in enumerate(arguments)
    }
    return {
        "doc_id": 0,
        "doc": {},
        "target": target,
        "arguments": sent,
        "resps": [],
        "filtered_resps": [],
        "filter": "none",
        "metrics": metrics,
        **more,
    }


@pytest.fixture(scope="module")
def executor() -> Iterator[FullExecutor]:
    with open_gguf(DEMO) as gguf:
        executor = start_model(gguf, RunOptions(threads=1, ctx=256)).executor
        yield executor
        executor.close()


def scored(path: Path, executor: FullExecutor, vocabulary: Vocabulary) -> TaskScore:
    task = prepared_task(read_tasks(path), vocabulary, vocabulary.tokenize, 256)
    return task.score(executor, vocabulary)


def test_choices_are_scored_as_their_log_probabilities(
    tmp_path: Path, executor: FullExecutor, vocabulary: Vocabulary
) -> None:
    """Both forms give the same; each likelihood is what `import dure` computes for the whole text."""
    plain = lines(
        tmp_path / "plain.jsonl",
        *({"query": q, "choices": choices, "gold": gold} for q, choices, gold in CHOICES),
    )
    logged = lines(
        tmp_path / "samples_endings.jsonl",
        *(
            sample([[q, f" {end}"] for end in choices], str(gold), ["acc", "acc_norm"])
            for q, choices, gold in CHOICES
        ),
    )
    right = by_length = 0
    with dure.open(DEMO, threads=1) as model:
        for query, choices, gold in CHOICES:
            n = len(model.tokenize(query))
            sums = [float(model.logprobs(f"{query} {end}")[n:].sum()) for end in choices]
            right += int(np.argmax(sums)) == gold
            by_length += int(np.argmax(np.array(sums) / list(map(len, choices)))) == gold
            (prepared,) = prepared_task(
                read_tasks(
                    lines(tmp_path / "one", {"query": query, "choices": choices, "gold": gold})
                ),
                *(vocabulary, vocabulary.tokenize, 256),
            ).questions
            found = [_likelihood(executor, one, k)[0] for one, k in _known(executor, prepared[1])]
            np.testing.assert_allclose(found, sums, atol=0.02)
    assert 0 < right < len(CHOICES)
    one, other = (scored(path, executor, vocabulary) for path in (plain, logged))
    assert (one.right, one.by_length) == (other.right, other.by_length)
    assert one.n_questions == len(CHOICES)
    assert one.right.value == right / len(CHOICES)
    assert one.by_length is not None
    assert one.by_length.value == by_length / len(CHOICES)


def test_a_context_is_read_once_for_all_its_choices(
    executor: FullExecutor, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """The second choice goes on where it parts from the first."""
    query, choices, gold = CHOICES[0]
    path = lines(tmp_path / "one.jsonl", {"query": query, "choices": choices, "gold": gold})
    task = prepared_task(read_tasks(path), vocabulary, vocabulary.tokenize, 256)
    (_, endings, _), *_ = task.questions
    (_, first), (_, second) = _known(executor, endings)
    assert (first, second) == (0, endings[1].n_context - 1)


def test_answers_are_what_the_model_writes(
    tmp_path: Path, executor: FullExecutor, vocabulary: Vocabulary
) -> None:
    """The greedy text up to the first end is compared with each target, but for blanks around it."""
    query = CHOICES[0][0]
    with dure.open(DEMO, threads=1) as model:
        text = model.generate(query, temperature=0, max_tokens=12).text
    name = text.partition(".")[0]
    how = {"until": ["."], "max_gen_toks": 12, "do_sample": False}
    path = lines(
        tmp_path / "answers.jsonl",
        sample([[query, how]], name.strip(), ["exact_match"]),
        sample([[query, how]], str(["Nobody", name]), ["exact_match"]),
        sample([[query, how]], "Nobody", ["exact_match"]),
        {"query": query, "target": name, "until": ["."], "max_gen_toks": 12},
    )
    found = scored(path, executor, vocabulary)
    assert (found.n_questions, found.right.value, found.by_length) == (4, 0.75, None)


def test_forms_of_lm_eval_are_read(tmp_path: Path) -> None:
    """Older lists of arguments, a target in words, several right ones, one continuation alone."""
    pairs = [["Is it?", " yes"], ["Is it?", " no"]]
    old = sample(pairs, "no", ["acc"]) | {"arguments": pairs}
    path = lines(
        tmp_path / "forms.jsonl",
        old,
        sample(pairs, "[0, 1]", ["acc"]),
        sample([["The end of the", " story"]], " story", ["acc", "perplexity"]),
        sample([*pairs, ["", " yes"], ["", " no"]], "1", ["acc", "acc_mutual_info"]),
    )
    questions = read_tasks(path).questions
    two = (("Is it?", " yes"), ("Is it?", " no"))
    assert questions[0] == ChoiceQuestion(two, (1,))
    assert questions[1] == ChoiceQuestion(two, (0, 1))
    assert questions[2] == ChoiceQuestion((("The end of the", " story"),), (0,))
    assert questions[3] == ChoiceQuestion(two, (1,))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no question that dure knows: give samples of `lm_eval --log_samples`"),
        ("[]", "no question that dure knows"),
        ('{"query": "a", "choices": ["b"], "gold": 1}', "no question that dure knows"),
        ('{"query": "a", "choices": ["b", "c"], "gold": "d"}', "no question that dure knows"),
        ('{"query": 1, "target": "b"}', "no question that dure knows"),
        (
            json.dumps(sample([["whole text"]], "", ["word_perplexity"])),
            "give that text with --data",
        ),
        (
            json.dumps(sample([["q", {"until": ["."]}]], "x", ["exact_match"], filter="strict")),
            "filtered by 'strict', and the file does not say how",
        ),
    ],
)
def test_what_cannot_be_asked_is_an_error_that_names_the_line(
    tmp_path: Path, line: str, message: str
) -> None:
    """The second line is the bad one."""
    good = json.dumps({"query": "a", "target": "b"})
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(UsageError) as caught:
        read_tasks(path)
    assert "tasks.jsonl, line 2" in str(caught.value)
    assert message in str(caught.value)


def test_a_file_without_questions_is_an_error(tmp_path: Path) -> None:
    """Empty, missing, or no text at all."""
    with pytest.raises(UsageError, match="has no questions"):
        read_tasks(lines(tmp_path / "empty.jsonl"))
    with pytest.raises(ResourceError, match="cannot be read: No such file"):
        read_tasks(tmp_path / "missing.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no text"):
        read_tasks(tmp_path / "bytes")


def test_a_long_question_keeps_its_end(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """What the model was not trained to read at once is cut off at the beginning, as lm-eval does."""
    query = "the goat and the spoon " * 40
    path = lines(
        tmp_path / "long.jsonl",
        {"query": query, "choices": ["sang.", "slept."], "gold": 0},
        {"query": query, "target": "x", "max_gen_toks": 10},
    )
    task = prepared_task(read_tasks(path), vocabulary, vocabulary.tokenize, 32)
    (_, endings, _), (question, _, prompt) = task.questions
    whole = vocabulary.tokenize(f"{query} sang.")
    assert endings[0].tokens == whole[-32:]
    assert 0 < endings[0].n_context < 32
    assert isinstance(question, OpenQuestion)
    assert len(prompt) == 22
    assert task.n_ctx == 32
