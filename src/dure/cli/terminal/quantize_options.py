"""What `dure quantize` is asked for: a mixture by name, or a choice within a size, a speed, or both."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.out_file import check_folder, check_not_there
from dure.cli.terminal.parameters import CLUSTER, Ranks, Shares
from dure.cli.terminal.quantities import bytes_of, seconds_of, tokens_per_s_of
from dure.cluster.job_identity import JobIdentity
from dure.convert.quantize.choosing import CANDIDATES
from dure.convert.quantize.llama_types import Mixture, mixture_named
from dure.convert.quantize.writing import ImportanceFile
from dure.deploy.options import RunOptions
from dure.errors import UsageError
from dure.model.ggml import type_named
from dure.model.gguf import GgufFile

__all__ = ["Frontier", "Measuring", "MixtureOptions", "Target", "WhereItRuns", "Writing"]

TARGET, MIXTURE = "Target", "With --type"
_MOST_BITS = 32.0
_TYPE_IN_NAME = re.compile(r"[-._]((UD-)?I?Q\d\w*|B?F16|F32|MXFP4\w*)$", re.IGNORECASE)


class Frontier(StrEnum):
    """What is varied, to see the error."""

    SIZE = "size"
    SPEED = "speed"


@dataclass(frozen=True)
class Target:
    """What the file should be."""

    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="Q4_K_M|...",
            help="A mixture of llama.cpp's, with the same bytes as its quantizer's.",
            rich_help_panel=TARGET,
        ),
    ] = None
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="At most this size, as in 10GB: the types with the least error.",
            rich_help_panel=TARGET,
        ),
    ] = None
    target_bpw: Annotated[
        float | None,
        typer.Option(
            metavar="BITS",
            help="At most this mean number of bits a weight, as in 2.7.",
            rich_help_panel=TARGET,
        ),
    ] = None
    target_speed: Annotated[
        str | None,
        typer.Option(
            metavar="SPEED",
            help="At least this speed of generating, as in 9tok/s, on this machine, the cluster or "
            "--nodes; with a size, both.",
            rich_help_panel=TARGET,
        ),
    ] = None
    frontier: Annotated[
        Frontier | None,
        typer.Option(
            "--frontier",
            help="Show the least error at every size, or at every speed, and write no model.",
            rich_help_panel=TARGET,
        ),
    ] = None

    def check(self) -> None:
        """Raise UsageError unless there is a target, and it makes sense."""
        given = {
            "--type": self.type_ is not None,
            "--target-size": self.target_size is not None,
            "--target-bpw": self.target_bpw is not None,
            "--target-speed": self.target_speed is not None,
            "--frontier": self.frontier is not None,
        }
        names = {name for name, is_given in given.items() if is_given}
        if not names:
            raise UsageError("no target", f"give one of {', '.join(given)}")
        if len(names) > 1 and (
            names & {"--type", "--frontier"} or {"--target-size", "--target-bpw"} <= names
        ):
            raise UsageError(f"{' and '.join(sorted(names))} exclude each other", "give one")
        if self.target_bpw is not None and not 0 < self.target_bpw <= _MOST_BITS:
            raise UsageError(f"--target-bpw {self.target_bpw:g}", "give bits as in 2.7")
        if self.type_:
            mixture_named(self.type_)
        self.file_bytes, self.tokens_per_s  # noqa: B018 - they are checked

    @property
    def tokens_per_s(self) -> float | None:
        """Return the speed that is asked for. Raises UsageError."""
        return tokens_per_s_of("--target-speed", self.target_speed) if self.target_speed else None

    @property
    def label(self) -> str:
        """Return what the file is called by."""
        if self.type_:
            return mixture_named(self.type_)
        bits = f"{self.target_bpw:g}bpw" if self.target_bpw is not None else None
        speed = f"{self.tokens_per_s:g}tps" if self.tokens_per_s else None
        return "-".join(one for one in (self.target_size, bits, speed) if one)

    @property
    def file_bytes(self) -> float:
        """Return the bytes that the file may have."""
        return bytes_of("--target-size", self.target_size) if self.target_size else math.inf

    def tensor_bytes(self, model: GgufFile) -> float:
        """Return the bytes that all tensors may have together."""
        if self.target_bpw is not None:
            n = sum(tensor.n_elements for tensor in model.tensors.values())
            return self.target_bpw * n / 8
        return self.file_bytes


@dataclass(frozen=True)
class MixtureOptions:
    """What llama.cpp's quantizer is told besides."""

    pure: Annotated[
        bool,
        typer.Option("--pure", help="Give every tensor the same type.", rich_help_panel=MIXTURE),
    ] = False
    output_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Type of the output matrix.", rich_help_panel=MIXTURE),
    ] = None
    embedding_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Type of the table of embeddings.", rich_help_panel=MIXTURE
        ),
    ] = None

    def mixture(self, name: str) -> Mixture:
        """Return what llama.cpp is asked for. Raises UsageError or ModelError."""
        for one in (self.output_type, self.embedding_type):
            if one:
                type_named(one)
        return Mixture(mixture_named(name), self.pure, self.output_type, self.embedding_type)


@dataclass(frozen=True)
class WhereItRuns:
    """Where the model will run: its speed is meant there, and its blocks must fit that cut."""

    ranks: Ranks = None
    shares: Shares = None
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="On the cluster's machines.", rich_help_panel=CLUSTER),
    ] = False
    nodes: Annotated[
        str | None,
        typer.Option(
            "--nodes",
            help="With --cluster: on exactly these nodes, as in pi-1,pi-2, or `all`. Without it: on "
            "machines of the catalogue that you need not have, as in pi5-8gb:4.",
            show_default="those that make it faster",
            rich_help_panel=CLUSTER,
        ),
    ] = None

    def options(self, model: Path) -> RunOptions:
        """Return the options of a start."""
        return RunOptions(
            ranks=self.ranks,
            shares=self.shares,
            cluster=self.cluster,
            nodes=self.nodes,
            job=JobIdentity.new("quantize", model.stem),
        )


@dataclass(frozen=True)
class Measuring:
    """What types are chosen by."""

    imatrix: Annotated[
        Path | None,
        typer.Option(
            help="Importance matrix of this model: smaller errors, and types below 3 bits.",
            show_default="all columns count alike",
        ),
    ] = None
    types: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE,...",
            help="Types to choose from, as in Q4_K,Q6_K.",
            show_default="all that are useful",
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            help="Text on which groups of tensors are swapped one at a time, to learn what an error of "
            "each does to the model; the result is judged on it too.",
            show_default="one that the model writes itself",
        ),
    ] = None
    even: Annotated[
        bool,
        typer.Option(
            "--even",
            help="Let errors count alike in all groups: nothing is swapped, nothing judged. Quicker, and "
            "the model need not fit into memory.",
        ),
    ] = False
    time_: Annotated[
        str,
        typer.Option(
            "--time", help="Time for measuring errors and groups, and for the text, as in 20min."
        ),
    ] = "20min"
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", help="Threads that encode.", show_default="cores"),
    ] = None

    def allowed_types(self) -> tuple[str, ...]:
        """Return the types to choose from. Raises ModelError for a name that is none."""
        if self.types is None:
            return CANDIDATES
        return tuple(type_named(name.strip()).name for name in self.types.split(","))

    def time_s(self) -> float:
        """Return the seconds for measuring. Raises UsageError."""
        return seconds_of("--time", self.time_)

    def importance(self) -> ImportanceFile | None:
        """Read the importance matrix, if one was given. Raises ModelError."""
        return ImportanceFile.read(self.imatrix) if self.imatrix else None

    def judges(self, target: Target) -> bool:
        """Return whether results are judged on a text: one of llama.cpp's mixtures only on a given one."""
        return not self.even and (target.type_ is None or self.data is not None)


@dataclass(frozen=True)
class Writing:
    """What becomes of the choice."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write.", show_default="named by model and target"
        ),
    ] = None
    verify: Annotated[bool, typer.Option(help="Run the written model, and measure its speed.")] = (
        True
    )
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the choice, and write nothing.")
    ] = False

    def path(self, model: Path, target: Target) -> Path | None:
        """Return the file to write, in the current folder unless it is named; None for a dry run.

        Raises UsageError if it is there already, or its folder is not.
        """
        if self.dry_run:
            return None
        stem = _TYPE_IN_NAME.sub("", re.sub(r"-\d{5}-of-\d{5}$", "", model.stem))
        path = self.out or Path(f"{stem}-{target.label}.gguf")
        check_folder(path)
        check_not_there(path, force=self.force)
        return path
