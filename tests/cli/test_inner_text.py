"""What a model writes for itself and for programs is not shown: channels, thoughts, marks of calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.chat_templates import GEMMA, HARMONY
from tests.support.dure_process import Dure, as_json
from tests.support.parrot import tokens_of, write_speaker

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GREEDY = ("--temp", 0, "--threads", 1)
CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
    "<|im_start|>assistant\n"
)
THOUGHTS = CHATML + "{# <think> </think> #}"
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
CALL = (
    "<|end|><|start|>assistant<|channel|>commentary to=functions.ring <|constrain|>json<|message|>"
)

SPEAKERS = [
    ("channels", HARMONY, [ANALYSIS, "Who, then?", FINAL, "The goat."], "The goat."),
    ("thoughts", THOUGHTS, ["<think>", "Who, then?", "</think>", "The goat."], "The goat."),
    (
        "a call in a channel",
        HARMONY,
        [ANALYSIS, "Who, then?", CALL, '{"bell": "old"}'],
        'ring {"bell": "old"}',
    ),
    (
        "a call in tags",
        THOUGHTS,
        [
            *("<think>", "Who, then?", "</think>", "The goat."),
            *("<tool_call>", '{"name": "ring", "arguments": {"bell": "old"}}', "</tool_call>"),
        ],
        'The goat.\nring {"bell": "old"}',
    ),
]


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path)
    yield program
    assert program.left_behind() == []


@pytest.mark.parametrize(
    ("template", "pieces", "shown"), [s[1:] for s in SPEAKERS], ids=[s[0] for s in SPEAKERS]
)
def test_a_pipe_gets_the_answer_only(
    dure: Dure, tmp_path: Path, template: str, pieces: Sequence[str], shown: str
) -> None:
    """From `run` and `chat`, whatever is said about thinking; --json has the thoughts apart."""
    model = tmp_path / "model.gguf"
    write_speaker(model, DEMO, pieces, template)
    ran = dure("run", model, "hi", *GREEDY)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, shown + "\n", "")
    assert dure("run", model, "hi", *GREEDY, "--think", "off").stdout == shown + "\n"
    chatted = dure("chat", model, *GREEDY, stdin="hi\nand now?\n")
    assert (chatted.stdout, chatted.stderr) == (2 * (shown + "\n"), "")
    facts = as_json(dure("run", model, "hi", *GREEDY, "--json"))
    assert (facts["text"], facts["reasoning"]) == (shown, "Who, then?")
    assert facts["finish"] == "stop"


def test_a_terminal_shows_thoughts_beside_the_answer(dure: Dure, tmp_path: Path) -> None:
    """Without the marks around them."""
    model = tmp_path / "model.gguf"
    _, template, pieces, _ = SPEAKERS[0]
    write_speaker(model, DEMO, pieces, template)
    with dure.terminal("run", model, "hi", *GREEDY) as terminal:
        said = terminal.read_all()
    assert said.index("Who, then?") < said.index("The goat.")
    assert "<|" not in said


def test_a_system_message_reaches_a_model_whose_template_refuses_it(
    dure: Dure, tmp_path: Path
) -> None:
    """As the server does it: the text goes before the user's."""
    model, system = tmp_path / "model.gguf", "You are the baker."
    write_speaker(model, DEMO, ["The goat."], GEMMA)
    plain = as_json(dure("run", model, "hi", *GREEDY, "--json"))
    told = as_json(dure("run", model, "hi", *GREEDY, "--json", "--system", system))
    assert told["text"] == "The goat."
    more = told["prompt_tokens"] - plain["prompt_tokens"]
    assert more >= len(tokens_of(DEMO, system))
