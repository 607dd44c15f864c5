"""Records a request, and makes a line of the record.

Never holds what was asked or answered, nor a key. Control characters are escaped, so that nobody can
forge a line. Refuses to know where lines go: `log_sink` writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["RequestRecord", "current_record", "json_line", "record_of", "text_line"]

_LONGEST = 512  # characters of a path or another text of the caller's
_UNSAFE = re.compile(r"[^\x21-\x7e]|[\"\\=]")


@dataclass
class RequestRecord:
    """What is known of one HTTP request, filled in on its way; times in seconds.

    A route finds it as `request.state.record`, what runs below one as `current_record`, and sets what
    only it knows, from `model` on. ttft_s: to the first token. owner: the name of the caller's key.
    """

    id: str
    method: str = ""
    path: str = ""
    route: str = ""  # the path's template; set by whoever has no routes
    client: str = ""
    owner: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    started: float = 0.0  # seconds since 1970
    duration_s: float = 0.0
    hung_up: bool = False
    model: str = ""
    stream: bool | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    finish_reason: str = ""
    ignored: tuple[str, ...] = ()  # fields that had no effect
    extra: dict[str, str | int | float] = field(default_factory=dict)  # as {"route_target": "pod"}
    at_end: list[Callable[[], None]] = field(default_factory=list)  # called once it has ended


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)


def record_of(scope: Any) -> RequestRecord | None:
    """Return the record of an ASGI request, None if it has none."""
    record = scope.get("state", {}).get("record")
    return record if isinstance(record, RequestRecord) else None


def json_line(record: RequestRecord) -> str:
    """Return the record as one line of JSON, ASCII only."""
    return json.dumps({"time": _time(record), **_fields(record)}, ensure_ascii=True)


def text_line(record: RequestRecord) -> str:
    """Return the record as one line for people: time, method, path, status, then name=value."""
    fields = _fields(record)
    head = [_time(record), *(_plain(fields.pop(name)) for name in ("method", "path", "status"))]
    return " ".join([*head, *(f"{name}={_plain(value)}" for name, value in fields.items())])


def _fields(record: RequestRecord) -> dict[str, Any]:
    """Return the fields that are known, in the order in which they are read."""
    known = {
        "id": record.id,
        "key": record.owner,
        "client": record.client,
        "method": record.method,
        "path": record.path[:_LONGEST],
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_s": round(record.duration_s, 4),
        "hung_up": record.hung_up or None,
        "model": record.model[:_LONGEST],
        "stream": record.stream,
        "ttft_s": None if record.ttft_s is None else round(record.ttft_s, 4),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "finish_reason": record.finish_reason,
        "ignored": ",".join(record.ignored),
        **record.extra,
    }
    return {name: value for name, value in known.items() if value is not None and value != ""}


def _time(record: RequestRecord) -> str:
    stamp = datetime.fromtimestamp(record.started, UTC).isoformat(timespec="milliseconds")
    return stamp.removesuffix("+00:00") + "Z"


def _plain(value: object) -> str:
    """Return a value as one word: without blanks, quotes and control characters."""
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    return _UNSAFE.sub(lambda match: _escape(match[0]), text) or "-"


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
