"""OpenAI's old form of tools, `functions` and `function_call`, read as tools and written back.

Knows both forms. Refuses to know what a model makes of them.
"""

from __future__ import annotations

from typing import Any

from dure.errors import ParameterError
from dure.serve.openai.chat_request import (
    ChosenFunction,
    ConversationParameters,
    OpenAIToolChoice,
    OpenAIToolField,
)

__all__ = ["with_tools", "with_tools_in_messages"]


def with_tools(request: ConversationParameters) -> ConversationParameters:
    """Return a request with tools instead of functions. Raises ParameterError if it has both."""
    if not request.functions and request.function_call is None:
        return request
    for name in ("tools", "tool_choice"):
        if getattr(request, name):
            raise ParameterError(
                "functions", f"functions, function_call and {name} exclude each other", "use tools"
            )
    choice: Any = request.function_call
    if isinstance(choice, ChosenFunction):
        if all(function.name != choice.name for function in request.functions or ()):
            raise ParameterError(
                "function_call", f"function_call: no function is named {choice.name!r}"
            )
        choice = OpenAIToolChoice(type="function", function=choice)
    tools = [OpenAIToolField(function=function) for function in request.functions or ()]
    update = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
    return request.model_copy(update=update)


def with_tools_in_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with calls of tools instead of functions; a result belongs to the call before it."""
    result, call_id = [], ""
    for i, message in enumerate(messages):
        if (function := message.get("function_call")) is not None:
            call_id = f"call_{i}"
            call = {"id": call_id, "type": "function", "function": function}
            calls = [*(message.get("tool_calls") or ()), call]
            rest = {name: value for name, value in message.items() if name != "function_call"}
            result.append({**rest, "tool_calls": calls})
        elif message["role"] == "function":
            result.append({**message, "role": "tool", "tool_call_id": call_id})
        else:
            result.append(message)
    return result
