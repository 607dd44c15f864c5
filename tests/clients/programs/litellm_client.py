"""Does what users of LiteLLM do, through every one of its providers that fits, and prints what they get."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm
from pydantic import BaseModel

STORY = [{"role": "user", "content": "Tell me a story."}]
RING = {
    "type": "function",
    "function": {
        "name": "ring",
        "description": "Ring a bell.",
        "parameters": {
            "type": "object",
            "properties": {"bell": {"type": "string"}},
            "required": ["bell"],
        },
    },
}


class Place(BaseModel):
    """A place."""

    village: str
    size: int


def found_with(provider: str, api_base: str) -> dict[str, Any]:
    """Return what a model says through one of LiteLLM's providers."""
    asked: dict[str, Any] = {
        "model": f"{provider}/dure-demo",
        "api_base": api_base,
        "api_key": "none",
        "temperature": 0,
        "timeout": 60,
        "num_retries": 0,
    }
    long = {**asked, "max_tokens": 300}
    asked["max_tokens"] = 24
    whole = litellm.completion(messages=STORY, metadata={"trace": "1"}, **asked)
    stream = litellm.completion(
        messages=STORY, stream=True, stream_options={"include_usage": True}, **asked
    )
    chunks = list(stream)
    parsed = litellm.completion(messages=STORY, response_format=Place, **long)
    called = litellm.completion(messages=STORY, tools=[RING], tool_choice="required", **long)
    (call, *_) = called.choices[0].message.tool_calls or [None]
    return {
        "whole": whole.choices[0].message.content,
        "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "tokens": whole.usage.completion_tokens,
        "parsed": type(Place.model_validate_json(parsed.choices[0].message.content)).__name__,
        "call": call and call.function.name,
        "too_long": refusal_of("bell " * 3000, asked),
    }


def refusal_of(prompt: str, asked: dict[str, Any]) -> str:
    """Return the name of the error that LiteLLM raises for a prompt."""
    try:
        litellm.completion(messages=[{"role": "user", "content": prompt}], **asked)
    except litellm.BadRequestError as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    url = sys.argv[1]
    addresses = {
        "openai": f"{url}/v1",
        "hosted_vllm": f"{url}/v1",
        "anthropic": url,
        "ollama_chat": url,
    }
    answers = {name: found_with(name, address) for name, address in addresses.items()}
    sys.stdout.write(f"{json.dumps(answers)}\n")
