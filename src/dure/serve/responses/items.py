"""The items of an answer while they are generated: their events in the stream, and their values.

An item returns events without their sequence numbers, and its `value` so far.
Refuses to know which item comes when, and how the response ends.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from dure.chat.task import TokenLogprob
from dure.serve.dialect.answering import StreamObject
from dure.serve.dialect.logprobs import logprob_entries
from dure.serve.responses.conversation import sealed
from dure.serve.responses.requests import ItemStatus

__all__ = ["CallOutput", "MessageOutput", "OutputItem", "ReasoningOutput"]


class OutputItem(Protocol):
    """One item of the output."""

    @property
    def status(self) -> ItemStatus:
        """Whether it is still generated, complete, or cut off."""

    def opened(self) -> list[StreamObject]:
        """Return the events of its beginning."""

    def closed(self, status: ItemStatus) -> list[StreamObject]:
        """Return the events of its end, complete or cut off."""

    def value(self) -> dict[str, Any]:
        """Return the item so far."""


class _WrittenItem:
    """What all items share: an id, an index, a status."""

    prefix = "item"

    def __init__(self, index: int) -> None:
        self.id = f"{self.prefix}_{uuid.uuid4().hex}"
        self.index = index
        self.status: ItemStatus = "in_progress"

    def value(self) -> dict[str, Any]:
        raise NotImplementedError

    def _added(self) -> StreamObject:
        return {
            "type": "response.output_item.added",
            "output_index": self.index,
            "item": self.value(),
        }

    def _done(self) -> StreamObject:
        return {
            "type": "response.output_item.done",
            "output_index": self.index,
            "item": self.value(),
        }

    def _event(self, kind: str, **fields: Any) -> StreamObject:
        return {"type": kind, "item_id": self.id, "output_index": self.index, **fields}


class _TextItem(_WrittenItem):
    """An item with one part of text."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._pieces: list[str] = []
        self._begun = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def _part(self) -> dict[str, Any]:
        raise NotImplementedError

    def _text_done(self) -> StreamObject:
        raise NotImplementedError

    def opened(self) -> list[StreamObject]:
        added = self._added()
        self._begun = True
        part = self._event("response.content_part.added", content_index=0, part=self._part())
        return [added, part]

    def closed(self, status: ItemStatus) -> list[StreamObject]:
        part = self._event("response.content_part.done", content_index=0, part=self._part())
        self.status = status
        return [self._text_done(), part, self._done()]


class MessageOutput(_TextItem):
    """What the model says. with_logprobs: every part carries those of its tokens."""

    prefix = "msg"

    def __init__(self, index: int, *, with_logprobs: bool) -> None:
        super().__init__(index)
        self._logprobs: list[dict[str, Any]] | None = [] if with_logprobs else None

    def more(self, text: str, logprobs: Sequence[TokenLogprob]) -> StreamObject:
        """Add text, and return its event."""
        self._pieces.append(text)
        entries = logprob_entries(logprobs)
        if self._logprobs is not None:
            self._logprobs += entries
        return {
            "type": "response.output_text.delta",
            "item_id": self.id,
            "output_index": self.index,
            "content_index": 0,
            "delta": text,
            "logprobs": entries,
        }

    def value(self) -> dict[str, Any]:
        """Return the message so far; without its part until that has begun."""
        return {
            "id": self.id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": [self._part()] if self._begun else [],
        }

    def _part(self) -> dict[str, Any]:
        logprobs = list(self._logprobs or ())
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": logprobs}

    def _text_done(self) -> StreamObject:
        return self._event(
            "response.output_text.done",
            content_index=0,
            text=self.text,
            logprobs=self._logprobs or [],
        )


class ReasoningOutput(_TextItem):
    """What the model thinks. seal: the item carries `encrypted_content` as well."""

    prefix = "rs"

    def __init__(self, index: int, *, seal: bool) -> None:
        super().__init__(index)
        self._seal = seal

    def more(self, text: str) -> StreamObject:
        """Add text, and return its event."""
        self._pieces.append(text)
        return {
            "type": "response.reasoning_text.delta",
            "item_id": self.id,
            "output_index": self.index,
            "content_index": 0,
            "delta": text,
        }

    def value(self) -> dict[str, Any]:
        """Return the item so far; without its part until that has begun."""
        content = [self._part()] if self._begun else []
        ended = self.status != "in_progress"
        return {
            "id": self.id,
            "type": "reasoning",
            "status": self.status,
            "summary": [],
            "content": content,
            "encrypted_content": sealed(self.text) if self._seal and ended else None,
        }

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def _text_done(self) -> StreamObject:
        return self._event("response.reasoning_text.done", content_index=0, text=self.text)


class CallOutput(_WrittenItem):
    """A call of a function."""

    prefix = "fc"

    def __init__(self, index: int, call_id: str, name: str) -> None:
        super().__init__(index)
        self._call_id, self._name = call_id, name
        self._pieces: list[str] = []

    def opened(self) -> list[StreamObject]:
        """Return the event that names the call, before its arguments come."""
        return [self._added()]

    def more(self, text: str) -> StreamObject:
        """Add to the arguments, and return the event."""
        self._pieces.append(text)
        return self._event("response.function_call_arguments.delta", delta=text)

    def closed(self, status: ItemStatus) -> list[StreamObject]:
        """Return the events of the end, complete or cut off."""
        self.status = status
        done = self._event(
            "response.function_call_arguments.done",
            name=self._name,
            arguments="".join(self._pieces),
        )
        return [done, self._done()]

    def value(self) -> dict[str, Any]:
        """Return the call so far."""
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
        }
