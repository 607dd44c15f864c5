"""Makes a prompt and a grammar of a chat task, and a parser of its answer.

`ChatFormatter` knows one model's vocabulary and chat template. Everything here is pure: no generation,
no I/O, no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

from dure.chat.adapt import adapted
from dure.chat.caller_grammar import checked_grammar, checked_rules, wrapped
from dure.chat.capabilities import Capabilities, capabilities_of
from dure.chat.formats import CallFormat, format_of
from dure.chat.formats.base import Opened
from dure.chat.formats.harmony import Harmony
from dure.chat.instruction import with_tools
from dure.chat.json_schema import Rules, object_rule, schema_rule
from dure.chat.messages import ChatMessage, normalized
from dure.chat.parameter_errors import blaming
from dure.chat.parser import ChatParser
from dure.chat.plan import (
    Marks,
    Plan,
    ReasoningState,
    arguments_rules,
    definitions,
    parameters_of,
    tools_of,
)
from dure.chat.return_points import OTHER_QUESTION, return_points
from dure.chat.task import ChatTask, JsonObject, JsonSchema, NamedTool, Tool
from dure.chat.template import ChatTemplate
from dure.chat.thinking import TemplateVariables, marks_of, state_of, variables_of
from dure.errors import ParameterError, UsageError
from dure.generate.request import Grammar
from dure.model.vocabulary import Vocabulary

__all__ = ["ChatFormatter", "PreparedChat", "template_error"]


def template_error(name: str) -> UsageError:
    """Return the error of a model that has no chat template."""
    return UsageError(
        f"{name} has no chat template",
        "--chat-template FILE gives it one; /v1/completions and `dure run --raw` continue text without",
    )


@dataclass(frozen=True)
class PreparedChat:
    """What to generate, and how to read the answer. Plain data: it can cross a process.

    prompt: token ids; prompt_text: as it was rendered. special: the text of generated tokens must
    include special ones, or the parser misses its marks. tools: the parameters of those that may be
    called, by name; strict_tools: of these, which the arguments must follow. content_schema: what the
    whole content follows: it must, if content_strict. limit: of calls. unmet: wishes that this model
    does not grant, and why.
    """

    prompt: list[int]
    prompt_text: str
    grammar: Grammar | None
    special: bool
    format: CallFormat
    tools: Mapping[str, Mapping[str, Any]]
    opened: Opened
    limit: int | None
    content_schema: Any = None
    content_strict: bool = True
    strict_tools: frozenset[str] = frozenset()
    unmet: Mapping[str, str] = field(default_factory=dict)
    return_points: tuple[int, ...] = ()

    def parser(self) -> ChatParser:
        """Return a new parser, for one choice."""
        return self.format.parser(self.tools, self.opened, self.limit)


class ChatFormatter:
    """Prepares chats for one model. Raises UsageError if the model has no chat template.

    default_template: replaces the model's own.
    """

    def __init__(self, vocabulary: Vocabulary, *, default_template: str | None = None) -> None:
        self._vocabulary = vocabulary
        source = default_template or vocabulary.chat_template()
        if not source:
            raise template_error(vocabulary.name)
        self._plain = _Dialect(source, vocabulary)
        tool_source = "" if default_template else vocabulary.chat_template(tools=True)
        same = not tool_source or tool_source == source
        self._with_tools = self._plain if same else _Dialect(tool_source, vocabulary)

    @property
    def thinks(self) -> bool:
        """Whether the model can think before it answers."""
        return self._plain.thinks

    def prepare(self, task: ChatTask) -> PreparedChat:
        """Return what generating an answer needs. Raises UsageError naming what cannot be done."""
        _check_together(task)
        tools = tools_of(task)
        dialect = self._with_tools if tools else self._plain
        variables = dialect.variables(task)
        text, opened, state = dialect.opening(task, variables, shown=bool(tools))
        plan = _plan(task, tools, dialect.marks, state)
        prompt = self._tokens(text)
        return PreparedChat(
            prompt=prompt,
            prompt_text=text,
            grammar=self._grammar(task, plan, dialect),
            special=self._hidden(dialect.format.markers(dialect.marks, tools=bool(tools))),
            format=dialect.format,
            tools={tool.name: parameters_of(tool) for tool in tools},
            opened=opened,
            limit=plan.limit,
            content_schema=_content_schema(task.response_format),
            content_strict=getattr(task.response_format, "strict", True),
            strict_tools=frozenset(tool.name for tool in tools if tool.strict),
            unmet=variables.unmet_by(text, dialect.marks),
            return_points=self._return_points(
                dialect, task, variables, prompt, text, shown=bool(tools)
            ),
        )

    def _return_points(
        self,
        dialect: _Dialect,
        task: ChatTask,
        variables: TemplateVariables,
        prompt: list[int],
        text: str,
        *,
        shown: bool,
    ) -> tuple[int, ...]:
        if self._vocabulary.keeps_all:
            return ()
        other, closed = dialect.beginnings(task, variables, shown=shown)
        return return_points(self._vocabulary, prompt, text, other=other, closed=closed)

    def _tokens(self, text: str) -> list[int]:
        bos = self._vocabulary.bos_text
        written = bool(bos) and text.startswith(bos)
        return self._vocabulary.tokenize(text, special=True, add_bos=not written)

    def _grammar(self, task: ChatTask, plan: Plan, dialect: _Dialect) -> Grammar | None:
        if task.grammar is not None:
            with blaming("grammar"):
                own = checked_grammar(self._vocabulary, task.grammar)
            if plan.reasoning == "free" and not _asks_to_think(task):
                plan = replace(plan, reasoning="none")  # the caller has said how the answer begins
            return wrapped(own, plan)
        root, triggers, tag = dialect.format.grammar(plan)
        if not root:
            return None
        with blaming("grammar"):
            gbnf = _checked_rules(plan.rules.text(root))
        tokens = self._vocabulary.tokenize(tag, special=True, add_bos=False) if tag else []
        if len(tokens) == 1:
            return Grammar(gbnf, trigger_tokens=tuple(tokens))
        return Grammar(gbnf, triggers=triggers)

    def _hidden(self, markers: Sequence[str]) -> bool:
        """Return whether one of these is a special token, whose text is hidden by default."""
        for marker in markers:
            tokens = self._vocabulary.tokenize(marker, special=True, add_bos=False)
            if len(tokens) == 1 and not self._vocabulary.piece(tokens[0]):
                return True
        return False


class _Dialect:
    """One template, and what was found out about it."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        self.template = ChatTemplate(
            source, model=vocabulary.name, bos=vocabulary.bos_text, eos=vocabulary.eos_text
        )
        self.marks = marks_of(self.template)

    @cached_property
    def can(self) -> Capabilities:
        """What the template can do."""
        return capabilities_of(self.template)

    @cached_property
    def _recognized(self) -> tuple[CallFormat, bool]:
        return format_of(self.can)

    @property
    def format(self) -> CallFormat:
        """The format in which the model writes calls."""
        return self._recognized[0]

    @property
    def thinks(self) -> bool:
        """Whether the model can think before it answers."""
        return bool(self.marks.closing) or isinstance(self.format, Harmony)

    def variables(self, task: ChatTask) -> TemplateVariables:
        """Return what the template is given besides messages and tools."""
        return variables_of(task, self.template, self.can, thinks=self.thinks)

    def opening(
        self, task: ChatTask, variables: TemplateVariables, *, shown: bool
    ) -> tuple[str, Opened, ReasoningState]:
        """Return the prompt's text, what of the answer it begins, and whether reasoning follows."""
        messages, last = _split_last(normalized(task.messages), task.continue_last)
        text = self._rendered(task, messages, variables.values, shown=shown)
        state = state_of(text, self.marks)
        if variables.declined and state == "open":
            text, state = text + self.marks.closing, "none"
        opened = Opened(self.marks, reasoning=state == "open")
        if last is None:
            return text, opened, state
        content, reasoning = last["content"], last.get("reasoning_content", "")
        text += self.format.continued(content, reasoning, opened)
        if content:
            return text, Opened(self.marks, content=True), "none"
        if reasoning:
            return text, Opened(self.marks, reasoning=True), "open"
        return text, opened, state

    def beginnings(
        self, task: ChatTask, variables: TemplateVariables, *, shown: bool
    ) -> tuple[str, str]:
        """Return the prompts of another question after the same system message, and without an answer's
        beginning; "" for what the template refuses.
        """
        messages, _ = _split_last(normalized(task.messages), task.continue_last)
        system = takewhile(lambda message: message["role"] == "system", messages)
        other: list[ChatMessage] = [*system, {"role": "user", "content": OTHER_QUESTION}]
        closed = replace(task, add_generation=False)
        texts = []
        for of_task, of_messages in ((task, other), (closed, messages)):
            try:
                texts.append(self._rendered(of_task, of_messages, variables.values, shown=shown))
            except UsageError:
                texts.append("")
        return texts[0], texts[1]

    def _rendered(
        self,
        task: ChatTask,
        messages: Sequence[ChatMessage],
        variables: Mapping[str, Any],
        *,
        shown: bool,
    ) -> str:
        native = self._recognized[1]
        tools = definitions(task.tools) if shown else []
        if tools and not native:
            messages, tools = with_tools(messages, tools), []
        fitted = adapted(messages, self.can, native_calls=native)
        return self.template.render(
            fitted,
            tools=tools,
            add_generation_prompt=task.add_generation,
            variables=variables,
        )


def _plan(task: ChatTask, tools: Sequence[Tool], marks: Marks, state: ReasoningState) -> Plan:
    rules = Rules()
    return Plan(
        rules=rules,
        marks=marks,
        calls=arguments_rules(rules, tools),
        forced=task.tool_choice == "required" or isinstance(task.tool_choice, NamedTool),
        limit=None if task.parallel_tool_calls else 1,
        content=_content_rule(rules, task.response_format),
        reasoning=state,
    )


def _asks_to_think(task: ChatTask) -> bool:
    return bool(task.enable_thinking) or task.reasoning_effort not in (None, "none")


@lru_cache(maxsize=64)  # clients send the same tools with every request
def _checked_rules(gbnf: str) -> str:
    return checked_rules(gbnf)


def _check_together(task: ChatTask) -> None:
    if task.grammar is None:
        return
    if task.response_format is not None:
        raise UsageError("grammar and response_format exclude each other", "give one of them")
    if task.tools and task.tool_choice != "none":
        raise UsageError("grammar and tools exclude each other", "give one of them")


def _split_last(
    messages: list[ChatMessage], continues: bool
) -> tuple[list[ChatMessage], ChatMessage | None]:
    if not continues:
        return messages, None
    last = messages[-1]
    if last["role"] != "assistant" or "tool_calls" in last:
        raise ParameterError(
            "messages",
            "messages: only an assistant's text can be continued, and the last message is none",
        )
    if not messages[:-1]:
        raise ParameterError(
            "messages", "messages: an answer to continue needs a message before it"
        )
    return messages[:-1], last


def _content_rule(rules: Rules, wanted: JsonObject | JsonSchema | None) -> str:
    if wanted is None:
        return ""
    if isinstance(wanted, JsonObject):
        return object_rule(rules)
    try:
        return schema_rule(rules, wanted.schema, strict=wanted.strict)
    except UsageError as error:
        raise ParameterError(
            "response_format", f"response_format: {error.problem}", error.cure
        ) from error


def _content_schema(wanted: JsonObject | JsonSchema | None) -> Any:
    if isinstance(wanted, JsonObject):
        return {"type": "object"}
    return wanted.schema if wanted is not None else None
