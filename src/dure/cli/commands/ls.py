"""`dure ls`: lists the models on this machine."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.table import Table

from dure.cli.commands.pull import stored_facts
from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.model.store import Library, StoredModel, facts_at
from dure.sizes import bytes_text

__all__ = ["ls"]


def ls(as_json: Json = False) -> None:
    """List the models on this machine.

    Example: dure ls --json
    """
    library = Library()
    rows = [_facts(model) for model in library.models()]
    if as_json:
        print_json(rows)
    elif rows:
        output.print(_table(rows))
    else:
        errors.print(f"no model is in {library.directory}: `dure pull qwen3:0.6b`", markup=False)


def _facts(model: StoredModel) -> dict[str, Any]:
    facts = None if model.unfinished else facts_at(model)
    return {
        **stored_facts(model),
        "architecture": facts.architecture if facts else None,
        "quantization": facts.quantization if facts else model.tag or None,
        "parameters": facts.parameters if facts else None,
        "context_length": facts.context_length if facts else None,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("name", box=None, pad_edge=False)
    for heading in ("size", "quantization", "parameters", "context", "pulled"):
        table.add_column(heading, justify="right" if heading in ("size", "context") else "left")
    for row in rows:
        table.add_row(
            printable(row["short_name"] or row["name"]),
            bytes_text(row["size_bytes"]),
            row["quantization"] or "",
            _count(row["parameters"]),
            str(row["context_length"] or ""),
            _state(row),
        )
    table.columns[0].overflow = "fold"
    return table


def _count(parameters: int | None) -> str:
    if parameters is None:
        return ""
    billions = parameters >= 1e9
    return f"{parameters / 1e9:.1f} billion" if billions else f"{parameters / 1e6:.1f} million"


def _state(row: dict[str, Any]) -> str:
    if row["unfinished"]:
        return "not finished: pull it again"
    if row["architecture"] is None:
        return "damaged"
    if row["pulled_at"] is None:
        return "put there by hand"
    return datetime.fromisoformat(row["pulled_at"]).astimezone().strftime("%Y-%m-%d %H:%M")
