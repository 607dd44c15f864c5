"""Data for tuning: what is read, what of it is learned, and in which rows it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.errors import UsageError
from dure.tune.data.chat_text import ChatText
from dure.tune.data.encoder import Encoded, ExampleEncoder
from dure.tune.data.examples import Examples, LongPolicy, read_examples
from dure.tune.data.generated import GeneratedRows
from dure.tune.data.records import ExampleRecord, Kind, read_records, record_of
from dure.tune.data.rows import FileRows, packed
from tests.support.tiny_models import CHATML, chats, write_lines

END = 1000  # the token of <|im_end|>
FORGETFUL = (  # as Qwen3's: thoughts are written in the last answer only
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}"
    "<think>\n\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenize(text: str) -> list[int]:
    """Each character is a token, and the mark of an end is one."""
    head, *rest = text.split("<|im_end|>")
    found = list(map(ord, head))
    for part in rest:
        found += [END, *map(ord, part)]
    return found


def text_of(ids: list[int]) -> str:
    return "".join("<|im_end|>" if one == END else chr(one) for one in ids)


def encoder(template: str | None = CHATML, **settings: Any) -> ExampleEncoder:
    chat = ChatText(template, model="tiny") if template else None
    return ExampleEncoder(tokenize, chat, ends={END}, specials={END}, **settings)


def learned(one: Encoded) -> str:
    """Return what of an example counts fully."""
    return text_of([token for token, w in zip(one.ids, one.weights, strict=True) if w == 1])


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Say assistant."},
    {"role": "assistant", "content": "assistant\nWhat is 2 + 2?"},
]


def test_the_loss_is_on_the_assistants_answers_and_the_token_that_ends_them() -> None:
    """Also where an answer repeats what others say, and what the template writes."""
    [one] = encoder().encode(record_of({"messages": TALK}, "x"))
    assert learned(one) == "4<|im_end|>assistant\nWhat is 2 + 2?<|im_end|>"
    assert text_of(one.ids).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_other_tokens_have_the_weight_that_was_asked_for() -> None:
    [one] = encoder(prompt_weight=0.25).encode(record_of({"messages": TALK}, "x"))
    assert set(one.weights[1:]) == {0.25, 1.0}
    assert one.weights[0] == 0.0  # nothing is before it


def test_a_template_that_rewrites_earlier_answers_gives_an_example_for_each() -> None:
    """The model then learns each answer after the prompt that it will see."""
    found = list(encoder(FORGETFUL).encode(record_of({"messages": TALK}, "x")))
    assert [learned(one) for one in found] == [
        "<think>\n\n</think>\n4<|im_end|>",
        "<think>\n\n</think>\nassistant\nWhat is 2 + 2?<|im_end|>",
    ]
    assert "think" not in text_of(found[1].ids).split("Say")[0]


def test_calls_of_tools_are_learned_and_their_results_are_not() -> None:
    call = {"id": "1", "function": {"name": "weather", "arguments": '{"city": "Seoul"}'}}
    said = [
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
        {"role": "assistant", "content": "Yes."},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "description": "tells weather"}}]
    [one] = encoder().encode(record_of({"messages": said, "tools": tools}, "x"))
    assert "Seoul" in learned(one)
    assert learned(one).endswith("Yes.<|im_end|>")
    assert "rain" not in learned(one)
    assert "tells weather" in text_of(one.ids)


@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "2 + 2", "completion": "4"},
        {"instruction": "Add", "input": "2 + 2", "output": "4"},
        {"question": "2 + 2", "answer": "4", "system": "Be brief."},
        {"prompt": [{"role": "user", "content": "2 + 2"}], "completion": "4"},
        {"conversations": [{"from": "human", "value": "2 + 2"}, {"from": "gpt", "value": "4"}]},
    ],
)
def test_pairs_become_conversations(said: dict[str, Any]) -> None:
    [one] = encoder().encode(record_of(said, "x"))
    assert learned(one) == "4<|im_end|>"
    assert "2 + 2<|im_end|>" in text_of(one.ids)


def test_without_a_template_pairs_are_plain_text_and_conversations_are_refused() -> None:
    pairs = encoder(None, end=END)
    [one] = pairs.encode(record_of({"prompt": "2 + 2 =", "completion": " 4"}, "x"))
    assert text_of(one.ids) == "2 + 2 = 4<|im_end|>"
    assert learned(one) == " 4<|im_end|>"
    with pytest.raises(UsageError, match=r"^x: the model has no chat template.*--chat-template"):
        list(pairs.encode(record_of({"messages": TALK}, "x")))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"messages": [', r"line 2, column \d+ is no JSON"),
        (b"[1]", "line 2 is no JSON object"),
        (b'{"massages": []}', 'line 2 has "massages", which is no example'),
        (b'{"messages": "hello"}', 'line 2: "messages" is no list of messages'),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "no message of the assistant"),
        (b'{"prompt": "a"}', 'line 2: "completion" is missing'),
        (b'{"prompt": "a", "completion": 3}', 'line 2: "completion" is int, not a text'),
        (b'{"text": "a"}', "the first line of the file is one of pairs, this one of texts"),
        (b'{"prompt": "\xff"}', "line 2 is no text"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n' + line + b"\n")
    with pytest.raises(UsageError, match=problem) as caught:
        list(read_records(path))
    assert "a.jsonl line 2" in caught.value.problem
    assert caught.value.cure


def test_a_message_that_no_template_takes_is_named_with_its_line() -> None:
    said = {"messages": [{"role": "owner", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(UsageError, match=r"^a.jsonl line 7: messages\[0\].role 'owner'"):
        list(encoder().encode(record_of(said, "a.jsonl line 7")))


def read(tmp_path: Path, *lines: dict[str, Any], ctx: int = 200, **options: Any) -> Any:
    path = write_lines(tmp_path / "a.jsonl", *lines)
    return read_examples(read_records(path), encoder(end=END), ctx, **options)


def test_what_was_read_is_told_in_words(tmp_path: Path) -> None:
    _, summary = read(tmp_path, *chats(2000), eval_split=0.1)
    assert summary.sentence().startswith(
        "2,000 conversations, 136 thousand tokens, 7 % of them answers; 221 examples are held out"
    )


def test_what_is_held_out_depends_on_what_an_example_says_alone(tmp_path: Path) -> None:
    """Not on its place, so that an example which is there twice is never on both sides."""
    first, _ = read(tmp_path, *chats(300), eval_split=0.2)
    second, _ = read(tmp_path, *reversed(chats(300)), *chats(300), eval_split=0.2)
    assert first.held_out.tolist() == second.held_out[299::-1].tolist()
    assert first.held_out.tolist() == second.held_out[300:].tolist()


def test_long_conversations_are_cut_skipped_or_refused(tmp_path: Path) -> None:
    long = {"messages": [*TALK[1:3], {"role": "user", "content": "x" * 300}, *TALK[3:]]}
    lines = (*chats(3), long)
    examples, summary = read(tmp_path, *lines, long=LongPolicy.CUT)
    assert (summary.cut, examples.lengths.max()) == (1, 200)
    assert "the longest has" in " ".join(summary.notes())
    examples, summary = read(tmp_path, *lines, long=LongPolicy.SKIP)
    assert (summary.skipped, len(examples.lengths)) == (1, 3)
    with pytest.raises(UsageError, match=r"line 4 has \d+ tokens, and the context 200"):
        read(tmp_path, *lines, long=LongPolicy.REFUSE)


def test_a_long_text_is_learned_in_pieces_each_token_once(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(500))
    examples, _ = read(tmp_path, {"text": text}, ctx=100)
    assert examples.lengths.max() == 100
    assert (examples.weights == 1).sum() == 500  # all but the first, and the end


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.randoms())
def test_packing_keeps_every_example_once_and_whole(lengths: list[int], random: Any) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)
    rows = packed(np.array(lengths), order, 50)
    assert sorted(one for row in rows for one in row) == list(range(len(lengths)))
    assert all(sum(lengths[one] for one in row) <= 50 for row in rows)
    fullest = sum(lengths) / 50
    assert len(rows) <= 2 * fullest + 1


def examples_of(lengths: list[int]) -> Examples:
    ids = np.concatenate([np.full(n, i, np.int32) for i, n in enumerate(lengths)])
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    return Examples(ids, np.ones(len(ids), np.float32), starts, np.zeros(len(lengths), np.bool_))


def file_rows(**settings: Any) -> FileRows:
    examples = examples_of([5, 9, 3, 7, 8, 2, 6, 4, 9, 1])
    return FileRows(examples, 10, **{"rows_per_step": 2, "seed": 3, "pack": True, **settings})


def test_a_step_has_the_same_rows_wherever_a_run_begins() -> None:
    one, other = file_rows(), file_rows()
    steps = one.steps_of(3)
    forward = [[row.ids.tolist() for row in one.rows(step)] for step in range(steps)]
    backward = [[row.ids.tolist() for row in other.rows(step)] for step in reversed(range(steps))]
    assert forward == backward[::-1]
    epoch = [token for rows in forward[: one.steps_of(1)] for row in rows for token in row]
    assert np.bincount(epoch).tolist() == [5, 9, 3, 7, 8, 2, 6, 4, 9, 1]
    assert forward[: one.steps_of(1)] != forward[one.steps_of(1) : one.steps_of(2)]
    assert file_rows(seed=4).rows(0)[0].ids.tolist() != forward[0][0]


def test_positions_begin_anew_with_each_example_of_a_row() -> None:
    for row in file_rows().rows(0):
        begins = np.flatnonzero(row.positions == 0)
        assert [len(set(part)) for part in np.split(row.ids, begins)[1:]] == [1] * len(begins)


def test_a_function_writes_examples_for_each_step() -> None:
    def write(seed: int, step: int) -> Any:
        while True:
            yield {"parts": [[f"{seed}", 0.5], [f"step {step}", 1]]}

    rows = GeneratedRows("m:f", write, encoder(end=END), 30, n_rows=2, n_held_out=1, seed=7)
    assert [text_of(row.ids.tolist()) for row in rows.rows(4)] == ["7step 4<|im_end|>" * 3] * 2
    assert text_of(rows.held_out()[0].ids.tolist()).startswith("7step -1")
    assert rows.rows(4)[0].weights[:3].tolist() == [0.0, 1.0, 1.0]


def test_a_function_whose_examples_do_not_fit_is_an_error() -> None:
    def write(_seed: int, _step: int) -> Any:
        while True:
            yield {"text": "x" * 40}

    rows = GeneratedRows("m:f", write, encoder(), 30, n_rows=2, n_held_out=1, seed=7)
    with pytest.raises(UsageError, match="longer than the context of 30 tokens"):
        rows.rows(0)


def test_records_of_two_kinds_come_from_two_files(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    (tmp_path / "b.txt").write_text("one text\nof two lines")
    found: list[ExampleRecord] = [*read_records(one), *read_records(tmp_path / "b.txt")]
    assert [record.kind for record in found] == [Kind.TEXT, Kind.TEXT]
    assert found[1].parts == [("one text\nof two lines", 1.0)]
