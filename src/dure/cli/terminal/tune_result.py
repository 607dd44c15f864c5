"""What should become of a result of `dure tune`: a GGUF, quantized if asked for, and served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

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

    def check(
        self,
        base: Path,
        *,
        learns_adapter: bool,
        is_typed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Check that the options go together. Raises UsageError.

        is_typed: whether an option was typed; the configuration may have it for all commands.
        """
        if self.quantize is not None and self.target_bpw is not None:
            raise UsageError("--quantize and --target-bpw", "give one of them")
        if self.quantize is not None:
            from dure.convert.quantize.llama_types import file_types

            if self.quantize.upper() not in file_types():
                cure = f"use one of {', '.join(file_types())}"
                raise UsageError(f"--quantize {self.quantize}", cure)
        if not self.serve:
            self._check_unserved(is_typed)
        if self.beside:
            self._check_beside(base, learns_adapter)

    def _check_unserved(self, is_typed: Callable[[str], bool]) -> None:
        for name in ("ranks", "port", "cluster"):
            if getattr(self, name) not in (None, False) and is_typed(name):
                raise UsageError(f"--{name} without --serve", "add --serve")

    def _check_beside(self, base: Path, learns_adapter: bool) -> None:
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
