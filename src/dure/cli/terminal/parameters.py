"""The options that several commands share, with their help."""

from __future__ import annotations

from typing import Annotated

import typer

from dure.cli.terminal.completion import models
from dure.engine.compute.allreduce import Wire
from dure.errors import UsageError
from dure.generate.request import Sampling

__all__ = [
    "Ctx",
    "Guess",
    "Json",
    "MaxTokens",
    "MinP",
    "Mlock",
    "Model",
    "OnCluster",
    "OnInterface",
    "OnNodes",
    "Pin",
    "Pull",
    "Ranks",
    "Seed",
    "Shares",
    "Sync",
    "Temperature",
    "Threads",
    "TopK",
    "TopP",
    "sampling_of",
]

Model = Annotated[
    str,
    typer.Argument(
        help="A name (qwen3:4b, hf:owner/repository:Q4_K_M, or as `dure ls` shows it), or a GGUF "
        "file; of a split one, any part.",
        autocompletion=models,
        show_default=False,
    ),
]
Pull = Annotated[
    bool,
    typer.Option("--pull", help="Pull the model where it is not on this machine, without asking."),
]
Ranks = Annotated[
    int | None,
    typer.Option(help="Cut the model over this many ranks on this machine.", show_default="1"),
]
OnCluster = Annotated[
    bool,
    typer.Option(
        "--cluster", help="Cut the model over the machines of the cluster, this one first."
    ),
]
OnNodes = Annotated[
    str | None,
    typer.Option(
        "--nodes",
        help="With --cluster: exactly these nodes, as in pi-1,pi-2, or `all`.",
        show_default="those that make it faster",
    ),
]
OnInterface = Annotated[
    str | None,
    typer.Option(
        "--interface",
        help="With --cluster: this machine's network device towards the nodes, as in eth0.",
        show_default="the one that leads there",
    ),
]
Shares = Annotated[
    str | None,
    typer.Option(
        help="Each rank's share of the work, as in 3,2; those of a cluster follow speeds.",
        show_default="equal",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "-t",
        help="Threads of each rank.",
        show_default="cores / ranks; with --cluster all cores",
    ),
]
Ctx = Annotated[
    int | None,
    typer.Option(
        "--ctx", "-c", help="Context in tokens.", show_default="4096, or less if trained for less"
    ),
]
Sync = Annotated[
    Wire,
    typer.Option(help="How partial sums travel: 8-bit blocks, or exact float32."),
]
Guess = Annotated[
    str,
    typer.Option(
        "--draft",
        metavar="lookup|off|MODEL",
        help="Guess tokens ahead: looked up in what was said before, or asked of a small MODEL of the "
        "same family as well. The text is the same, and comes sooner where guesses are right.",
    ),
]
Mlock = Annotated[
    bool, typer.Option("--mlock", help="Keep the weights in memory, whatever else wants it.")
]
Pin = Annotated[
    bool,
    typer.Option(
        "--pin",
        help="Hold each thread to a core of its own, the quickest cores first: for a machine whose cores "
        "are unlike, or where other programs push threads about.",
    ),
]
Temperature = Annotated[
    float, typer.Option("--temp", help="Temperature; 0 always takes the best token.")
]
TopP = Annotated[float, typer.Option(help="Keep the best tokens up to this probability; 1 is off.")]
TopK = Annotated[int, typer.Option(help="Keep this many best tokens; 0 is off.")]
MinP = Annotated[
    float, typer.Option(help="Keep tokens with this part of the best one's probability; 0 is off.")
]
Seed = Annotated[
    int | None, typer.Option(help="Repeat the same random choices.", show_default="random")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", "-n", help="End the answer after this many tokens.", show_default="context"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]

_OPTIONS = {"temperature": "--temp", "top_k": "--top-k", "top_p": "--top-p", "min_p": "--min-p"}


def sampling_of(temp: float, top_p: float, top_k: int, min_p: float, seed: int | None) -> Sampling:
    """How tokens are chosen. Raises UsageError naming the option that makes no sense."""
    try:
        return Sampling(temperature=temp, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    except UsageError as error:
        name, _, rest = str(error).partition(" ")
        raise UsageError(f"{_OPTIONS.get(name, f'--{name}')} {rest}") from None
