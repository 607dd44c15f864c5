"""`dure eval`: judges models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.completion import models
from dure.cli.terminal.console import errors, output, print_json
from dure.cli.terminal.judging import judging_tools
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json, Running
from dure.deploy.options import RunOptions
from dure.errors import UsageError
from dure.evaluate.card import evaluation_data, lines_of, write_card
from dure.evaluate.evaluation import Evaluation, Evaluator, Subject
from dure.evaluate.plot import check_plot, write_plot
from dure.evaluate.tasks import read_tasks

__all__ = ["eval"]

TEXT = "Text"
_WINDOW = 512


@dataclass(frozen=True)
class SubjectOptions:
    """What models are judged on."""

    against: Annotated[
        str | None,
        typer.Option(
            help="Model that they were made from, to say how near they are to it.",
            show_default=False,
            rich_help_panel=TEXT,
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            help="Text to judge them on.",
            show_default="one that the original writes itself",
            rich_help_panel=TEXT,
        ),
    ] = None
    chunks: Annotated[
        int | None,
        typer.Option(
            help="Use this number of windows.",
            show_default="all of --data, 16 of the original's own text",
            rich_help_panel=TEXT,
        ),
    ] = None
    tasks: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of questions in JSONL, as `lm_eval --log_samples` writes it, or with query, choices "
            "and gold, or with query and target. May be repeated.",
            show_default=False,
        ),
    ] = None

    def subject(self, n_ctx: int) -> Subject:
        """Return the subject. n_ctx: tokens of a window. Raises as `resolve_model` and `read_tasks` do."""
        return Subject(
            original=resolve_model(self.against) if self.against else None,
            data=self.data,
            n_ctx=n_ctx,
            most_windows=self.chunks,
            tasks=tuple(read_tasks(path) for path in self.tasks or ()),
        )


@dataclass(frozen=True)
class Results:
    """What is written besides."""

    card: Annotated[
        bool,
        typer.Option(
            "--card", help="Write a card beside each model's file: MODEL.card.md and .card.json."
        ),
    ] = False
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw quality against speed into this file, .svg or .png.", show_default=False
        ),
    ] = None

    def check(self, subject: Subject) -> None:
        """Check that all can be written. Raises UsageError."""
        if self.plot:
            check_plot(self.plot)
            if not subject.has_text:
                raise UsageError("--plot needs a text", "add --against or --data")

    def write_card(self, evaluation: Evaluation, file: Path) -> None:
        """Write a model's card, if that was asked for."""
        for path in write_card(evaluation, file) if self.card else ():
            errors.print(f"{path} written", markup=False, soft_wrap=True)

    def write_plot(self, found: Sequence[Evaluation]) -> None:
        """Draw the plot, if that was asked for."""
        if self.plot:
            write_plot(found, self.plot)
            errors.print(f"{self.plot} written", markup=False, soft_wrap=True)


@expanded
def eval(  # noqa: A001  # a command's function has its name
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Models to judge, each a name or a GGUF file.",
            autocompletion=models,
            show_default=False,
        ),
    ],
    *,
    asked: SubjectOptions,
    ctx: Annotated[
        int,
        typer.Option(
            "--ctx",
            "-c",
            help="Tokens of a window of the text; its second half is scored.",
            rich_help_panel=TEXT,
        ),
    ] = _WINDOW,
    running: Running,
    results: Results,
    as_json: Json = False,
) -> None:
    """Judge models: how near they are to their original, how well they answer, and how fast they are.

    What the original gives is kept, so another model made from it takes half the time; what was stopped
    goes on where it was.

    Example: dure eval small.gguf --against qwen3:0.6b

    Example: dure eval a.gguf b.gguf --against original.gguf --data text.txt --plot quality.svg
    """
    subject = asked.subject(ctx)
    results.check(subject)
    files = [resolve_model(model) for model in models]

    def started(path: Path, n_ctx: int, n_sequences: int) -> RunOptions:
        with_context = replace(running, ctx=n_ctx)
        return with_context.options("eval", path.name, n_sequences=n_sequences)

    evaluator = Evaluator(subject, running.options("eval", models[0]), judging_tools(started))
    found: list[Evaluation] = []
    with noted("eval", ", ".join(file.name for file in files)):
        for file, evaluation in zip(files, evaluator.evaluate(files), strict=True):
            found.append(evaluation)
            results.write_card(evaluation, file)
            if not as_json:
                _print(evaluation, is_first=len(found) == 1)
    if as_json:
        print_json([evaluation_data(one) for one in found])
    results.write_plot(found)


def _print(evaluation: Evaluation, *, is_first: bool) -> None:
    beside = f", beside {evaluation.original.name}" if evaluation.original else ""
    output.print(f"{'' if is_first else chr(10)}{evaluation.model.name}{beside}")
    for heading, text in lines_of(evaluation):
        output.print(f"{heading:<14} {text}")
