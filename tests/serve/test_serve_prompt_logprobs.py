"""/v1/completions with `echo` and `logprobs`: what the demo model gives to the prompt itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

import dure
from tests.support.serving import DEMO_MODEL, Served, served_model

TEXT = "Once upon a time there was a barley farmer called Nari. <|im_end|>Sóra 두레"
LONG = "Once upon a time a goat went to the mill, and the baker asked it for flour. " * 6


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served_model() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60) as made:
        yield made


def completed(server: Served, **fields: Any) -> list[dict[str, Any]]:
    """Return the choices of an answer."""
    done = httpx.post(f"{server.url}/v1/completions", json=fields, timeout=60)
    assert done.status_code == 200, done.text
    choices: list[dict[str, Any]] = done.json()["choices"]
    return choices


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_a_prompt_has_the_logprobs_of_its_logits(server: Served, text: str) -> None:
    """Of text and of its tokens alike: null first, then each token's, with the likeliest beside it."""
    with dure.open(DEMO_MODEL, threads=1) as model:
        tokens, expected = model.tokenize(text), model.logprobs(text)
        greedy = model.logits(text).argmax(axis=1)
        pieces = [model.detokenize([int(token)], special=True) for token in greedy]
    asked = {"echo": True, "logprobs": 2, "max_tokens": 0}
    (choice,) = completed(server, prompt=text, **asked)
    assert choice == completed(server, prompt=tokens, **asked)[0]
    told = choice["logprobs"]
    assert choice["text"] == text.replace("<|im_end|>", "")
    assert {len(column) for column in told.values()} == {len(tokens)}
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    np.testing.assert_allclose(told["token_logprobs"][1:], expected[1:], atol=0.02)
    for own, top, piece in zip(
        told["token_logprobs"][1:], told["top_logprobs"][1:], pieces, strict=False
    ):
        assert len(top) <= 2
        assert max(top, key=lambda name: top[name]) == piece
        assert own <= max(top.values()), "equal to the last bit if it is the likeliest"
    assert max(told["top_logprobs"][3].values()) == told["token_logprobs"][3]


def test_offsets_are_places_in_the_text(client: openai.OpenAI) -> None:
    """Each token begins where its offset says, in the prompt and in the answer after it."""
    answer = client.completions.create(
        model="any", prompt=TEXT, echo=True, logprobs=0, max_tokens=12, temperature=0
    )
    choice = answer.choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert answer.usage is not None
    assert len(told.tokens) == answer.usage.total_tokens
    for token, at in zip(told.tokens, told.text_offset, strict=True):
        visible = "" if token == "<|im_end|>" else token  # noqa: S105  # of a model
        if "\ufffd" not in visible:  # a part of a character
            assert choice.text[at:].startswith(visible), token


def test_a_stream_begins_with_the_whole_prompt(server: Served, client: openai.OpenAI) -> None:
    """Its first chunk has the prompt's text and logprobs; all chunks add up to the whole answer."""
    asked: dict[str, Any] = {
        "model": "any",
        "prompt": LONG,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 6,
        "temperature": 0,
    }
    (whole,) = completed(server, **asked)
    chunks = list(client.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].text == LONG
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole["text"]
    for name in ("tokens", "token_logprobs", "text_offset"):
        columns = (chunk.choices[0].logprobs for chunk in chunks)
        assert [one for column in columns if column for one in getattr(column, name)] == (
            whole["logprobs"][name]
        )


def test_many_prompts_and_answers_each_have_their_own(server: Served) -> None:
    """Two prompts with two answers each: a choice has its prompt's logprobs, and then its own."""
    prompts = ["The goat went home.", "Once upon a time"]
    choices = completed(
        server, prompt=prompts, n=2, echo=True, logprobs=1, max_tokens=3, seed=1, temperature=1
    )
    for i, choice in enumerate(choices):
        (alone,) = completed(server, prompt=prompts[i // 2], echo=True, logprobs=1, max_tokens=0)
        n = len(alone["logprobs"]["tokens"])
        assert choice["logprobs"]["tokens"][:n] == alone["logprobs"]["tokens"]
        assert len(choice["logprobs"]["tokens"]) == n + 3
        assert choice["text"].startswith(prompts[i // 2])


def test_what_is_not_scored_is_refused_by_name(server: Served) -> None:
    """A prompt with a suffix is not what was sent; vLLM's own field names the way."""
    for fields, param in (
        ({"echo": True, "logprobs": 1, "suffix": " end"}, "suffix"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ):
        done = httpx.post(f"{server.url}/v1/completions", json={"prompt": "Once", **fields})
        assert done.status_code == 400
        assert done.json()["error"]["param"] == param
    assert "use echo and logprobs" in done.text


def test_tokens_in_the_form_of_vllm(server: Served) -> None:
    """A text named `prompt` begins as the model wants; tokens have a count, and their text two names."""

    def post(path: str, **body: Any) -> Any:
        done = httpx.post(f"{server.url}{path}", json=body)
        return done.json() if done.status_code == 200 else done.status_code

    ours = post("/tokenize", content="Once upon")["tokens"]
    bare = post("/tokenize", prompt="Once upon", add_special_tokens=False)
    assert bare == {"tokens": ours, "count": len(ours)}
    assert post("/detokenize", tokens=ours) == {"content": "Once upon", "prompt": "Once upon"}
    begun = post("/tokenize", content="Once upon", add_special=True)
    assert post("/tokenize", prompt="Once upon") == begun
    assert post("/tokenize") == post("/tokenize", prompt="a", content="a") == 400
    info = httpx.get(f"{server.url}/tokenizer_info").json()
    assert post("/tokenize", content=info["eos_token"])["count"] == 1
    assert "<|im_start|>" in info["chat_template"]
