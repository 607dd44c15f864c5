"""Writes conversations as the server will write them: with the model's own chat template.

What a tuned model is asked later and what it was tuned with then have the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dure.chat.adapt import adapted
from dure.chat.capabilities import capabilities_of
from dure.chat.formats import format_of
from dure.chat.instruction import with_tools
from dure.chat.messages import ChatMessage, normalized
from dure.chat.plan import definitions
from dure.chat.task import Tool
from dure.chat.template import ChatTemplate
from dure.errors import UsageError

__all__ = ["ChatText"]


class ChatText:
    """One model's template, ready to write conversations. Raises UsageError if it is damaged."""

    def __init__(self, source: str, *, model: str, bos: str = "", eos: str = "") -> None:
        self._template = ChatTemplate(source, model=model, bos=bos, eos=eos)
        self._can = capabilities_of(self._template)
        self._native = format_of(self._can)[1]

    def write(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        asks: bool = False,
    ) -> str:
        """Return a conversation's text; asks: it ends where the assistant's next answer begins.

        Raises UsageError that names the message's place.
        """
        fitted: Sequence[ChatMessage] = normalized(messages)
        shown = definitions([_tool(tool, i) for i, tool in enumerate(tools)])
        if shown and not self._native:
            fitted, shown = with_tools(fitted, shown), []
        fitted = adapted(fitted, self._can, native_calls=self._native)
        return self._template.render(fitted, tools=shown, add_generation_prompt=asks)


def _tool(said: Mapping[str, Any], number: int) -> Tool:
    function = said.get("function", said)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise UsageError(f"tools[{number}] has no name", "write tools as in OpenAI's chat API")
    description = function.get("description")
    return Tool(
        name=name,
        description=description if isinstance(description, str) else "",
        parameters=function.get("parameters") or {},
    )
