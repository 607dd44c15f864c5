"""Does what users of LangChain's ChatOpenAI do, and prints what they get as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

STORY = "Tell me a story."


class Place(BaseModel):
    """A place."""

    village: str
    size: int


def ring(bell: str) -> str:
    """Ring a bell."""
    return f"{bell} rang"


def found_with(base_url: str, *, responses: bool) -> dict[str, Any]:
    """Return what a model says, over either of OpenAI's APIs."""
    model = ChatOpenAI(
        base_url=base_url,
        api_key="none",
        model="dure-demo",
        temperature=0,
        max_tokens=200,
        max_retries=0,
        use_responses_api=responses,
    )
    called = model.bind_tools([ring], tool_choice="any").invoke("Ring it.")
    (call,) = called.tool_calls
    result = ToolMessage("It rang.", tool_call_id=call["id"])
    turns = [HumanMessage("Ring it."), called, result]
    parsed = model.with_structured_output(Place, method="json_schema").invoke("Where?")
    by_tool = model.with_structured_output(Place, method="function_calling").invoke("Where?")
    return {
        "whole": model.invoke(STORY).text,
        "streamed": "".join(chunk.text for chunk in model.stream(STORY)),
        "call": call["name"],
        "arguments": list(call["args"]),
        "after": model.bind_tools([ring]).invoke(turns).text,
        "parsed": [type(one).__name__ for one in (parsed, by_tool)],
        "too_long": overflows(model),
    }


def overflows(model: ChatOpenAI) -> bool:
    """Return whether a prompt beyond the context raises LangChain's own error for it."""
    try:
        model.invoke("bell " * 3000)
    except ContextOverflowError:
        return True
    return False


if __name__ == "__main__":
    base = f"{sys.argv[1]}/v1"
    embeddings = OpenAIEmbeddings(
        base_url=base, api_key="none", model="any", check_embedding_ctx_length=False
    )
    answers = {
        "chat": found_with(base, responses=False),
        "responses": found_with(base, responses=True),
        "embedded": len(embeddings.embed_documents(["a bell", "the river"])),
    }
    sys.stdout.write(f"{json.dumps(answers)}\n")
