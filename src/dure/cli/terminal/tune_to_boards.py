"""The way of a result of `dure tune` to the boards: checked before the run, gone after it.

What is there already is not made again. Each step tells its progress as the command of its name does, and
takes from the configuration what that command does. Serving takes the place of this process: what tuning
held in memory is free then.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dure.cli.terminal.console import errors, printable, progress_bar
from dure.cli.terminal.option_groups import collected
from dure.cli.terminal.other_command import other_command, run_other
from dure.cli.terminal.out_file import check_room
from dure.cli.terminal.tune_result import ResultOptions
from dure.errors import CutError, ModelError, ResourceError, UsageError
from dure.model.gguf import GgufFile, open_gguf
from dure.sizes import bytes_text, compared
from dure.tune.settings import TuneMethod, TuneSettings

if TYPE_CHECKING:
    from dure.tune.result.card import TuneCard

__all__ = ["ToBoards"]


@dataclass(frozen=True)
class ToBoards:
    """What is made of a run's result, in the run's folder. context: of `dure tune`."""

    wanted: ResultOptions
    context: typer.Context
    run: Path
    settings: TuneSettings

    @property
    def base(self) -> Path | None:
        """Return what is tuned; None for a new model."""
        return None if self.settings.method is TuneMethod.SCRATCH else self.settings.base

    @property
    def file(self) -> Path:
        """Return the file that is made of the result first."""
        return self._named("adapter" if self.wanted.beside else "F16")

    @property
    def small(self) -> Path | None:
        """Return the quantized file, None if none is wanted."""
        if not self.wanted.quantizes:
            return None
        kind = self.wanted.quantize
        return self._named(kind.upper() if kind else f"{self.wanted.target_bpw:g}bpw")

    def _named(self, kind: str) -> Path:
        return self.run / f"{self.run.resolve().name}-{kind}.gguf"

    # ------------------------------------------------------------ before the run

    def check(self, *, listens: bool) -> None:
        """Raise before the run what would end the way after it: that a model cannot be cut, a full disk.

        listens: the port must be free too.
        """
        if not self.wanted.is_wanted:
            return
        serving = self._serving(listens=listens) if self.wanted.serve else None
        if self.base is None:
            if serving:
                self._check_heads(len(serving))
            return
        with self._header(self.base) as header:
            small = self._quantized_header(header)
            if serving and len(serving) > 1:
                from dure.model.cut import plan_cut

                plan_cut(small, serving)
            self._check_room(header, small, n_ranks=len(serving or ()))

    def _header(self, base: Path) -> AbstractContextManager[GgufFile]:
        from dure.tune.result.promise import promised_result

        if self.wanted.beside and base.is_file():
            return open_gguf(base)
        return promised_result(base, self.file.name)

    def _quantized_header(self, header: GgufFile) -> GgufFile:
        """Return a file as if it were quantized. Raises what quantizing it would."""
        if not self.wanted.quantizes:
            return header
        from dure.cli.terminal.quantize_options import Measuring, MixtureOptions, Target
        from dure.convert.quantize.llama_types import llama_types
        from dure.convert.quantize.search import Search
        from dure.deploy.quantizing import likely_types
        from dure.plan.type_times import retyped

        values = other_command(self.context, "quantize", self._quantizing()).params
        target, measuring = collected(Target, values), collected(Measuring, values)
        target.check()
        if target.type_:
            mixture = collected(MixtureOptions, values).mixture(target.type_)
            has_importances = measuring.imatrix is not None
            return retyped(
                header, llama_types(header, mixture, has_importances=has_importances).types
            )
        allowed = measuring.allowed_types()
        search = Search.here(header, measuring.importance(), allowed, threads=1)
        search.check_size(size_bytes := target.tensor_bytes(header))
        return retyped(header, likely_types(search, size_bytes))

    def _check_room(self, header: GgufFile, small: GgufFile, *, n_ranks: int) -> None:
        from dure.places import free_bytes, same_disk, shard_directory
        from dure.tune.estimate.disk import run_bytes

        card = self._card()
        during, after = (0, 0) if card else run_bytes(self.settings, header)
        files, shards = 0.0, _tensor_bytes(small) if n_ranks > 1 else 0.0
        if not self.wanted.beside and not _is_made(self.small or self.file, card):
            files = _tensor_bytes(header) + (_tensor_bytes(small) if self.small else 0.0)
        if shards and same_disk(self.run, shard_directory()):
            files += shards
        elif shards > (free := free_bytes(shard_directory())):
            needed, left = compared(shards, free)
            raise ResourceError(
                f"the ranks' parts need {needed} in {shard_directory()}, and {left} are free there",
                "make room, or name another directory with DURE_CACHE",
            )
        there = [] if card else [p for p in (self.run / "checkpoints").rglob("*") if p.is_file()]
        has = sum(path.stat().st_size for path in there)
        check_room(self.run, max(during, after + files) - has)

    def _check_heads(self, n_ranks: int) -> None:
        """Check that a new model can be cut. Raises CutError."""
        assert self.settings.config is not None
        try:
            heads = json.loads(self.settings.config.read_text())["num_attention_heads"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # the run says what is wrong with it
        if n_ranks > heads:
            raise CutError(
                f"{n_ranks} ranks are more than the {heads} query heads of {self.settings.config}",
                f"use at most {heads} ranks",
            )

    def _serving(self, *, listens: bool) -> list[float]:
        """Return the shares of the ranks here, none for a cluster. Raises what the server would."""
        from dure.cli.terminal.parameters import Running
        from dure.cli.terminal.server_parameters import Guarding, Listening, Queueing, Serving
        from dure.deploy.options import parse_shares
        from dure.http.binding import bound
        from dure.http.settings import check_binding

        values: dict[str, Any] = other_command(self.context, "serve", self._serve_words()).params
        guarded = collected(Guarding, values).settings(collected(Listening, values))
        settings = collected(Queueing, values).settings(guarded, collected(Serving, values))
        check_binding(settings)
        with bound(settings) if listens else nullcontext():
            pass
        running = collected(Running, values)
        if running.cluster:
            from dure.cli.terminal.this_cluster import this_cluster

            this_cluster()
            return []
        return parse_shares(running.shares, running.ranks)

    # ------------------------------------------------------------ after the run

    def tell(self, step: int, text: str) -> None:
        """Tell which step of the way begins."""
        if self.wanted.is_wanted:
            n = 2 + self.wanted.quantizes + self.wanted.serve
            errors.print(printable(f"{step} of {n}: {text}"), markup=False, soft_wrap=True)

    def files(self, result: Path) -> Iterator[Path]:
        """Make the files that were asked for of a result; yield each."""
        if not self.wanted.is_wanted:
            return
        small, card = self.small, self._card()
        assert card, "the run has ended"
        if small is None or not _is_made(small, card):
            yield self._written(result, card)
        if small is not None:
            self._quantize(small, card)
            yield small

    def serve(self) -> None:
        """Serve the last file if that was asked for: then this does not come back."""
        if self.wanted.serve:
            self.tell(3 + self.wanted.quantizes, "serving it")
            program = [sys.executable, "-m", "dure.cli.main", "serve", *self._serve_words()]
            os.execv(sys.executable, [str(one) for one in program])  # noqa: S606 - our own command

    def _written(self, result: Path, card: TuneCard) -> Path:
        from dure.convert.model import write_model
        from dure.tune.result.writing import ResultForm, opened_result

        target, name = self.file, self.run.resolve().name
        if _is_made(target, card):
            self.tell(2, f"{target} is there")
            return target
        self.tell(2, f"writing {target}")
        wanted = ResultForm(merge=not self.wanted.beside, name=name)
        with opened_result(result, self.base, card, wanted) as model:
            check_room(target, model.size_bytes)
            for note in model.notes:
                errors.print(printable(note), markup=False, soft_wrap=True)
            with progress_bar(target.name, model.size_bytes, "writing") as advance:
                write_model(model, target, advance)
        return target

    def _quantize(self, target: Path, card: TuneCard) -> None:
        if _is_made(target, card):
            self.tell(3, f"{target} is there")
            return
        self.tell(3, f"quantizing it to {target}")
        with redirect_stdout(io.StringIO()) as said:  # what is printed there is our files alone
            run_other(self.context, "quantize", [*self._quantizing(), "--json"])
        facts = json.loads(said.getvalue())
        size = bytes_text(facts["size_bytes"])
        errors.print(f"{size}, {facts['bits_per_weight']:.2f} bits a weight", markup=False)

    def _quantizing(self) -> list[object]:
        wanted = self.wanted
        kind = (
            ("--type", wanted.quantize) if wanted.quantize else ("--target-bpw", wanted.target_bpw)
        )
        ranks = () if wanted.ranks is None else ("--ranks", wanted.ranks)
        return [self.file, *kind, *ranks, "--out", self.small, "--no-verify", "--force"]

    def _serve_words(self) -> list[object]:
        wanted, served = self.wanted, self.small or self.file
        model = (self.base, "--lora", served) if wanted.beside else (served,)
        options = (("--ranks", wanted.ranks), ("--port", wanted.port))
        given = [word for name, value in options if value is not None for word in (name, value)]
        return [*model, *given, *(["--cluster"] if wanted.cluster else [])]

    def _card(self) -> TuneCard | None:
        """Return what the result was made of, None if the run has not ended."""
        from dure.tune.result.card import card_of_run

        try:
            return card_of_run(self.run)
        except UsageError:
            return None


def _is_made(path: Path, card: TuneCard | None) -> bool:
    """Return whether a file was made of this result: it says so itself, and is whole or not there."""
    from dure.tune.result.card import read_card

    if card is None or not path.is_file():
        return False
    try:
        with open_gguf(path) as gguf:
            return read_card(gguf) == card
    except (ModelError, ResourceError):
        return False


def _tensor_bytes(gguf: GgufFile) -> int:
    return sum(tensor.size_bytes for tensor in gguf.tensors.values())
