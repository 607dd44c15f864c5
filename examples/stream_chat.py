"""Stream the answers of a conversation, and let the model call a function: `stream_chat.py [MODEL]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import dure

DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"


def weather(day: Literal["today", "tomorrow"]) -> dict[str, str]:
    """Say what the weather will be in the village."""
    return {"day": day, "sky": "clear"}


def main(path: str | Path = DEMO) -> None:
    """Ask twice with the history, then let it call `weather` and answer with what that returned."""
    messages: list[dict[str, Any]] = []
    with dure.open(path) as model:
        for question in ("Tell me a story about a goat.", "Who is the story about?"):
            print(f"\n> {question}")
            messages.append({"role": "user", "content": question})
            stream = model.chat(messages, stream=True, max_tokens=120, seed=1)
            for piece in stream:
                print(piece, end="", flush=True)
            print()
            messages.append(stream.answer().message)

        question = "May we work on the field tomorrow?"
        print(f"\n> {question}")
        messages.append({"role": "user", "content": question})
        answer = model.chat(messages, tools=[weather], tool_choice="weather", seed=1)
        messages.append(answer.message)
        for call in answer.tool_calls:
            result = weather(**call.arguments)
            print(f"{call.name}({dict(call.arguments)}) returned {result}")
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)}
            )
        print(model.chat(messages, max_tokens=60, seed=1))


if __name__ == "__main__":
    main(*sys.argv[1:2])
