"""Declares the options that several commands share, with their help and its panels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dure.chat.thinking import Think
from dure.cli.terminal.completion import models
from dure.cluster.job_identity import JobIdentity
from dure.deploy.options import RunOptions, adapter_file, gpu_layers
from dure.engine.wire import Wire
from dure.errors import ResourceError, UsageError
from dure.generate.request import Sampling

__all__ = [
    "CLUSTER",
    "GUARDS",
    "MODEL",
    "SAMPLING",
    "SERVER",
    "SPEED",
    "Context",
    "DraftFrom",
    "Json",
    "MaxTokens",
    "Model",
    "OnGpu",
    "Pull",
    "Ranks",
    "Running",
    "SamplingOptions",
    "ServiceUser",
    "Shares",
    "TemplateFile",
    "Thinking",
]

MODEL, CLUSTER, SPEED, SAMPLING = "Model", "Cluster", "Speed", "Sampling"
SERVER, GUARDS = "Server", "Guards"

Model = Annotated[
    str,
    typer.Argument(
        help="Name (qwen3:4b, hf:owner/repository:Q4_K_M, or one that `dure ls` lists) or GGUF file; "
        "of a split model, any part.",
        autocompletion=models,
        show_default=False,
    ),
]
Pull = Annotated[
    bool,
    typer.Option(
        "--pull",
        help="Pull a missing model without asking.",
        rich_help_panel=MODEL,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--ctx",
        "-c",
        help="Context in tokens.",
        show_default="4096, or less if trained for less",
        rich_help_panel=MODEL,
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        help="Cut the model over this number of ranks on this machine.",
        show_default="1",
        rich_help_panel=CLUSTER,
    ),
]
Shares = Annotated[
    str | None,
    typer.Option(
        help="Each rank's share of the work, as in 3,2; by default a cluster uses measured speeds.",
        show_default="equal",
        rich_help_panel=CLUSTER,
    ),
]
OnGpu = Annotated[
    str,
    typer.Option(
        "--gpu-layers",
        "-g",
        metavar="auto|N",
        help="Layers that lie on the GPU of each machine whose llama.cpp was built for one: as many as fit "
        "(auto), or N; 0 leaves it alone.",
        rich_help_panel=SPEED,
    ),
]
DraftFrom = Annotated[
    str,
    typer.Option(
        "--draft",
        metavar="lookup|off|MODEL",
        help="Where speculative decoding takes draft tokens from: the text so far (lookup), or a small "
        "MODEL of the same family too. The text stays the same and comes sooner.",
        rich_help_panel=SPEED,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        "-n",
        help="End the answer after this many tokens.",
        show_default="context",
        rich_help_panel=SAMPLING,
    ),
]
Thinking = Annotated[
    Think,
    typer.Option(
        "--think",
        help="Whether the model thinks before it answers, or how much; auto leaves it to the model.",
        rich_help_panel=SAMPLING,
    ),
]
ServiceUser = Annotated[
    str | None,
    typer.Option(
        "--user", help="User that the service runs as.", show_default="you, with sudo too"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]


@dataclass(frozen=True)
class Running:
    """Where and how a model runs, for every command that starts one."""

    ctx: Context = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            help="Adapter (LoRA, in GGUF) that changes the model, as in style.gguf:0.5; repeatable.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None
    ranks: Ranks = None
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Cut the model over the cluster's machines; this one is rank 0.",
            rich_help_panel=CLUSTER,
        ),
    ] = False
    nodes: Annotated[
        str | None,
        typer.Option(
            "--nodes",
            help="With --cluster: use exactly these nodes, as in pi-1,pi-2, or `all`.",
            show_default="those that make it faster",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    share_node: Annotated[
        bool,
        typer.Option(
            "--share-node",
            help="With --cluster: use nodes that other commands use too, with the memory and cores that "
            "they leave.",
            rich_help_panel=CLUSTER,
        ),
    ] = False
    interface: Annotated[
        str | None,
        typer.Option(
            "--interface",
            help="With --cluster: use this network device towards the nodes, as in eth0.",
            show_default="the one that leads there",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    shares: Shares = None
    sync: Annotated[
        Wire,
        typer.Option(
            help="Format of partial sums in all-reduces: 8-bit blocks, or exact float32.",
            rich_help_panel=CLUSTER,
        ),
    ] = Wire.Q8
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            help="Threads of each rank.",
            show_default="cores / ranks; with --cluster all that other commands leave",
            rich_help_panel=SPEED,
        ),
    ] = None
    mlock: Annotated[
        bool,
        typer.Option(
            "--mlock",
            help="Lock the weights in memory, so that they are never swapped out.",
            rich_help_panel=SPEED,
        ),
    ] = False
    pin: Annotated[
        bool,
        typer.Option(
            "--pin",
            help="Pin each thread to its own core, fastest cores first: for a machine with unlike cores "
            "or other busy programs.",
            rich_help_panel=SPEED,
        ),
    ] = False
    gpu_layers: OnGpu = "auto"

    def options(
        self,
        command: str,
        model: str,
        *,
        ctx: int | None = None,
        n_sequences: int = 1,
        grace_s: float = 0.0,
    ) -> RunOptions:
        """Return the options for the start of a model. ctx: the context if none was given."""
        name = Path(model).stem if model.endswith(".gguf") else model
        return RunOptions(
            ranks=self.ranks,
            shares=self.shares,
            threads=self.threads,
            ctx=ctx if self.ctx is None else self.ctx,
            n_sequences=n_sequences,
            wire=self.sync,
            cluster=self.cluster,
            job=JobIdentity.new(command, name),
            share_node=self.share_node,
            nodes=self.nodes,
            interface=self.interface,
            grace_s=grace_s,
            lock_memory=self.mlock,
            pin=self.pin,
            lora=tuple(map(adapter_file, self.lora or ())),
            gpu_layers=gpu_layers(self.gpu_layers),
        )


@dataclass(frozen=True)
class TemplateFile:
    """A chat template that takes the place of the model's own."""

    chat_template: Annotated[
        Path | None,
        typer.Option(
            help="Jinja file to use instead of the model's chat template.", rich_help_panel=MODEL
        ),
    ] = None

    def template_text(self) -> str | None:
        """Return the text of --chat-template. Raises ResourceError or UsageError."""
        path = self.chat_template
        try:
            return path.read_text() if path else None
        except OSError as error:
            raise ResourceError(
                f"--chat-template {path} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError:
            raise UsageError(
                f"--chat-template {path} is no text", "name a template in UTF-8"
            ) from None


_DEFAULTS = {
    name: f"as the model's file says, or {getattr(Sampling(), name):g}"
    for name in ("temperature", "top_p", "top_k", "min_p")
}
_FLAGS = {"temperature": "--temp", "top_k": "--top-k", "top_p": "--top-p", "min_p": "--min-p"}


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen."""

    temp: Annotated[
        float | None,
        typer.Option(
            "--temp",
            help="Temperature; 0 always takes the likeliest token.",
            show_default=_DEFAULTS["temperature"],
            rich_help_panel=SAMPLING,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Keep the likeliest tokens up to this total probability; 1 is off.",
            show_default=_DEFAULTS["top_p"],
            rich_help_panel=SAMPLING,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Keep this number of likeliest tokens; 0 is off.",
            show_default=_DEFAULTS["top_k"],
            rich_help_panel=SAMPLING,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Keep tokens with at least this fraction of the likeliest one's probability; 0 is off.",
            show_default=_DEFAULTS["min_p"],
            rich_help_panel=SAMPLING,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the random choices.", show_default="random", rich_help_panel=SAMPLING
        ),
    ] = None

    def sampling(self, file: Mapping[str, int | float]) -> Sampling:
        """Return the sampling of a request. file: what the model's own file says, if the user does not.

        Raises UsageError naming the invalid option.
        """
        given = {"temperature": self.temp, "top_p": self.top_p, "top_k": self.top_k}
        given |= {"min_p": self.min_p, "seed": self.seed}
        said = {name: value for name, value in given.items() if value is not None}
        try:
            return msgspec.structs.replace(Sampling(), **{**file, **said})
        except UsageError as error:
            name, _, rest = error.problem.partition(" ")
            raise UsageError(f"{_FLAGS.get(name, f'--{name}')} {rest}", error.cure) from None

    def check(self) -> None:
        """Check the options before a model is looked for. Raises UsageError naming the invalid one."""
        self.sampling({})
