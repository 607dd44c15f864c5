"""Where a folder keeps its chat templates: in a file of their own, or in the tokenizer's configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dure.convert.huggingface.json_file import read_json, read_text
from dure.convert.model import Metadata
from dure.errors import ModelError
from dure.model.gguf import ValueKind, array_of
from dure.model.gguf.values import one_line

__all__ = ["template_keys"]

_DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


def template_keys(folder: Path) -> Metadata:
    """Return the chat templates, none if the model has none. A file of their own comes first."""
    templates = _templates(folder)
    keys: dict[str, Any] = {
        f"tokenizer.chat_template.{name}": text
        for name, text in templates.items()
        if name != _DEFAULT
    }
    if keys:
        names = [name for name in templates if name != _DEFAULT]
        keys["tokenizer.chat_templates"] = array_of(ValueKind.STRING, names)
    if _DEFAULT in templates:
        keys["tokenizer.chat_template"] = templates[_DEFAULT]
    return keys


def _templates(folder: Path) -> dict[str, str]:
    own = folder / "chat_template.jinja"
    more = folder / "additional_chat_templates"
    found: dict[str, str] = {}
    if own.exists():
        found[_DEFAULT] = read_text(own)
    if more.is_dir():
        found |= {path.stem: read_text(path) for path in sorted(more.glob("*.jinja"))}
    if not found:
        found = _listed(read_json(folder / "tokenizer_config.json").get("chat_template"))
    if not found:
        found = _listed(read_json(folder / "chat_template.json").get("chat_template"))
    for name in found:
        if not _NAME.fullmatch(name):
            raise ModelError(f"a chat template is called {one_line(repr(name))}", "rename it")
    return found


def _listed(entry: object) -> dict[str, str]:
    """Return one template, or several with names."""
    if isinstance(entry, str):
        return {_DEFAULT: entry}
    found: dict[str, str] = {}
    for one in entry if isinstance(entry, list) else []:
        name, text = (
            one.get(key) if isinstance(one, dict) else None for key in ("name", "template")
        )
        if not isinstance(name, str) or not isinstance(text, str):
            raise ModelError(
                "a chat template has no name or no text", "get tokenizer_config.json again"
            )
        found[name] = text
    return found
