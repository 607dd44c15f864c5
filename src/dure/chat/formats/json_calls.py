"""Formats of calls in JSON: Hermes and Qwen within tags, Llama 3 without, and a generic one.

Knows their syntax and common grammar. Refuses to know templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dure.chat.answer_grammar import after_lead, one_or_more, prefixes_of
from dure.chat.call_reader import CallReader
from dure.chat.formats.base import AnyTool, Opened
from dure.chat.json_schema.objects import gap
from dure.chat.json_schema.rules import Rules, any_of, literal, sequence
from dure.chat.parser import ChatParser
from dure.chat.plan import CallRule, Marks, Plan
from dure.chat.tag_reader import TagReader
from dure.chat.tagged_parser import TaggedParser, Tags

__all__ = ["GENERIC", "HERMES", "LLAMA3", "SPACE", "JsonCalls"]

SPACE = "[ \\t\\n]{0,4}"
_GAP = "(?: |\\n[ \\t]{0,40})?"


@dataclass(frozen=True)
class JsonCalls:
    """A model family. bare: a call may come without its tag. key: of the arguments."""

    written: re.Pattern[str]
    opening: str
    closing: str
    key: str
    separator: str
    bare: bool = False

    def markers(self, marks: Marks, *, tools: bool) -> tuple[str, ...]:
        """See CallFormat."""
        own = (self.opening, self.closing) if tools else ()
        return tuple(filter(None, (marks.opening, marks.closing, *own)))

    # -- grammar

    def grammar(self, plan: Plan) -> tuple[str, tuple[str, ...], str]:
        """See CallFormat."""
        calls = self._calls(plan) if plan.calls else ""
        if calls and not plan.forced and not plan.content:
            return calls, (self.trigger(plan.calls),), "" if self.bare else self.opening
        options = [calls] if calls else []
        if plan.content and not plan.forced:
            options.append(plan.content)
        if not options:
            return "", (), ""
        return after_lead(plan, any_of(options)), (), ""

    def _calls(self, plan: Plan) -> str:
        rules, space = plan.rules, plan.rules.add("call-space", SPACE)
        objects = [rules.add("call", self.call_rule(rules, call)) for call in plan.calls]
        tag = literal(self.opening)
        call = sequence(f"({tag})?" if self.bare else tag, space, any_of(objects))
        if self.closing:
            call = sequence(call, space, literal(self.closing))
        one = rules.add("tagged-call", call)
        return rules.add("calls", one_or_more(rules, one, literal(self.separator), plan.limit))

    def call_rule(self, rules: Rules, call: CallRule) -> str:
        """Return an expression for the text between the tags."""
        space = gap(rules)
        kind = f'("\\"type\\":" {space} "\\"function\\"," {space})?' if self.bare else ""
        name = sequence(literal('"name":'), space, literal(f'"{call.name}",'), space)
        arguments = sequence(literal(f'"{self.key}":'), space, call.arguments)
        return sequence('"{"', space, kind, name, arguments, space, '"}"')

    def trigger(self, calls: Sequence[CallRule]) -> str:
        """Return a regular expression that matches once a call has begun, by its tag or a tool's name.

        One for all tools: what does not begin like a call is seen at once, however many there are.
        It matches up to the end of the answer so far, so that nothing unknown follows the match.
        """
        tag = re.escape(self.opening)
        if not self.bare:
            head = prefixes_of("\\{" + _GAP, '"', "n", "a", "m", "e", '"')
            return f"({tag}{SPACE}{head})$"
        kind = f'(?:"type":{_GAP}"function",{_GAP})?'
        names = "|".join(re.escape(call.name) for call in calls)
        head = f'\\{{{_GAP}{kind}"name":{_GAP}"(?:{names})'
        rest = prefixes_of('"', "," + _GAP, '"', *self.key, '"', ":")
        return f"^{SPACE}((?:{tag})?{SPACE}{head}{rest})$"

    # -- answers

    def parser(
        self, tools: Mapping[str, Mapping[str, Any]], opened: Opened, limit: int | None
    ) -> ChatParser:
        """See CallFormat."""
        tags = Tags(
            reasoning=(opened.marks.opening, opened.marks.closing),
            calls=(self.opening,),
            close_call=self.closing,
            bare_calls=self.bare
            and not isinstance(tools, AnyTool),  # it may be JSON that was wanted
            separators=self.separator.strip(),
        )

        def read(index: int, bare: bool) -> CallReader | TagReader:
            return self.reader(tools, index, bare)

        return TaggedParser(
            tags,
            read if tools else None,
            max_calls=limit,
            reasons=opened.reasoning,
            continues=opened.content,
        )

    def reader(
        self, tools: Mapping[str, Mapping[str, Any]], index: int, bare: bool
    ) -> CallReader | TagReader:
        """Return a reader of one call. bare: it has no tag."""
        return CallReader(tools, index, eager=bare)

    def continued(self, content: str, reasoning: str, opened: Opened) -> str:
        """See CallFormat."""
        marks = opened.marks
        if reasoning and marks.opening:
            begun = "" if opened.reasoning else marks.opening + "\n"
            done = f"\n{marks.closing}\n\n{content}" if content else ""
            return begun + reasoning + done
        if opened.reasoning and content:
            return f"\n{marks.closing}\n\n{content}"
        return content


HERMES = JsonCalls(
    written=re.compile(r'<tool_call>\s*\{\s*"name":\s*"probe_tool",\s*"arguments":\s*\{'),
    opening="<tool_call>",
    closing="</tool_call>",
    key="arguments",
    separator="\n",
)
LLAMA3 = JsonCalls(
    written=re.compile(r'(?<!<tool_call>)\n\n\{"name":\s*"probe_tool",\s*"parameters":\s*\{'),
    opening="<|python_tag|>",
    closing="",
    key="parameters",
    separator="; ",
    bare=True,
)
GENERIC = HERMES  # `instruction` describes it to the model
