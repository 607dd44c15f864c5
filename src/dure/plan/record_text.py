"""Writes plain data as TOML that people read: a line for each figure, tables one after another.

Knows three levels of tables. Refuses to know what is in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["toml_text"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MOST = 160  # characters of a table within a line


def toml_text(data: Mapping[str, Any], about: Sequence[str] = ()) -> str:
    """Return data as TOML below comments. Raises TypeError for what TOML has no form of."""
    return "\n".join([*(f"# {line}" for line in about), *_document(data)]) + "\n"


def _document(data: Mapping[str, Any]) -> Iterator[str]:
    tables = {key: one for key, one in data.items() if _is_table(one) or _is_tables(one)}
    yield from _lines({key: one for key, one in data.items() if key not in tables})
    for key, value in tables.items():
        heads = [f"[[{_key(key)}]]"] * len(value) if _is_tables(value) else [f"[{_key(key)}]"]
        for head, table in zip(heads, value if _is_tables(value) else [value], strict=True):
            long = {k: v for k, v in table.items() if _is_table(v) and len(_inline(v)) > _MOST}
            yield from ("", head, *_lines({k: v for k, v in table.items() if k not in long}))
            for name, one in long.items():
                yield from ("", f"[{_key(key)}.{_key(name)}]", *_lines(one))


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        text = _inline(value)
        if _is_tables(value):
            text = "\n".join(["[", *(f"    {_inline(one)}," for one in value), "]"])
        yield f"{_key(key)} = {text}"


def _inline(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            return f"[{', '.join(map(_inline, value))}]"
        case dict():
            pairs = ", ".join(f"{_key(key)} = {_inline(one)}" for key, one in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
    raise TypeError(f"{value!r} has no form in TOML")


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _inline(text)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_table, value))
