"""Shows the record of a measurement that may be shared, asks, and writes it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from dure.cli.terminal.console import errors, print_warning, printable_lines
from dure.cli.terminal.out_file import check_folder, check_not_there
from dure.engine.instruments.benchmark import BenchRuns
from dure.errors import ResourceError, UsageError
from dure.plan.measurements import CONTENTS, Measurement
from dure.whole_file import write_whole

__all__ = ["LONG", "Sharing"]

SHARING = "Sharing"
LONG = 32  # tokens: the speed of fewer is that of chance
_NEXT = (
    "To share it, add it to src/dure/plan/catalogue/measurements in a pull request: CONTRIBUTING.md "
    "says how."
)


@dataclass(frozen=True)
class Sharing:
    """Whether a record of the measurement is written, which others may have."""

    share: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Write a record for the planner's catalogue, with nothing personal in it; it is shown "
            "first.",
            show_default=False,
            rich_help_panel=SHARING,
        ),
    ] = None
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="With --share, write it without asking.", rich_help_panel=SHARING
        ),
    ] = False
    force: Annotated[
        bool,
        typer.Option("--force", help="With --share, replace a file.", rich_help_panel=SHARING),
    ] = False

    def check(self, runs: Sequence[BenchRuns], *, as_json: bool) -> None:
        """Raise UsageError if the record could not be written, or would say nothing."""
        if self.share is None:
            given = "--yes" if self.yes else "--force" if self.force else ""
            if given:
                raise UsageError(f"{given} is for --share", "add that")
            return
        check_folder(self.share)
        check_not_there(self.share, force=self.force)
        if not self.yes and (as_json or not sys.stdin.isatty()):
            raise UsageError("--share asks before it writes", "add --yes")
        least = min(n for one in runs for n in (one.n_prompt, one.n_generate))
        if least < LONG:
            raise UsageError(
                f"--share with {least} tokens: the speed of so few is that of chance",
                f"give {LONG} or more to -p and -n",
            )

    def offer(self, record: Measurement) -> dict[str, Any]:
        """Show a record, ask if need be, and write it; return what became of it as data.

        Raises ResourceError if the file cannot be written.
        """
        assert self.share is not None, "checked"
        text = record.text()
        errors.print(f"This is what others would see. {CONTENTS}\n", markup=False, soft_wrap=True)
        errors.print(printable_lines(text), markup=False, soft_wrap=True)
        if not all(run.is_quiet for run in record.runs):
            part = max(run.disturbed for run in record.runs)
            print_warning(
                f"other programs made {part:.0%} of the tokens slower: measure while they rest"
            )
        if not (self.yes or typer.confirm(f"Write it to {self.share}?", default=True, err=True)):
            errors.print("Nothing was written.")
            return {"file": None, "record": record.facts()}
        try:
            write_whole(self.share, text.encode())
        except OSError as error:
            raise ResourceError(
                f"--share {self.share} cannot be written: {error.strerror}", "name another file"
            ) from error
        errors.print(f"{self.share} is written. {_NEXT}", markup=False, soft_wrap=True)
        return {"file": str(self.share), "record": record.facts()}
