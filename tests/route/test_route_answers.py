"""What a router reads from answers that pass: the figures of every dialect, and none of the text's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dure.route.answer_watch import AnswerWatch
from dure.route.dialects import read_request
from dure.route.learning import Measured


def seen(*pieces: bytes) -> Measured:
    """The figures of an answer that was sent at second 10 and came in pieces, one a second from 11 on."""
    watch = AnswerWatch(10.0)
    for number, piece in enumerate(pieces):
        watch.see(piece, 11.0 + number)
    return watch.measured(waited=False, believed_cached=0)


def event(**data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("pieces", "prompt", "answer", "cached"),
    [
        (
            [json.dumps({"usage": {"prompt_tokens": 9, "completion_tokens": 3}}).encode()],
            9,
            3,
            None,
        ),
        (
            [event(x=1), event(usage={"input_tokens": 4, "output_tokens": 2, "cached_tokens": 1})],
            4,
            2,
            1,
        ),
        (
            [
                event(usage={"input_tokens": 1, "cache_read_input_tokens": 12, "output_tokens": 0}),
                event(usage={"input_tokens": 1, "cache_read_input_tokens": 12, "output_tokens": 5}),
            ],
            13,
            5,
            12,
        ),
        ([event(x=1), event(timings={"cache_n": 4, "prompt_n": 9, "predicted_n": 3})], 13, 3, 4),
        ([b'{"done":true,"prompt_eval_count":13,"eval_count":2}\n'], 13, 2, None),
        ([event(delta="a"), event(delta="b"), event(delta="c")], 0, 3, None),
    ],
    ids=["openai", "responses", "anthropic", "llama-server", "ollama", "events"],
)
def test_tokens_are_those_that_the_dialect_tells(
    pieces: list[bytes], prompt: int, answer: int, cached: int | None
) -> None:
    """Of the prompt, cached ones included; of the answer; and how many were cached."""
    found = seen(*pieces)
    assert (found.prompt_tokens, found.answer_tokens, found.cached_tokens) == (
        prompt,
        answer,
        cached,
    )


def test_times_are_the_upstreams_if_it_tells_them() -> None:
    """In milliseconds or nanoseconds; otherwise the pieces' own."""
    told = seen(event(timings={"prompt_ms": 500.0, "predicted_ms": 2000.0, "queue_ms": 100.0}))
    assert (told.prompt_s, told.answer_s, told.queue_s) == (0.5, 2.0, 0.1)
    ollama = seen(b'{"prompt_eval_duration":500000000,"eval_duration":2000000000}\n')
    assert (ollama.prompt_s, ollama.answer_s) == (0.5, 2.0)
    plain = seen(event(x=1), event(x=2), event(x=3))
    assert (plain.first_s, plain.total_s, plain.answer_s) == (1.0, 3.0, None)


def test_a_comment_is_no_beginning() -> None:
    """It says that the upstream is there still, while it reads the prompt."""
    assert seen(b": keep-alive\n\n", event(x=1)).first_s == 2.0
    assert seen(b": keep", b"-alive", b"\n", b"\r\n: data: x\r\n", event(x=1)).first_s == 5.0
    assert seen(b": keep-alive\n\n" + event(x=1)).first_s == 1.0
    assert seen(b": keep", b"-alive\ndata: x").first_s == 2.0


def test_a_text_that_looks_like_figures_is_a_text() -> None:
    """Its quotes have backslashes."""
    text = 'say "completion_tokens": 99 and {"prompt_tokens": 77}'
    body = json.dumps({"content": text, "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    found = seen(body.encode())
    assert (found.prompt_tokens, found.answer_tokens) == (5, 2)


def test_figures_are_found_behind_a_long_answer() -> None:
    """Only its beginning and its end are kept."""
    found = seen(*[event(x="y" * 1000)] * 500, event(usage={"completion_tokens": 500}))
    assert found.answer_tokens == 500


# ---------------------------------------------------------------- requests


def test_a_target_is_behind_the_models_name_only_if_there_is_one_of_its_name() -> None:
    """A model's own name may have an @."""
    for named, model, target in (
        ("qwen3:8b@desk", "qwen3:8b", "desk"),
        ("owner@model", "owner@model", ""),
        ("auto@desk", "", "desk"),
        ("@desk", "", "desk"),
    ):
        body = json.dumps({"model": named, "messages": []}).encode()
        found = read_request("/v1/chat/completions", body, ("desk",))
        assert (found.model, found.target) == (model, target)


def test_tools_images_and_limits_are_seen() -> None:
    """In the fields of each dialect."""
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    chat = {"messages": [{"role": "user", "content": [image]}], "tools": [{}], "max_tokens": 7}
    found = read_request("/v1/chat/completions", json.dumps(chat).encode(), ())
    assert (found.tools, found.vision, found.most) == (True, True, 7)
    words = {"messages": [{"content": 'the word "image_url"'}], "tools": [], "max_tokens": None}
    found = read_request("/v1/chat/completions", json.dumps(words).encode(), ())
    assert (found.tools, found.vision, found.most) == (False, False, None)
    ollama = {"prompt": "x", "options": {"num_predict": 5}}
    assert read_request("/api/generate", json.dumps(ollama).encode(), ()).most == 5
