"""The openai client talks to the demo model itself, through an engine that is a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.support.serving import Served, served_model, wait_until

QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "Tell me a story."}
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served_model() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60) as made:
        yield made


def test_a_greedy_stream_and_a_greedy_answer_are_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="any", messages=QUESTION, temperature=0, max_tokens=24
    )
    stream = client.chat.completions.create(
        model="any", messages=QUESTION, temperature=0, max_tokens=24, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    assert len(text.split()) > 8


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(
            model="any", messages=QUESTION, temperature=1.2, seed=3, max_tokens=16, n=2
        )
        for _ in range(2)
    ]
    first, second = ([choice.message.content for choice in one.choices] for one in answers)
    assert first == second
    assert first[0] != first[1]


def test_logprobs_are_those_of_the_text_and_sum_to_less_than_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any", messages=QUESTION, logprobs=True, top_logprobs=5, max_tokens=8, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content
    for entry in logprobs.content:
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-4)
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )


class Answer(BaseModel):
    """What a caller wants to have."""

    village: str
    size: Literal["small", "large"]


def test_parse_gives_what_the_schema_asks_for_even_from_a_tiny_model(
    client: openai.OpenAI,
) -> None:
    answer = client.chat.completions.parse(
        model="any", messages=QUESTION, response_format=Answer, max_tokens=400, temperature=0
    )
    assert answer.choices[0].message.parsed is not None
    assert answer.choices[0].message.parsed.size in ("small", "large")


def test_a_required_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=QUESTION,
        max_tokens=400,
        temperature=0,
        tool_choice="required",
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "ring",
                    "parameters": {
                        "type": "object",
                        "properties": {"bell": {"enum": ["old", "new"]}},
                        "required": ["bell"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
    )
    calls = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert calls is not None
    assert calls[0].type == "function"
    assert json.loads(calls[0].function.arguments)["bell"] in ("old", "new")


def test_embeddings_of_the_same_text_are_the_same_and_of_another_are_not(
    client: openai.OpenAI,
) -> None:
    data = client.embeddings.create(model="any", input=["a bell", "a bell", "the river"]).data
    assert data[0].embedding == pytest.approx(data[1].embedding, abs=1e-3)
    likeness = sum(a * b for a, b in zip(data[0].embedding, data[2].embedding, strict=True))
    assert likeness < 0.999


def test_a_stream_that_is_left_frees_its_place(server: Served, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="any", messages=QUESTION, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    wait_until(lambda: slots_in_use(server) == 1, "no slot is in use")
    stream.close()
    wait_until(lambda: slots_in_use(server) == 0, "the slot is not free")


def slots_in_use(server: Served) -> int:
    slots = httpx.get(f"{server.url}/slots", timeout=60).json()
    return sum(slot["is_processing"] for slot in slots)


def test_a_second_request_finds_the_first_ones_prompt_in_the_cache(client: openai.OpenAI) -> None:
    story: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "The bell of Solbat. " * 20}
    ]
    for _ in range(2):
        answer = client.chat.completions.create(model="any", messages=story, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert answer.usage.prompt_tokens - 32 <= cached < answer.usage.prompt_tokens


def test_a_grammar_is_followed(server: Served) -> None:
    body = {"prompt": "Once", "grammar": 'root ::= "a"{5}', "n_predict": 20}
    answer = httpx.post(f"{server.url}/completion", json=body, timeout=60).json()
    assert answer["content"] == "aaaaa"
    assert answer["stop_type"] == "eos"


def test_a_forbidden_token_is_never_chosen(server: Served) -> None:
    body = {"prompt": "Once upon", "temperature": 0, "n_predict": 1, "return_tokens": True}
    url = f"{server.url}/completion"
    (first,) = httpx.post(url, json=body, timeout=60).json()["tokens"]
    biased = {**body, "logit_bias": [[first, False]]}
    (other,) = httpx.post(url, json=biased, timeout=60).json()["tokens"]
    assert other != first


def test_answers_of_one_request_share_its_prompt_and_their_steps(
    server: Served, client: openai.OpenAI
) -> None:
    """The prompt is computed once, and each step has a token of every answer."""
    engine, n, n_tokens = server.state.model.engine, 4, 48
    before = engine.stats
    answer = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "The bell rang over the fields. " * 40}],
        n=n,
        max_tokens=n_tokens,
        temperature=1.2,
        extra_body={"ignore_eos": True},
    )
    wanted = before.generated_tokens + n * n_tokens
    wait_until(lambda: engine.stats.generated_tokens >= wanted, "the figures do not come")
    after, usage = engine.stats, answer.usage
    assert usage is not None
    assert usage.completion_tokens == n * n_tokens
    computed = after.prompt_tokens - before.prompt_tokens
    assert usage.prompt_tokens <= computed < 1.5 * usage.prompt_tokens  # of each, the end
    assert after.steps - before.steps < 2 * n_tokens
