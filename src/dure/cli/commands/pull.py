"""`dure pull`: downloads a model to this machine."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dure.cli.terminal.completion import pullable
from dure.cli.terminal.console import errors, output, print_json, printable, printable_lines
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.pull_progress import noted_pull, saying_how_to_resume
from dure.errors import UsageError
from dure.model.store import HubName, Library, StoredModel, UrlName, parse_name, short_names
from dure.sizes import bytes_text

if TYPE_CHECKING:
    from dure.model.store.pull import Pulled

__all__ = ["pull", "stored_facts"]

_LISTED = ("name", "source", "size_bytes", "here")


def pull(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Short name (qwen3:4b), hf:owner/repository[:quantization or file], or URL.",
            autocompletion=pullable,
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list",
            help="List the short names, with the sizes of their models; with a NAME those that contain it.",
        ),
    ] = False,
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 that the file at a URL must have.")
    ] = None,
    tries: Annotated[
        int, typer.Option(help="Attempts in a row without a new byte before giving up.")
    ] = 6,
    timeout: Annotated[
        float, typer.Option(help="Seconds without a byte before a connection counts as lost.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Download a model to this machine; an interrupted download is resumed.

    Example: dure pull qwen3:0.6b
    """
    from dure.model.store.download import Patience
    from dure.model.store.pull import pull as download

    if listed:
        _list(name or "", as_json=as_json)
        return
    if name is None:
        raise UsageError("no model is named", "name one; `dure pull --list` shows short names")
    if tries < 1:
        raise UsageError(f"--tries {tries}", "give a number above 0")
    if not 0 < timeout < float("inf"):
        raise UsageError(f"--timeout {timeout}", "give a number of seconds above 0, as in 30")
    parsed = parse_name(name)
    if sha256 is not None and not isinstance(parsed, UrlName):
        raise UsageError("--sha256 is for URLs", "leave it out: the hub states its own checksums")
    with saying_how_to_resume(name), noted_pull(name) as progress:
        patience = Patience(tries=tries, timeout_s=timeout)
        pulled = download(parsed, Library(), progress, patience, sha256 and sha256.lower())
    if as_json:
        print_json({**stored_facts(pulled.model), "fresh": pulled.fresh})
    else:
        _print(pulled)


def _list(part: str, *, as_json: bool) -> None:
    """List the short names that contain a text, with the sizes that the hub tells."""
    from dure.model.store.remote import sizes_of

    table = {short: full for short, full in short_names().items() if part.lower() in short}
    if not table:
        raise UsageError(f"no short name contains {part!r}", "`dure pull --list` shows all")
    here = {model.short_name for model in Library().models() if not model.unfinished}
    names = [name for full in table.values() if isinstance(name := parse_name(full), HubName)]
    with errors.status("asking the hub for sizes"):
        sizes, problem = sizes_of(names)
    rows = list(zip(table.items(), sizes, strict=True))
    if as_json:
        facts = ((one, full, size, one in here) for (one, full), size in rows)
        print_json([dict(zip(_LISTED, fact, strict=True)) for fact in facts])
    else:
        _print_list(rows, here)
    if problem is not None:
        text = f"\nsome sizes are unknown: {problem}"
        errors.print(printable_lines(text), markup=False, soft_wrap=True)


def _print_list(rows: Sequence[tuple[tuple[str, str], int | None]], here: Set[str | None]) -> None:
    shown = Table("name", "size", "", "source", box=None, pad_edge=False)
    shown.columns[1].justify = "right"
    for (short, full), size in rows:
        known = "unknown" if size is None else bytes_text(size)
        shown.add_row(short, known, "here" if short in here else "", full)
    output.print(shown)


def _print(pulled: Pulled) -> None:
    model = pulled.model
    state = "" if pulled.fresh else " was here already, and is up to date"
    output.print(f"{printable(model.name)}{state}: {bytes_text(model.size_bytes)}", soft_wrap=True)
    output.print(printable(str(model.path)), soft_wrap=True)
    if pulled.reused_bytes:
        errors.print(f"{bytes_text(pulled.reused_bytes)} are shared with the Hugging Face cache")


def stored_facts(model: StoredModel) -> dict[str, Any]:
    """Return a stored model as plain data."""
    record = model.record
    return {
        "name": model.name,
        "short_name": model.short_name,
        "path": str(model.path),
        "files": [str(path) for path in model.paths],
        "size_bytes": model.size_bytes,
        "source": record.source if record else None,
        "revision": record.revision if record else None,
        "sha256": [file.sha256 for file in record.files] if record else None,
        "pulled_at": record.pulled_at if record else None,
        "unfinished": model.unfinished,
    }
