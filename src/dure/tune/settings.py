"""What a run of tuning is asked for, with a default for everything that depends on the way.

Plain values: they are written beside the result, and compared when a run goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from dure.errors import UsageError
from dure.tune.data.examples import LongPolicy
from dure.tune.state_format import StateFormat

__all__ = [
    "Arithmetic",
    "LongPolicy",
    "Schedule",
    "StateFormat",
    "TuneMethod",
    "TuneSettings",
    "option_of",
]


class TuneMethod(StrEnum):
    """Which weights are learned: small matrices beside the model's, all, or those of a new model."""

    LORA = "lora"
    FULL = "full"
    SCRATCH = "from-scratch"


class Schedule(StrEnum):
    """How the learning rate goes after the warm-up: a cosine's half, or a plateau and a straight fall."""

    COSINE = "cosine"
    PLATEAU = "plateau"


class Arithmetic(StrEnum):
    """In what the model computes."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


_RATES = {TuneMethod.LORA: 2e-4, TuneMethod.FULL: 2e-5, TuneMethod.SCRATCH: 1e-3}
_FREE = {"checkpointing", "batch", "accumulate"}  # the same result, but for rounding


@dataclass(frozen=True)
class TuneSettings:
    """Everything that the result depends on.

    data: files, and functions as package:function. config: of a model that is made from nothing. lr,
    weight_decay, beta2: None for what is usual with the method. warmup: a share of the steps below 1, else
    steps. ctx: tokens of a row, None: as the examples need. batch: rows of one pass, accumulate: passes of
    a step. eval_every: steps, None: a tenth of the run. patience: evaluations without a better, or 0.
    """

    base: Path
    data: tuple[str, ...]
    method: TuneMethod = TuneMethod.LORA
    config: Path | None = None
    chat_template: Path | None = None
    epochs: float = 3.0
    steps: int | None = None
    lr: float | None = None
    schedule: Schedule = Schedule.COSINE
    warmup: float = 0.05
    weight_decay: float | None = None
    beta2: float | None = None
    clip: float = 1.0
    batch: int = 1
    accumulate: int = 1
    ctx: int | None = None
    pack: bool = True
    long: LongPolicy = LongPolicy.CUT
    prompt_weight: float = 0.0
    eval_split: float = 0.05
    eval_every: int | None = None
    patience: int = 0
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    seed: int = 0
    state: StateFormat = StateFormat.FP32
    dtype: Arithmetic = Arithmetic.AUTO
    checkpointing: bool = False

    def checked(self) -> TuneSettings:
        """Return them with every default filled in. Raises UsageError that names the option."""
        scratch = self.method is TuneMethod.SCRATCH
        full = replace(
            self,
            lr=_RATES[self.method] if self.lr is None else self.lr,
            weight_decay=(0.1 if scratch else 0.01)
            if self.weight_decay is None
            else self.weight_decay,
            beta2=(0.95 if scratch else 0.999) if self.beta2 is None else self.beta2,
            alpha=2.0 * self.rank if self.alpha is None else self.alpha,
        )
        for name, (is_right, cure) in full._rules().items():
            if not is_right:
                raise UsageError(f"{option_of(name)} {getattr(self, name)}", f"give {cure}")
        return full

    def _rules(self) -> dict[str, tuple[bool, str]]:
        assert self.lr is not None
        assert self.alpha is not None
        assert self.weight_decay is not None
        assert self.beta2 is not None
        positive, count = "a number above 0", "a whole number above 0"
        return {
            "epochs": (self.epochs > 0, positive),
            "steps": (self.steps is None or self.steps > 0, count),
            "lr": (0 < self.lr < 1, "a number between 0 and 1, as in 2e-4"),
            "warmup": (self.warmup >= 0, "a share of the steps as in 0.05, or steps as in 100"),
            "weight_decay": (self.weight_decay >= 0, "0, or a number above"),
            "beta2": (0 < self.beta2 < 1, "a number between 0 and 1"),
            "clip": (self.clip >= 0, "0 for no limit, or a number above"),
            "batch": (self.batch > 0, count),
            "accumulate": (self.accumulate > 0, count),
            "ctx": (self.ctx is None or self.ctx >= 8, "8 tokens or more"),
            "prompt_weight": (0 <= self.prompt_weight <= 1, "a number from 0 to 1"),
            "eval_split": (0 <= self.eval_split < 1, "a share below 1, as in 0.05"),
            "eval_every": (self.eval_every is None or self.eval_every > 0, count),
            "patience": (self.patience >= 0, "0 for no early end, or a number of evaluations"),
            "rank": (self.rank > 0, count),
            "alpha": (self.alpha > 0, positive),
            "dropout": (0 <= self.dropout < 1, "a number below 1"),
            "seed": (self.seed >= 0, "0, or a number above"),
        }

    @property
    def rows_per_step(self) -> int:
        """Return the rows that a step learns from."""
        return self.batch * self.accumulate

    def plain(self) -> dict[str, Any]:
        """Return them as JSON has them."""
        found = asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()} | {
            "data": list(self.data)
        }

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run goes on, by the options' names."""
        said = {option_of(k): v for k, v in self.plain().items() if k not in _FREE}
        return said | {"--batch times --accumulate": self.rows_per_step}


def option_of(name: str) -> str:
    """Return the option that sets a field, as it is typed."""
    return {
        "base": "BASE",
        "method": "--lora, --full or --from-scratch",
        "config": "--from-scratch",
    }.get(name, f"--{name.replace('_', '-')}")
