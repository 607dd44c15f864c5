"""A model's chat template: a program from a file that writes a conversation as the model's prompt.

Knows Jinja as Hugging Face's templates use it, and keeps it in bounds: sandboxed, with a limit to its
output, its loops and its arithmetic. Refuses to know what the messages mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from dure.errors import UsageError

__all__ = ["ChatTemplate"]

OUTPUT_LIMIT = 1 << 24  # characters
RANGE_LIMIT = 1 << 20  # numbers counted in all loops of one rendering
TEXT_LIMIT = 1 << 20  # of a text or list that is multiplied
RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "documents"}
)


class ChatTemplate:
    """One template, ready to render. Raises UsageError if it is not Jinja."""

    def __init__(self, source: str, *, model: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._model, self._bos, self._eos = model, bos, eos
        try:
            environment = _environment()
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except Exception as error:  # the text is from a file: it may break anything
            raise UsageError(
                f"the chat template of {model} is damaged: {_message_of(error)}",
                "get the file again",
            ) from error
        names = {n.name for n in tree.find_all(jinja2.nodes.Name) if n.ctx == "load"}
        self.variables = frozenset(names - RESERVED)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt's text. Raises UsageError if the template refuses, or breaks."""
        values = {
            "date_string": _strftime_now("%d %b %Y"),  # else Llama 3 thinks it is July 2024
            **(variables or {}),
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "raise_exception": _refuse,
            "strftime_now": _strftime_now,
            "range": _Range(),
        }
        if tools:
            values["tools"] = tools
        if "functions" in self.variables:  # an older name; its templates want text, and the date
            values["functions"] = _tojson(tools, indent=4)
            values["datetime"] = _strftime_now("%b %d %Y %H:%M")
        try:
            return self._bounded(values)
        except Exception as error:  # a template is a program from the file: it may raise anything
            raise UsageError(
                f"the chat template of {self._model} refuses these messages: {_message_of(error)}"
            ) from error

    def _bounded(self, values: Mapping[str, Any]) -> str:
        written, pieces = 0, []
        for piece in self._template.generate(values):
            written += len(piece)
            if written > OUTPUT_LIMIT:
                raise ValueError(f"it writes more than {OUTPUT_LIMIT} characters")
            pieces.append(piece)
        return "".join(pieces)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Denies Python's own attributes, and arithmetic that fills the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" and max(abs(left), abs(right)) > 1 << 10:
            raise ValueError("a power is too large")
        for many, times in ((left, right), (right, left)):
            if hasattr(many, "__len__") and isinstance(times, int):
                _check_length(len(many) * times)
        return super().call_binop(context, operator, left, right)


class _GenerationTag(jinja2.ext.Extension):
    """Renders the body of `{% generation %}`, which only marks what is learnt in training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Return the statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Range:
    """Counts as `range` does, with one budget for a whole rendering."""

    def __init__(self) -> None:
        self._left = RANGE_LIMIT

    def __call__(self, *bounds: int) -> range:
        counted = range(*bounds)
        self._left -= len(counted)
        if self._left < 0:
            raise OverflowError(f"Range too big: loops count beyond {RANGE_LIMIT}")
        return counted


def _environment() -> jinja2.Environment:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    return environment


def _check_length(length: int) -> None:
    if length > TEXT_LIMIT:
        raise ValueError(f"a text or list of {length} is too long")


def _refuse(message: str) -> str:
    raise ValueError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(  # Jinja's own escapes <, > and & for HTML
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _message_of(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
