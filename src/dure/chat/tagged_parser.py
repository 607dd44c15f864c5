"""Parses answers in which tags enclose reasoning and tool calls.

A call that turns out to be none is given back as the text that it was: nothing is lost.
Refuses to know how a call itself is written: its reader does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dure.chat.call_reader import CallReader
from dure.chat.parser import StateParser, held_back
from dure.chat.tag_reader import TagReader
from dure.chat.task import Content, Reasoning

__all__ = ["TaggedParser", "Tags"]


@dataclass(frozen=True)
class Tags:
    """What encloses parts of an answer; "" if there is no such tag.

    reasoning: what opens and closes it. calls: any of these opens a call, `close_call` closes it.
    bare_calls: a call may also stand without a tag, at the beginning or after another call.
    separators: characters between calls that mean nothing.
    """

    reasoning: tuple[str, str] = ("", "")
    calls: tuple[str, ...] = ()
    close_call: str = ""
    bare_calls: bool = False
    separators: str = ""


class TaggedParser(StateParser):
    """A ChatParser for answers with tags.

    read_call: makes a reader of a call from its index, and whether it stands without a tag; None if
    calls are not wanted.
    reasons: the prompt has opened the reasoning already. continues: the prompt has begun the content.
    """

    def __init__(
        self,
        tags: Tags,
        read_call: Callable[[int, bool], CallReader | TagReader] | None = None,
        *,
        max_calls: int | None = None,
        reasons: bool = False,
        continues: bool = False,
    ) -> None:
        super().__init__()
        self._tags, self._read_call, self._max_calls = tags, read_call, max_calls
        self._fresh = False  # nothing of this section is out yet: its leading space is no text
        self._bare = False  # a call without tag may begin here
        self._reader: CallReader | TagReader | None = None
        self._tag = self._space = ""  # of the call that is being read, and the space before it
        self._raw_call: list[str] = []  # its text, until it is one
        self._around: type[Content | Reasoning] = Content  # where the call stands
        self._state = self._begin
        if reasons:
            self._state = self._reopen
        elif continues:
            self._state = self._content

    # -- states: each consumes what it can of the pending text, and says whether to go on

    def _begin(self, final: bool) -> bool:
        opening = self._tags.reasoning[0]
        lead = self._pending.lstrip()
        if opening and lead.startswith(opening):
            self._pending = lead[len(opening) :]
            return self._enter(self._reason)
        if opening and opening.startswith(lead) and not final:
            return False
        self._bare = self._tags.bare_calls
        self._state = self._content
        return True

    def _reopen(self, final: bool) -> bool:
        opening = self._tags.reasoning[0]
        lead = self._pending.lstrip()
        if opening.startswith(lead) and not final:
            return False
        if lead.startswith(opening):
            self._pending = lead[len(opening) :]
        return self._enter(self._reason)

    def _reason(self, final: bool) -> bool:
        self._strip_if_fresh()
        closing = self._tags.reasoning[1]
        if (first := _first(self._pending, (closing, *self._openers()))) is not None:
            at, tag = first
            if tag != closing:
                return self._begin_call(at, tag, Reasoning)
            self._emit(Reasoning(self._pending[:at].rstrip()))
            self._pending = self._pending[at + len(tag) :]
            self._bare = self._tags.bare_calls
            return self._enter(self._content)
        self._emit(Reasoning(self._let_go((closing, *self._openers()), final)))
        return False

    def _content(self, final: bool) -> bool:
        self._strip_if_fresh()
        openers = self._openers()
        if self._bare and openers:
            lead = self._pending.lstrip()
            if lead.startswith("{"):
                return self._begin_call(len(self._pending) - len(lead), "", Content)
            if not lead and not final:
                return False
            self._bare = any(tag.startswith(lead) for tag in openers)
        if (first := _first(self._pending, openers)) is not None:
            return self._begin_call(*first, Content)
        self._emit(Content(self._let_go(openers, final)))
        return False

    def _call(self, final: bool) -> bool:
        assert self._reader is not None
        known = self._reader.accepted
        read = self._reader.feed(self._pending, final)
        if not read.events and read.state == "rejected":
            return self._reject()
        self._n_calls += self._reader.accepted and not known
        if not self._reader.accepted:
            self._raw_call.append(self._pending[: len(self._pending) - len(read.rest)])
        self._events += read.events
        self._pending = read.rest
        if read.state == "more":
            return False
        self._state = self._after_call
        return True

    def _after_call(self, final: bool) -> bool:
        closing = self._tags.close_call
        lead = self._pending.lstrip()
        if closing and lead.startswith(closing):
            self._pending = lead[len(closing) :]
        elif closing and closing.startswith(lead) and not final:
            return False
        self._state = self._between
        return True

    def _between(self, final: bool) -> bool:
        """Skip the separators after a call; a bare call may follow."""
        lead = self._pending.lstrip(self._tags.separators + " \t\r\n")
        openers = self._openers() + (("{",) if self._tags.bare_calls else ())
        if any(opener.startswith(lead) for opener in openers) and not final:
            return False
        if any(lead.startswith(opener) for opener in openers):
            self._pending = lead
        self._bare = self._tags.bare_calls
        return self._enter(self._content)

    # -- steps

    def _enter(self, state: Callable[[bool], bool]) -> bool:
        self._fresh, self._state = True, state
        return True

    def _openers(self) -> tuple[str, ...]:
        full = self._max_calls is not None and self._n_calls >= self._max_calls
        return () if self._read_call is None or full else self._tags.calls

    def _begin_call(self, at: int, tag: str, around: type[Content | Reasoning]) -> bool:
        assert self._read_call is not None
        before = self._pending[:at]
        self._pending = self._pending[at + len(tag) :]
        self._emit(around(before.rstrip()))
        self._tag, self._space = tag, before[len(before.rstrip()) :]
        self._reader, self._raw_call = self._read_call(self._n_calls, not tag), []
        self._around, self._state = around, self._call
        return True

    def _reject(self) -> bool:
        """Give back a call that is none: its tag is text, and what followed is parsed again."""
        self._pending = "".join(self._raw_call) + self._pending
        tag = self._tag or self._pending[:1]  # without a tag, its bracket is text at least
        if not self._tag:
            self._pending = self._pending[1:]
        self._bare = self._fresh = False
        self._emit(self._around(self._space + tag))
        self._state = self._reason if self._around is Reasoning else self._content
        return True

    def _strip_if_fresh(self) -> None:
        if self._fresh:
            self._pending = self._pending.lstrip()
            self._fresh = not self._pending

    def _let_go(self, tags: tuple[str, ...], final: bool) -> str:
        n_held = 0 if final else held_back(self._pending, tags)
        cut = len(self._pending) - n_held
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text

    def _emit(self, event: Content | Reasoning) -> None:
        if event.text:
            self._events.append(event)


def _first(text: str, tags: tuple[str, ...]) -> tuple[int, str] | None:
    """Return where the first of some tags begins, and the tag; None if the text has none of them."""
    return min(((text.find(tag), tag) for tag in tags if tag and tag in text), default=None)
