"""`dure doctor`: finds what makes this machine slow or sick, and says what cures it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.completion import models
from dure.cli.terminal.console import errors, print_json, progress_bar
from dure.cli.terminal.findings_table import finding_data, print_findings
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.parameters import Json
from dure.cluster.examination import condition_here
from dure.doctor.checks import CHECKS
from dure.doctor.checks.model_file import MODEL_CHECKS
from dure.doctor.finding import Finding, judged
from dure.doctor.model_file import read_model_file
from dure.model.gguf import open_gguf

__all__ = ["doctor"]


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model whose file is examined too: its checksum and its tokens.",
            autocompletion=models,
            show_default=False,
        ),
    ] = None,
    *,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show what is healthy too.", show_default=False)
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what makes this machine slow or sick, and what cures it.

    With sudo more can be read. The exit status is 1 if something should be done.

    Example: dure doctor
    """
    with errors.status("examining this machine"):
        found = judged(CHECKS, condition_here())
    if model is not None:
        found += _of_model(resolve_model(model))
    if as_json:
        print_json([finding_data(one) for one in found])
    else:
        print_findings(found, show_all=show_all)
    if any(one.severity.is_trouble for one in found):
        raise typer.Exit(1)


def _of_model(path: Path) -> list[Finding]:
    with open_gguf(path) as model:
        size_bytes = model.size_bytes
    with progress_bar(f"reading {path.name}", size_bytes) as progress:
        return judged(MODEL_CHECKS, read_model_file(path, progress))
