"""What Open WebUI (0.12.4) sends to a server, as its source says it: it takes gigabytes to install.

Its connections of both kinds are here, OpenAI's and Ollama's: what it asks when it starts and when its list
of models is opened, a chat with every setting of its side panel, and the title that it asks for then.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

STORY = [
    {"role": "system", "content": "You are a villager."},
    {"role": "user", "content": "Tell me a story."},
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "Where."}},
            "required": ["place"],
        },
    },
}
TITLE = {"role": "user", "content": "### Task:\nGenerate a concise title for: Tell me a story."}
# After a call: as OpenAI's API has it, and as convert_messages_openai_to_ollama writes it.
CALLED: list[dict[str, Any]] = [
    *STORY,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "index": 0,
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": "Solbat"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
]
CALLED_OLLAMA: list[dict[str, Any]] = [
    *STORY,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "index": 0,
                "id": "call_1",
                "function": {"name": "weather", "arguments": {"place": "Solbat"}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
]
# Every setting of its side panel: apply_model_params_to_body_openai and ..._ollama.
OPENAI_SETTINGS = {
    "temperature": 0.5,
    "top_p": 0.9,
    "min_p": 0.05,
    "max_tokens": 24,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "reasoning_effort": "low",
    "seed": 1,
    "stop": ["END"],
    "logit_bias": {"100": -100},
}
OLLAMA_SETTINGS = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "seed": 1,
    "num_ctx": 2048,
    "num_batch": 512,
    "num_keep": 24,
    "num_predict": 24,
    "repeat_last_n": 64,
    "repeat_penalty": 1.1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "stop": ["END"],
    "num_gpu": 0,
    "num_thread": 4,
    "use_mmap": True,
    "use_mlock": False,
}
CHAT = {"model": "dure-demo", "stream": True}


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send a request; it must not be refused."""
    answer = httpx.post(url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def said_to_openai(answer: httpx.Response) -> str:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def said_to_ollama(answer: httpx.Response) -> str:
    parts = [json.loads(line) for line in answer.text.splitlines()]
    assert parts[-1]["done"]
    return "".join(part["message"]["content"] for part in parts)


def test_the_models_of_both_connections_are_listed(demo: str) -> None:
    """It shows a model of OpenAI's list by its `id`, and one of Ollama's by `model` and `name`."""
    (one,) = httpx.get(f"{demo}/v1/models").json()["data"]
    (tag,) = httpx.get(f"{demo}/api/tags").json()["models"]
    (loaded,) = httpx.get(f"{demo}/api/ps").json()["models"]
    assert one["id"] == tag["model"] == tag["name"] == loaded["model"] == "dure-demo"
    assert loaded["expires_at"]
    version = httpx.get(f"{demo}/api/version").json()["version"]
    assert all(part.isdigit() for part in version.split("."))
    assert post(demo, "/api/show", {"model": "dure-demo"}).json()["model_info"]


@pytest.mark.parametrize("settings", [{"max_tokens": 24}, OPENAI_SETTINGS])
def test_a_chat_over_openais_api(demo: str, settings: dict[str, Any]) -> None:
    options = {"stream_options": {"include_usage": True}, **settings}
    assert said_to_openai(
        post(demo, "/v1/chat/completions", {**CHAT, **options, "messages": STORY})
    )
    called = {**CHAT, **options, "messages": CALLED, "tools": [WEATHER]}
    post(demo, "/v1/chat/completions", called)


@pytest.mark.parametrize("settings", [{"num_predict": 24}, OLLAMA_SETTINGS])
@pytest.mark.parametrize("more", [{}, {"keep_alive": "10m", "think": False}])
def test_a_chat_over_ollamas_api(demo: str, settings: dict[str, Any], more: dict[str, Any]) -> None:
    chat = {**CHAT, "options": settings, **more}
    assert said_to_ollama(post(demo, "/api/chat", {**chat, "messages": STORY}))
    post(demo, "/api/chat", {**chat, "messages": CALLED_OLLAMA, "tools": [WEATHER]})


def test_a_title_is_asked_for_in_one_piece(demo: str) -> None:
    body = {"model": "dure-demo", "messages": [TITLE], "stream": False}
    title = post(demo, "/v1/chat/completions", {**body, "max_tokens": 32}).json()
    assert title["choices"][0]["message"]["content"]
    title = post(demo, "/api/chat", {**body, "options": {"num_predict": 32}}).json()
    assert title["message"]["content"]


def test_unloading_the_model_is_answered_and_it_stays(demo: str) -> None:
    answer = post(demo, "/api/generate", {"model": "dure-demo", "keep_alive": 0, "prompt": ""})
    assert json.loads(answer.text.splitlines()[-1])["done"]
    assert httpx.get(f"{demo}/api/ps").json()["models"]
