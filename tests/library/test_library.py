"""`import dure`: what a program writes, and that it gets what the command line gives."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import dure
from dure.generate.request import Sampling
from dure.library.arguments import SamplingArguments
from tests.support.dure_process import Dure, as_json

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
STORY = "Tell me a story about a goat."
TEXT = "Once upon a time there was a barley farmer called Nari."


@pytest.fixture(scope="module")
def model() -> Iterator[dure.Model]:
    """The demo model in this process, for three answers at once."""
    with dure.open(DEMO, threads=1, parallel=3, ctx=1024) as model:
        yield model


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_chat_has_the_text_of_dure_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """The same model, prompt and sampling give a program the same answer as a user, on ranks too."""
    monkeypatch.setenv("DURE_CACHE", str(tmp_path))
    command = ("--ranks", ranks, "--sync", "f32", "--threads", 1, "--temp", 0, "-n", 60, "--json")
    said = as_json(Dure(tmp_path)("run", DEMO, STORY, *command))
    with dure.open(DEMO, ranks=ranks, sync="f32", threads=1) as model:
        answer = model.chat(STORY, temperature=0, max_tokens=60)
        assert model.n_ranks == ranks
    assert str(answer) == answer.text == said["text"]
    assert (answer.finish, len(answer.tokens)) == (said["finish"], said["tokens"])
    assert answer.timings.prompt_tokens == said["prompt_tokens"]


def test_a_stream_is_the_answer_in_pieces(model: dure.Model) -> None:
    """Pieces come one by one and add up to the whole answer, which the stream has at its end."""
    whole = model.chat(STORY, temperature=0, max_tokens=40)
    stream = model.chat(STORY, temperature=0, max_tokens=40, stream=True)
    pieces = [str(piece) for piece in stream]
    assert len(pieces) > 10
    assert "".join(pieces) == stream.answer().text == whole.text
    assert stream.answer().tokens == whole.tokens


def test_a_stream_that_is_left_ends(model: dure.Model) -> None:
    """After a loop was left, or a block, the slots are free, and what comes next is right."""
    expected = model.generate(TEXT, temperature=0, max_tokens=10).text
    for _ in range(5):
        with model.generate(TEXT, seed=1, stream=True) as stream:
            next(stream)
        for _piece in model.generate(TEXT, seed=1, stream=True):
            break
        assert list(stream) == []
    with pytest.raises(dure.UsageError, match="ended before it was complete"):
        stream.answer()
    assert model.generate(TEXT, temperature=0, max_tokens=10).text == expected


def test_streams_may_be_read_in_turns(model: dure.Model) -> None:
    """Two streams that are read side by side say what each says alone."""
    alone = {
        text: model.generate(text, temperature=0, max_tokens=12).text for text in (TEXT, "The goat")
    }
    streams = {
        text: model.generate(text, temperature=0, max_tokens=12, stream=True) for text in alone
    }
    told = dict.fromkeys(alone, "")
    for _ in range(12):
        for text, stream in streams.items():
            told[text] += str(next(stream, ""))
    assert told == alone


def test_a_list_of_prompts_gets_a_list_of_answers(model: dure.Model) -> None:
    """More prompts than run at once: each has the answer it has alone, the i-th with seed + i."""
    prompts = ["The goat", "The river", "Nari", "The mill", "The goat"]
    answers = model.generate(prompts, max_tokens=8, seed=7)
    alone = [model.generate(p, max_tokens=8, seed=7 + i) for i, p in enumerate(prompts)]
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    assert answers[0].text != answers[4].text
    tokens = [model.tokenize(prompt) for prompt in prompts]
    assert [a.text for a in model.generate(tokens, max_tokens=8, seed=7)] == [
        a.text for a in answers
    ]


def test_threads_share_a_model(model: dure.Model) -> None:
    """Five threads ask at once, and each gets its own answer."""
    prompts = ["The goat", "The river", "Nari", "The mill", TEXT]
    alone = {
        prompt: model.generate(prompt, temperature=0, max_tokens=20).text for prompt in prompts
    }
    told: dict[str, str] = {}

    def ask(prompt: str) -> None:
        told[prompt] = model.generate(prompt, temperature=0, max_tokens=20).text

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == alone


def test_logits_score_a_text(model: dure.Model) -> None:
    """Logits are one row a token; the log-probability of a text follows from them."""
    tokens = model.tokenize(TEXT)
    logits = model.logits(TEXT)
    assert logits.shape == (len(tokens), model.n_vocab)
    assert logits.dtype == np.float32
    assert (logits == model.logits(tokens)).all()
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = log_softmax[np.arange(len(tokens) - 1), tokens[1:]]
    logprobs = model.logprobs(TEXT)
    assert np.isnan(logprobs[0])
    np.testing.assert_allclose(logprobs[1:], own, atol=1e-3)
    scrambled = "Nari called was farmer barley a there time a upon Once."
    assert logprobs[1:].mean() > model.logprobs(scrambled)[1:].mean()
    following = model.generate(TEXT, temperature=0, max_tokens=1, logprobs=3)
    assert following.tokens == (int(logits[-1].argmax()),)
    top = following.logprobs[0].top
    assert [one.token for one in top] == np.argsort(-logits[-1])[:3].tolist()


def test_texts_and_tokens(model: dure.Model) -> None:
    """Tokens of a text are the text again; special tokens are read by name, unless they must not be."""
    assert model.detokenize(model.tokenize(TEXT)) == TEXT
    marked = "<|im_end|>"
    assert len(model.tokenize(marked)) == 1 < len(model.tokenize(marked, special=False))
    assert model.detokenize(model.tokenize(marked), special=True) == marked
    assert model.generate(np.array(model.tokenize(TEXT)), max_tokens=1).tokens  # type: ignore[call-overload]


def test_an_answer_stops_and_follows_what_it_was_told(model: dure.Model) -> None:
    """Stop strings, the limit of tokens, a schema and a grammar hold."""
    free = model.generate(TEXT, temperature=0, max_tokens=12)
    assert (free.finish, len(free.tokens)) == ("length", 12)
    stop = free.text.split()[3]
    stopped = model.generate(TEXT, temperature=0, max_tokens=12, stop=stop)
    assert stopped.text == free.text.partition(stop)[0]
    assert stopped.finish == "stop"
    assert model.generate(TEXT, grammar='root ::= " yes" | " no"').text in (" yes", " no")
    schema = {"type": "object", "properties": {"open": {"type": "boolean"}}, "required": ["open"]}
    for answer in (model.generate(TEXT, json_schema=schema), model.chat(STORY, json_schema=schema)):
        assert '"open"' in answer.text
    assert model.generate(TEXT, max_tokens=0).text == ""


def ring(bell: Literal["old", "new"], loud: bool = True) -> None:
    """Ring a bell of the village."""


def test_a_function_is_a_tool(model: dure.Model) -> None:
    """The model is shown its arguments and docstring; its call comes back as values, and goes on."""
    answer = model.chat("Ring!", tools=[ring], tool_choice="ring", temperature=0)
    assert answer.finish == "tool_calls"
    assert answer.tool_calls[0].name == "ring"
    assert answer.tool_calls[0].arguments["bell"] in ("old", "new")
    result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "It rang."}
    messages = [{"role": "user", "content": "Ring!"}, answer.message, result]
    after = model.chat(messages, max_tokens=1)
    shown = model.chat("Ring!", tools=[ring], max_tokens=0).timings.prompt_tokens
    assert after.timings.prompt_tokens > model.chat("Ring!", max_tokens=0).timings.prompt_tokens
    parameters = {"type": "object", "properties": {"bell": {"enum": ["old", "new"]}}}
    form = {"type": "function", "function": {"name": "ring", "parameters": parameters}}
    again = model.chat("Ring!", tools=[form], tool_choice="required", temperature=0)
    assert again.tool_calls[0].name == "ring"
    undescribed = model.chat("Ring!", tools=[form], max_tokens=0).timings.prompt_tokens
    assert shown > undescribed, "the docstring, and the other argument"
    with pytest.raises(dure.UsageError, match=r"tools\[0\] has no name"):
        model.chat("Ring!", tools=[{}])


def test_a_function_whose_arguments_are_no_json_is_no_tool(model: dure.Model) -> None:
    """The error names it, and what to do."""

    def ring_at(moment: threading.Thread) -> None:
        """Ring."""

    with pytest.raises(dure.UsageError, match=r"tools\[0\]: the arguments of ring_at"):
        model.chat("Ring!", tools=[ring_at])


def test_mistakes_are_errors_of_dure_that_name_arguments(model: dure.Model, tmp_path: Path) -> None:
    """What cannot be done raises a DureError, with names of Python in it and not those of options."""
    for problem, arguments in {
        r"^ranks 0: give a number": {"ranks": 0},
        r"^parallel 500: give a number": {"parallel": 500},
        r"^threads 0: give": {"threads": 0},
        r"^shares 1,2 names 2 ranks, but ranks says 3": {"shares": [1, 2], "ranks": 3},
        r"^nodes, interface and share_node are for cluster": {"nodes": ["pi-1"]},
    }.items():
        with pytest.raises(dure.DureError, match=problem):
            dure.open(DEMO, **arguments)  # type: ignore[arg-type]
    with pytest.raises(
        dure.UsageError, match=r"run `dure pull qwen3:0.6b`, or open it with pull=True"
    ):
        dure.open("qwen3:0.6b")
    with pytest.raises(dure.UsageError, match="there is no model of this name"):
        dure.open("qwen33")
    with pytest.raises(dure.ModelError):
        dure.open(tmp_path / "none.gguf")
    with pytest.raises(dure.ContextError, match="too long"):
        model.generate("The goat. " * 1000)
    for call in (
        lambda: model.generate(""),
        lambda: model.generate("a", max_tokens=-1),
        lambda: model.generate("a", temperature=-1),
        lambda: model.generate([model.n_vocab]),
        lambda: model.generate(["a", "b"], stream=True),  # type: ignore[call-overload]
        lambda: model.generate("a", grammar="root ::= x"),
        lambda: model.generate("a", grammar='root ::= "a"', json_schema={}),
        lambda: model.chat([]),
        lambda: model.chat("a", tools=[ring], tool_choice="sing"),
        lambda: model.detokenize([-1]),
        lambda: model.logits(""),
    ):
        with pytest.raises(dure.UsageError):
            call()


def test_an_argument_that_is_none_is_named_with_the_nearest(model: dure.Model) -> None:
    """As Python does for other functions; what `chat` alone has is no argument of `generate`."""
    with pytest.raises(
        TypeError, match=r"generate\(\) .* 'temprature': did you mean temperature\?"
    ):
        model.generate("a", temprature=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"chat\(\) .* 'tool': did you mean tools\?"):
        model.chat("a", tool=ring)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"generate\(\) has no argument 'tools'$"):
        model.generate("a", tools=[ring])  # type: ignore[call-overload]


def test_an_error_has_its_cure_apart_in_words_of_python(model: dure.Model, tmp_path: Path) -> None:
    """Of a request, of a file and of a start."""
    with pytest.raises(dure.ContextError) as caught:
        model.generate("The goat. " * 1000)
    assert "dure.open(ctx=...)" in caught.value.cure
    assert "--" not in str(caught.value)
    with pytest.raises(dure.ModelError) as missing:
        dure.open(tmp_path / "none.gguf")
    assert (missing.value.cure, str(missing.value)[-16:]) == ("check the name", ": check the name")
    with pytest.raises(dure.UsageError) as long:
        dure.open(DEMO, ctx=10**6)
    assert long.value.cure == "use at most ctx 2048"


def test_only_what_is_cut_is_told_as_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A start whose shards are here says nothing of a cut."""
    monkeypatch.setenv("DURE_CACHE", str(tmp_path))
    told = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("INFO", "dure"), dure.open(DEMO, ranks=2, threads=1):
            told.append([line for line in caplog.messages if "cutting" in line])
    assert told == [["cutting dure-demo.gguf"], []]


def test_a_closed_model_says_so() -> None:
    """It may be closed twice; every call after that is an error."""
    with dure.open(DEMO, threads=1, draft="off") as model:
        stream = model.generate(TEXT, stream=True)
        next(stream)
    model.close()
    assert "(closed)" in repr(model)
    for call in (
        lambda: model.generate(TEXT),
        lambda: model.generate([1, 2]),
        lambda: model.chat(STORY),
        lambda: model.logits([1]),
        lambda: model.detokenize([1]),
        lambda: next(stream),
    ):
        with pytest.raises(dure.UsageError, match="the model is closed"):
            call()


def test_the_module_is_light_and_typed() -> None:
    """Importing it imports nothing; its names are there when they are used; types come along."""
    program = (
        "import dure, sys; print(*{m for m in sys.modules if m not in sys.stdlib_module_names})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "dure" in loaded
    assert not loaded & {"numpy", "pydantic", "msgspec", "llama_cpp"}
    assert not [name for name in done.stdout.split() if name.startswith("dure.")]
    assert files("dure").joinpath("py.typed").is_file()
    assert dir(dure) == sorted(dure.__all__, key=str)
    assert all(getattr(dure, name) is not None for name in dure.__all__)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        dure.opne  # noqa: B018


def test_every_parameter_of_sampling_is_an_argument() -> None:
    """A new one must be added to the arguments too."""
    named = {*SamplingArguments.__annotations__, "temperature", "seed"}
    assert named == set(Sampling.__struct_fields__)
