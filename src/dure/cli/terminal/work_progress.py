"""Shows how work that is counted in tokens goes on: how many, how fast, how long still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dure.cli.terminal.console import duration_text, errors
from dure.cli.terminal.noted import noted_phase

if TYPE_CHECKING:
    from dure.work_notes import WorkPhase

__all__ = ["token_bar"]

_ESTIMATED_AFTER_S = 3.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} tokens/s" if task.speed else "")


@contextmanager
def token_bar(
    title: str, total: int, begun: int = 0, phase: WorkPhase = ""
) -> Iterator[Callable[[int], None]]:
    """Show a bar of tokens on stderr, on a terminal only. Yields a function that sets how many are done.

    A line says once how long all of it will take, as soon as that is known; also elsewhere.
    begun: tokens that an earlier run has done. phase: as `progress_bar` has it.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    start, is_told = time.monotonic(), False
    with (
        noted_phase(phase, total, "tokens", begun) as note,
        Progress(
            *columns,
            _Rate(),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        ) as bar,
    ):
        task = bar.add_task(title, total=total, completed=begun)

        def show(done: int) -> None:
            nonlocal is_told
            bar.update(task, completed=done)
            note(done)
            took = time.monotonic() - start
            if not is_told and took > _ESTIMATED_AFTER_S and begun < done < total:
                is_told = True
                left = took * (total - done) / (done - begun)
                errors.print(
                    f"{title}: {total} tokens, about {duration_text(left)} from now", markup=False
                )

        yield show
