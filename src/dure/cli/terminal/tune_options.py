"""What `dure tune` is asked for, in groups of options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dure.errors import UsageError
from dure.tune.settings import (
    Arithmetic,
    LongPolicy,
    Schedule,
    StateFormat,
    TuneMethod,
    TuneSettings,
)

__all__ = ["DataOptions", "LearningOptions", "MemoryOptions", "WhatLearns", "settings_of"]

WHAT, DATA, LEARNING, MEMORY = "What learns", "Data", "Learning", "Memory and speed"


@dataclass(frozen=True)
class WhatLearns:
    """Which weights are learned."""

    lora: Annotated[
        bool,
        typer.Option(
            "--lora",
            help="Learn an adapter: small matrices beside the model's own. This is the default.",
            rich_help_panel=WHAT,
        ),
    ] = False
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Learn all weights: needs about eight times the memory.",
            rich_help_panel=WHAT,
        ),
    ] = False
    from_scratch: Annotated[
        Path | None,
        typer.Option(
            "--from-scratch",
            metavar="CONFIG",
            help="Make a new model, of this Hugging Face config.json; BASE gives its tokenizer.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None
    rank: Annotated[
        int, typer.Option(help="Rank of the adapter's matrices.", rich_help_panel=WHAT)
    ] = 16
    alpha: Annotated[
        float | None,
        typer.Option(
            help="How strongly the adapter counts, divided by the rank.",
            show_default="twice the rank",
            rich_help_panel=WHAT,
        ),
    ] = None
    dropout: Annotated[
        float,
        typer.Option(
            help="Share of the adapter's inputs that each step leaves out.", rich_help_panel=WHAT
        ),
    ] = 0.0

    @property
    def method(self) -> TuneMethod:
        """Return the way. Raises UsageError if there is more than one."""
        given = {
            "--lora": (self.lora, TuneMethod.LORA),
            "--full": (self.full, TuneMethod.FULL),
            "--from-scratch": (self.from_scratch is not None, TuneMethod.SCRATCH),
        }
        names = [name for name, (is_given, _) in given.items() if is_given]
        if len(names) > 1:
            raise UsageError(f"{' and '.join(names)} exclude each other", "give one")
        return given[names[0]][1] if names else TuneMethod.LORA


@dataclass(frozen=True)
class DataOptions:
    """What is learned from."""

    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="FILE",
            help="Examples, a JSON object on each line: conversations, pairs of prompt and answer, or "
            "texts; or a function that writes them, as package:function. Repeatable.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None
    ctx: Annotated[
        int | None,
        typer.Option(
            "--ctx",
            "-c",
            help="Most tokens of an example, and tokens of a row of several.",
            show_default="as the examples need, 512 to 2048",
            rich_help_panel=DATA,
        ),
    ] = None
    long: Annotated[
        LongPolicy,
        typer.Option(
            help="What becomes of examples longer than that: cut, skip, or refuse to begin.",
            rich_help_panel=DATA,
        ),
    ] = LongPolicy.CUT
    pack: Annotated[
        bool,
        typer.Option(
            help="Put several examples into a row, of which none sees another.",
            rich_help_panel=DATA,
        ),
    ] = True
    prompt_weight: Annotated[
        float,
        typer.Option(
            help="Weight of the loss on what is no answer, from 0 to 1.", rich_help_panel=DATA
        ),
    ] = 0.0
    chat_template: Annotated[
        Path | None,
        typer.Option(
            help="Jinja file to use instead of the model's chat template.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None
    eval_split: Annotated[
        float,
        typer.Option(
            help="Share of the examples that are held out, to see whether others get better too.",
            rich_help_panel=DATA,
        ),
    ] = 0.05


@dataclass(frozen=True)
class LearningOptions:
    """How it learns."""

    epochs: Annotated[
        float,
        typer.Option(help="How often each example is learned.", rich_help_panel=LEARNING),
    ] = 3.0
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps, instead of epochs.", show_default=False, rich_help_panel=LEARNING
        ),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate.",
            show_default="2e-4 for an adapter, 2e-5 for all weights, 1e-3 from scratch",
            rich_help_panel=LEARNING,
        ),
    ] = None
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="How the learning rate falls: as a cosine to a tenth, or straight over the last 30 %.",
            rich_help_panel=LEARNING,
        ),
    ] = Schedule.COSINE
    warmup: Annotated[
        float,
        typer.Option(
            help="Share of the steps in which the rate rises; 1 and more: number of steps.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.05
    batch: Annotated[
        int,
        typer.Option(help="Rows of --ctx tokens at once.", rich_help_panel=LEARNING),
    ] = 1
    accumulate: Annotated[
        int,
        typer.Option(
            help="How often --batch rows are read before the weights change.",
            rich_help_panel=LEARNING,
        ),
    ] = 1
    clip: Annotated[
        float,
        typer.Option(help="Largest norm of the gradient; 0: no limit.", rich_help_panel=LEARNING),
    ] = 1.0
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Decay of the matrices.",
            show_default="0.01, 0.1 from scratch",
            rich_help_panel=LEARNING,
        ),
    ] = None
    beta2: Annotated[
        float | None,
        typer.Option(
            "--beta2",
            help="AdamW's memory of squared gradients.",
            show_default="0.999, 0.95 from scratch",
            rich_help_panel=LEARNING,
        ),
    ] = None
    eval_every: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS",
            help="Evaluate the held-out examples after so many steps.",
            show_default="ten times in all",
            rich_help_panel=LEARNING,
        ),
    ] = None
    patience: Annotated[
        int,
        typer.Option(
            help="End after so many evaluations without a better one; 0: never. The best is kept.",
            rich_help_panel=LEARNING,
        ),
    ] = 0
    seed: Annotated[int, typer.Option(help="Source of all chance.", rich_help_panel=LEARNING)] = 0


@dataclass(frozen=True)
class MemoryOptions:
    """What the run costs."""

    state: Annotated[
        StateFormat,
        typer.Option(help="Format of the optimizer's two moments.", rich_help_panel=MEMORY),
    ] = StateFormat.FP32
    dtype: Annotated[
        Arithmetic,
        typer.Option(
            help="Arithmetic; auto: bfloat16 where the processor or the GPU has it.",
            rich_help_panel=MEMORY,
        ),
    ] = Arithmetic.AUTO
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing",
            help="Compute what is inside of layers again instead of keeping it: less memory, a third "
            "more time.",
            rich_help_panel=MEMORY,
        ),
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            help="Threads.",
            show_default="cores",
            min=1,
            rich_help_panel=MEMORY,
        ),
    ] = None
    gpus: Annotated[
        int,
        typer.Option(
            help="Share each step among so many GPUs of this machine: a process for each.",
            min=1,
            rich_help_panel=MEMORY,
        ),
    ] = 1
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Begin though the run would need more memory than is free.",
            rich_help_panel=MEMORY,
        ),
    ] = False


def settings_of(
    base: Path,
    what: WhatLearns,
    data: DataOptions,
    learning: LearningOptions,
    memory: MemoryOptions,
) -> TuneSettings:
    """Return the settings of a run. Raises UsageError."""
    if not data.data:
        raise UsageError("no data", "give examples with --data FILE.jsonl")
    return TuneSettings(
        base=base,
        data=tuple(data.data),
        method=what.method,
        config=what.from_scratch,
        chat_template=data.chat_template,
        epochs=learning.epochs,
        steps=learning.steps,
        lr=learning.lr,
        schedule=learning.schedule,
        warmup=learning.warmup,
        weight_decay=learning.weight_decay,
        beta2=learning.beta2,
        clip=learning.clip,
        batch=learning.batch,
        accumulate=learning.accumulate,
        ctx=data.ctx,
        pack=data.pack,
        long=data.long,
        prompt_weight=data.prompt_weight,
        eval_split=data.eval_split,
        eval_every=learning.eval_every,
        patience=learning.patience,
        rank=what.rank,
        alpha=what.alpha,
        dropout=what.dropout,
        seed=learning.seed,
        state=memory.state,
        dtype=memory.dtype,
        checkpointing=memory.checkpointing,
    ).checked()
