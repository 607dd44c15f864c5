"""Harmony, gpt-oss's format: messages in channels for reasoning, calls and the final answer.

Knows the markers between messages and their headers. Refuses to know templates.
Source: OpenAI's description of the harmony response format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dure.chat.answer_grammar import prefixes_of
from dure.chat.formats.base import Opened
from dure.chat.formats.harmony_parser import HarmonyParser
from dure.chat.json_schema.rules import any_of, literal, sequence
from dure.chat.parser import ChatParser
from dure.chat.plan import Marks, Plan

__all__ = ["Harmony"]

_MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>", "<|call|>")
_BEGIN = "<|start|>assistant"


class Harmony:
    """See CallFormat."""

    written = re.compile(r"to=functions\.probe_tool")

    def markers(self, marks: Marks, *, tools: bool) -> tuple[str, ...]:  # noqa: ARG002
        """See CallFormat."""
        return _MARKERS

    def grammar(self, plan: Plan) -> tuple[str, tuple[str, ...], str]:
        """See CallFormat. At most one call: the model ends its answer after one."""
        call = self._call(plan) if plan.calls else ""
        if call and not plan.forced and not plan.content:
            return call, (self._trigger(),), ""
        final = ""
        if plan.content and not plan.forced:
            head = sequence('"<|channel|>final"', '(" <|constrain|>json")?', '"<|message|>"')
            final = sequence(head, plan.content)
        options = []
        if call:
            options.append(sequence('("<|channel|>commentary" | "<|channel|>analysis")?', call))
        options += [final] if final else []
        if not options:
            return "", (), ""
        return sequence(f"{self._thought(plan)}*", any_of(options)), (), ""

    def _thought(self, plan: Plan) -> str:
        rules = plan.rules
        body = sequence(rules.without("<|end|>"), literal("<|end|>" + _BEGIN))
        return rules.add("thought", sequence('"<|channel|>analysis<|message|>"', body))

    def _call(self, plan: Plan) -> str:
        """Return an expression for a call from ` to=` on; the channel comes before or after it."""
        options = []
        for call in plan.calls:
            name = literal(f" to=functions.{call.name}")
            options.append(sequence(name, "harmony-head", call.arguments))
        channel = '("<|channel|>commentary" | "<|channel|>analysis")?'
        kind = '(" "? "<|constrain|>json" | " json")?'
        plan.rules.define(
            plan.rules.reserve("harmony-head"), sequence(channel, kind, '"<|message|>"')
        )
        return plan.rules.add("call", any_of(options, group=False))

    def _trigger(self) -> str:
        before = "(?:^|<\\|start\\|>assistant|<\\|channel\\|>commentary|<\\|channel\\|>analysis)"
        return f"{before}( to{prefixes_of('=', *'functions', '[.]')})$"

    def parser(
        self,
        tools: Mapping[str, Mapping[str, Any]],
        opened: Opened,
        limit: int | None,  # noqa: ARG002 - the model ends its answer after one call
    ) -> ChatParser:
        """See CallFormat."""
        if opened.content:
            return HarmonyParser(tools, "final")
        return HarmonyParser(tools, "analysis" if opened.reasoning else None)

    def continued(self, content: str, reasoning: str, opened: Opened) -> str:  # noqa: ARG002
        """See CallFormat."""
        text = f"<|channel|>analysis<|message|>{reasoning}" if reasoning else ""
        if content:
            text += f"<|end|>{_BEGIN}" if text else ""
            text += f"<|channel|>final<|message|>{content}"
        return text
