"""What becomes of a result of `dure tune`: a GGUF, quantized if asked for, and served.

Each step tells its progress as the command of its name does. Serving takes the place of this process: what
tuning held in memory is free then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, printable, progress_bar
from dure.cli.terminal.out_file import check_room
from dure.errors import UsageError

__all__ = ["ResultOptions"]

RESULT = "The result"


@dataclass(frozen=True)
class ResultOptions:
    """What is made of a result."""

    gguf: Annotated[
        bool,
        typer.Option(
            "--gguf",
            help="Write the result as a GGUF file in F16, an adapter merged into its base.",
            rich_help_panel=RESULT,
        ),
    ] = False
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            help="Do not merge an adapter: write it as a GGUF of its own, for `--lora` of other commands.",
            rich_help_panel=RESULT,
        ),
    ] = False
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Quantize the result too, as Q4_K_M.",
            show_default=False,
            rich_help_panel=RESULT,
        ),
    ] = None
    target_bpw: Annotated[
        float | None,
        typer.Option(
            metavar="BITS",
            help="Quantize the result too, with types chosen for so many bits a weight.",
            show_default=False,
            rich_help_panel=RESULT,
        ),
    ] = None
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Then serve the result.", rich_help_panel=RESULT),
    ] = False
    ranks: Annotated[
        int | None,
        typer.Option(
            help="With --serve: number of ranks.", show_default=False, rich_help_panel=RESULT
        ),
    ] = None
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="With --serve: on the cluster's machines.", rich_help_panel=RESULT
        ),
    ] = False
    port: Annotated[
        int | None,
        typer.Option(help="With --serve: port.", show_default="8080", rich_help_panel=RESULT),
    ] = None

    @property
    def quantizes(self) -> bool:
        """Return whether a smaller file is wanted."""
        return self.quantize is not None or self.target_bpw is not None

    @property
    def is_wanted(self) -> bool:
        """Return whether the result becomes a file."""
        return self.gguf or self.beside or self.quantizes or self.serve

    def check(self, base: Path, *, learns_adapter: bool) -> None:
        """Check what can be checked before a run. Raises UsageError."""
        if self.quantize is not None and self.target_bpw is not None:
            raise UsageError("--quantize and --target-bpw", "give one of them")
        if self.quantize is not None:
            from dure.convert.quantize.llama_types import mixture_named

            mixture_named(self.quantize)
        if not self.serve:
            for option, given in (("--ranks", self.ranks), ("--port", self.port)):
                if given is not None:
                    raise UsageError(f"{option} without --serve", "add --serve")
        if not self.beside:
            return
        if not learns_adapter:
            raise UsageError("--beside without an adapter", "leave out --beside, or use --lora")
        if self.quantizes:
            raise UsageError(
                "--beside with quantizing: an adapter is small already",
                "leave out --beside to quantize the merged model",
            )
        if self.serve and base.is_dir():
            raise UsageError(
                f"--beside --serve needs a GGUF to put the adapter beside, and {base} is a folder",
                "leave out --beside, or tune the imported GGUF",
            )

    def files(
        self, run: Path, result: Path, base: Path | None, quantize: Callable[..., None]
    ) -> Iterator[Path]:
        """Make what was asked for, if anything was; yield each file, the one to be served last.

        run: the folder of the run. result: the model or the adapter in it. base: None for a new model.
        quantize: the command, which gets its groups of options.
        """
        if not self.is_wanted:
            return
        file = self._written(run, result, base)
        yield file
        if self.quantizes:
            yield self._quantized(file, quantize)

    def _written(self, run: Path, result: Path, base: Path | None) -> Path:
        from dure.convert.model import write_model
        from dure.tune.result.card import card_of_run
        from dure.tune.result.writing import ResultForm, opened_result

        target = run / f"{run.resolve().name}-{'adapter' if self.beside else 'F16'}.gguf"
        wanted = ResultForm(merge=not self.beside, name=run.resolve().name)
        with opened_result(result, base, card_of_run(run), wanted) as model:
            check_room(target, model.size_bytes)
            for note in model.notes:
                errors.print(printable(note), markup=False, soft_wrap=True)
            with progress_bar(f"writing {target.name}", model.size_bytes, "writing") as advance:
                write_model(model, target, advance)
        return target

    def _quantized(self, file: Path, quantize: Callable[..., None]) -> Path:
        from dure.cli.terminal import quantize_options as groups

        label = self.quantize.upper() if self.quantize else f"{self.target_bpw:g}bpw"
        target = file.with_name(f"{file.stem.removesuffix('-F16')}-{label}.gguf")
        with redirect_stdout(sys.stderr):  # what is printed there is our files alone
            quantize(
                str(file),
                target=groups.Target(type_=self.quantize, target_bpw=self.target_bpw),
                mixture=groups.MixtureOptions(),
                where=groups.WhereItRuns(ranks=self.ranks),
                measuring=groups.Measuring(),
                writing=groups.Writing(out=target, verify=False, force=True),
            )
        return target

    def start_server(self, file: Path, base: Path | None) -> None:
        """Serve a file in place of this process. base: as `files` has it."""
        model = (base, "--lora", file) if self.beside and base else (file,)
        options = [
            *(("--ranks", self.ranks) if self.ranks is not None else ()),
            *(("--port", self.port) if self.port is not None else ()),
            *(("--cluster",) if self.cluster else ()),
        ]
        program = [sys.executable, "-m", "dure.cli.main", "serve", *model, *options]
        os.execv(sys.executable, [str(one) for one in program])  # noqa: S606 - our own command
