"""The outlook of a model on a setup: whether it fits, each machine's part, and how fast it would run.

Knows models and figures. Refuses to know how that is shown, and where a model comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dure.errors import CutError, DureError
from dure.model.architectures import Along
from dure.model.context import CTX_GRAIN
from dure.model.gguf import GgufFile
from dure.plan.correction import Correction, corrected
from dure.plan.demand import Demand, demand_of
from dure.plan.load import load_of
from dure.plan.memory import DEFAULT_CTX, whole_memory
from dure.plan.outline import QUANTIZATIONS, requantized
from dure.plan.performance import Prediction, predict
from dure.plan.placement import Candidate, shares_of
from dure.plan.setups import Setup
from dure.sizes import compared

__all__ = ["NodePart", "Outlook", "Task", "outlook_of", "quantizations_of"]


@dataclass(frozen=True)
class Task:
    """What a model is to do. n_ctx: of each sequence; None: the default. n_prompt: of a prompt."""

    n_ctx: int | None = None
    n_sequences: int = 1
    n_prompt: int = 512

    def context(self, trained: int) -> int:
        """Return the context that is planned for."""
        return self.n_ctx or min(DEFAULT_CTX, trained)


@dataclass(frozen=True)
class NodePart:
    """One machine's part. memory_bytes: of its process, with contexts. heads, kv_heads: of a layer."""

    name: str
    share: float
    weights_bytes: int
    kv_bytes: int
    memory_bytes: int
    free_bytes: float
    heads: int | None = None
    kv_heads: int | None = None

    @property
    def fits(self) -> bool:
        """Return whether its memory holds it."""
        return self.memory_bytes <= self.free_bytes


@dataclass(frozen=True)
class Outlook:
    """What is to be expected. problem: why the model does not run there; there may be no speeds then.

    full: the prediction with the whole context before the token. smaller_ctx: a context that would fit,
    if this one does not. correction: by what these machines have shown; it is in the predictions.
    """

    setup: Setup
    n_ctx: int
    weights_bytes: int
    parts: tuple[NodePart, ...] = ()
    prediction: Prediction | None = None
    full: Prediction | None = None
    problem: str = ""
    smaller_ctx: int | None = None
    correction: Correction | None = None

    def corrected(self, correction: Correction | None) -> Outlook:
        """Return the outlook with the speeds that its machines have shown to reach, if they have."""
        if correction is None or self.prediction is None or self.full is None:
            return self
        both = corrected(self.prediction, correction), corrected(self.full, correction)
        return replace(self, prediction=both[0], full=both[1], correction=correction)

    @property
    def runs(self) -> bool:
        """Return whether the model runs there."""
        return not self.problem


def outlook_of(
    model: GgufFile, setup: Setup, task: Task, shares: Sequence[float] | None = None
) -> Outlook:
    """Return the outlook of a model. shares: of each machine; None: by speed, as a start divides it.

    Raises ModelError if its header does not say enough.
    """
    memory, trained = whole_memory(model, setup.devices[0].processor.features)
    n_ctx = task.context(trained)
    known = Outlook(setup, n_ctx, memory.weights_bytes)
    if task.n_ctx is not None and task.n_ctx > trained:
        problem = f"it was trained for contexts of {trained} tokens at most, not {task.n_ctx}"
        return Outlook(setup, n_ctx, memory.weights_bytes, problem=problem)
    free = sum(max(0.0, one.free_bytes) for one in setup.devices)
    if known.weights_bytes > free and len(setup.devices) > 1:
        takes, has = compared(known.weights_bytes, free)
        problem = f"its weights alone take {takes}, and all machines together have {has} for them"
        return Outlook(setup, n_ctx, known.weights_bytes, problem=problem)
    try:
        demand = _demand(model, setup, task, shares)
    except CutError as error:
        return Outlook(setup, n_ctx, memory.weights_bytes, problem=str(error))
    parts = tuple(_parts(demand, setup, n_ctx, task.n_sequences))
    return Outlook(
        setup,
        n_ctx,
        known.weights_bytes,
        parts,
        predict(demand, setup.devices, setup.link, setup.engine, n_prompt=task.n_prompt),
        predict(
            demand, setup.devices, setup.link, setup.engine, n_prompt=task.n_prompt, depth=n_ctx
        ),
        _lack(parts),
        _smaller_ctx(demand, setup, n_ctx, task.n_sequences) if _lack(parts) else None,
    )


def _demand(model: GgufFile, setup: Setup, task: Task, given: Sequence[float] | None) -> Demand:
    """Divide a model as a start on the cluster would: by speed, as far as memory goes."""
    features = tuple(one.processor.features for one in setup.devices)
    if given is not None:
        return demand_of(model, given, features)
    if len(set(setup.names)) == 1:
        return _alike(model, features)
    load = load_of(model, n_ctx=task.n_ctx, n_sequences=task.n_sequences, value_bytes=34 / 32)
    candidates = []
    for i, device in enumerate(setup.devices):
        memory, trained = whole_memory(model, device.processor.features)
        over = memory.overhead_bytes(task.context(trained), task.n_sequences)
        speed = device.processor.read_speed(load.main_type)
        candidates.append(Candidate(str(i), speed, max(1.0, device.free_bytes - over)))
    shares = shares_of(candidates, load)
    return demand_of(model, list(shares.values()), features)


@lru_cache(maxsize=512)
def _alike(model: GgufFile, features: tuple[tuple[str, ...], ...]) -> Demand:
    """Divide a model over equal machines: one division serves all that differ in memory alone."""
    return demand_of(model, [1.0] * len(features), features)


def _parts(demand: Demand, setup: Setup, n_ctx: int, n_sequences: int) -> Iterator[NodePart]:
    for i, (rank, device) in enumerate(zip(demand.ranks, setup.devices, strict=True)):
        cut = demand.cut.ranks[i] if demand.cut else None
        yield NodePart(
            setup.names[i],
            rank.share,
            rank.memory.weights_bytes,
            rank.memory.kv_bytes(n_ctx, n_sequences),
            rank.memory.total_bytes(n_ctx, n_sequences),
            device.free_bytes,
            len(cut[Along.HEADS]) if cut else None,
            len(cut[Along.KV_HEADS]) if cut else None,
        )


def _smaller_ctx(demand: Demand, setup: Setup, n_ctx: int, n_sequences: int) -> int | None:
    """Return the largest half, quarter and so on of a context that fits; None if none does."""
    while (n_ctx := n_ctx // 2) >= CTX_GRAIN:
        if not _lack(list(_parts(demand, setup, n_ctx, n_sequences))):
            return n_ctx
    return None


def _lack(parts: Sequence[NodePart]) -> str:
    """Return why the fullest machine does not hold its part, or ""."""
    fullest = max(parts, key=lambda one: one.memory_bytes - one.free_bytes)
    if fullest.fits:
        return ""
    takes, free = compared(fullest.memory_bytes, fullest.free_bytes)
    return f"its part takes {takes} of memory on {fullest.name}, which has {free} for it"


def quantizations_of(
    model: GgufFile, setup: Setup, task: Task, shares: Sequence[float] | None = None
) -> dict[str, Outlook]:
    """Return the outlook of each quantization of a model, by name, the smallest first.

    Without those that the model's rows have no blocks for.
    """
    found = {}
    for name in QUANTIZATIONS:
        try:
            found[name] = outlook_of(requantized(model, name), setup, task, shares)
        except DureError:
            continue
    return found
