"""The central seam: `Executor.step(Batch) -> StepResult`, and what else a running model can do.

Knows what goes into a step of a model and what comes out.
Refuses to know whether one process or many machines answer, and what a request is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dure.engine.adapters import NO_ADAPTERS, NO_NUMBERS, AdapterNumbers, Adapters, AdapterSet
from dure.engine.arrays import Floats, InputSums, Ints
from dure.engine.kv import KvOp
from dure.engine.thread_watch import SHORT
from dure.engine.trace import RankTrace
from dure.errors import UsageError

__all__ = [
    "TOP_K",
    "Adjustment",
    "Batch",
    "Executor",
    "ExecutorInfo",
    "Floats",
    "FullExecutor",
    "InputGathering",
    "InputSums",
    "Instruments",
    "Ints",
    "RankFacts",
    "SavedSequences",
    "SequenceFiles",
    "StepResult",
    "StepStats",
    "TopK",
    "check_batch",
    "nothing",
]

TOP_K = 256  # logits that a rank reports of its slice, unless a step asks for fewer


@dataclass(frozen=True)
class Adjustment:
    """Changes some logits before the top k are chosen: penalties and biases.

    The logit x of ids[i] becomes r(x + before[i]) + after[i], where r multiplies by repeat[i] what is not
    above zero, and divides by it what is: llama.cpp's order of bias, penalties and DRY.
    ids: int32 [m], each once; before, repeat, after: float32 [m]; `before` may be -inf.
    """

    ids: Ints
    before: Floats
    repeat: Floats
    after: Floats


@dataclass(frozen=True)
class Batch:
    """The tokens of one step. All arrays have one entry a token.

    tokens: int32 [n], ids of the model's vocabulary.
    positions: int32 [n], each token's place in its sequence.
    sequences: int32 [n], the sequence each token belongs to.
    outputs: indices of the tokens whose logits come back, ascending.
    top_k: how many of the highest logits come back for each; 1 is enough for greedy choice.
    kv: changes of the KV cache that come first.
    adjust: for every output what to change of its logits, or empty.
    embed: hidden states of the outputs come back instead of logits.
    adapters: what the weights are changed by.
    """

    tokens: Ints
    positions: Ints
    sequences: Ints
    outputs: Sequence[int] = ()
    top_k: int = TOP_K
    kv: Sequence[KvOp] = ()
    adjust: Sequence[Adjustment | None] = ()
    embed: bool = False
    adapters: AdapterSet = NO_ADAPTERS


@dataclass(frozen=True)
class TopK:
    """The top k tokens of one output row, highest logit first; of equal logits the lower id first.

    ids: int32 [k], logits: float32 [k].
    log_sum_exp: of the logits of the whole vocabulary; NaN for k = 1.
    whole: every token of the vocabulary is here.
    """

    ids: Ints
    logits: Floats
    log_sum_exp: float
    whole: bool = False


@dataclass(frozen=True)
class StepStats:
    """What a step cost, one entry a rank.

    step_s: seconds in the step; of these sync_s in all-reduces; idle_s: seconds waited for the step.
    bytes_sent: to other ranks, by all-reduces and by reporting the top k.
    given_up: threads that left processors to other programs. lost: how many threads' worth of the step
    other programs took all the same.
    """

    step_s: tuple[float, ...]
    sync_s: tuple[float, ...]
    idle_s: tuple[float, ...]
    bytes_sent: tuple[float, ...]
    given_up: tuple[int, ...]
    lost: tuple[float, ...]

    @property
    def is_disturbed(self) -> bool:
        """Return whether other programs made a rank slower than it is."""
        return any(self.given_up) or max(self.lost) >= SHORT

    @property
    def compute_s(self) -> tuple[float, ...]:
        """Return each rank's seconds in the step outside of all-reduces."""
        return tuple(a - b for a, b in zip(self.step_s, self.sync_s, strict=True))


@dataclass(frozen=True)
class StepResult:
    """What a step gave: `rows[i]` belongs to `Batch.outputs[i]`.

    embeddings: float32 [n_outputs, n_embd] if the batch asked for them; there are no rows then.
    """

    rows: tuple[TopK, ...]
    stats: StepStats
    embeddings: Floats | None = None


@dataclass(frozen=True)
class RankFacts:
    """What one rank's process holds: its weights, its KV cache and the most memory it ever had."""

    host: str
    weights_bytes: int
    kv_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class SavedSequences:
    """What one rank has of saved sequences. free_bytes: room for them, with what they take already."""

    keys: frozenset[str]
    free_bytes: int


@dataclass(frozen=True)
class ExecutorInfo:
    """What a caller must know to make steps.

    n_ctx: positions of each sequence in the KV cache. n_batch: tokens that a step may hold.
    n_outputs: rows of logits that a step may give. threads: of each rank.
    can_forget: the end of a sequence can be forgotten; not if the model keeps a running state.
    n_window: some layers keep only that many positions of a sequence, from which on no more can be
    forgotten than the last step's tokens; 0 if all layers keep all.
    transport: how vectors get from rank to rank, for a user; "" with one rank.
    adapters: those that are loaded.
    """

    n_ranks: int
    n_vocab: int
    n_ctx: int
    n_batch: int
    n_sequences: int
    n_outputs: int
    threads: tuple[int, ...] = (1,)
    can_forget: bool = True
    n_window: int = 0
    transport: str = ""
    adapters: AdapterNumbers = NO_NUMBERS


def check_batch(batch: Batch, info: ExecutorInfo) -> None:
    """Check a batch against the limits of an executor. Raises UsageError."""
    n = len(batch.tokens)
    if n > info.n_batch:
        raise UsageError(f"a step of {n} tokens is over the limit of {info.n_batch}", "divide it")
    if len(batch.outputs) > info.n_outputs:
        raise UsageError(
            f"{len(batch.outputs)} output rows are over the limit of {info.n_outputs} in one step"
        )
    if not 1 <= batch.top_k <= info.n_vocab:
        raise UsageError(f"top_k is {batch.top_k}, but the vocabulary has {info.n_vocab} tokens")
    tokens: list[int] = batch.tokens.tolist()  # mostly a single one: quicker than with numpy
    for token in (min(tokens), max(tokens)) if n else ():
        if not 0 <= token < info.n_vocab:
            raise UsageError(f"token {token} is outside of the vocabulary of {info.n_vocab}")
    if batch.adjust and len(batch.adjust) != len(batch.outputs):
        raise UsageError(f"{len(batch.adjust)} adjustments for {len(batch.outputs)} outputs")
    if any(not 0 <= i < n for i in batch.outputs):
        raise UsageError(f"outputs {list(batch.outputs)} are not all among the step's {n} tokens")
    if any(number not in info.adapters for number, _ in batch.adapters):
        loaded = sorted(info.adapters.loaded)
        raise UsageError(
            f"adapters {list(batch.adapters)} are not all among those loaded: {loaded}"
        )


def nothing() -> None:
    """Do nothing meanwhile."""


class Executor(Protocol):
    """Runs the steps of one model.

    One thread calls it, one call at a time. The KV cache of every sequence is empty at first, and
    changes by steps alone. A UsageError changes nothing: the next step may follow. After an EngineError
    the ranks are lost with their KV cache: every further call raises EngineError, but for `close`.
    """

    info: ExecutorInfo

    def step(self, batch: Batch, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Change the KV cache as the batch says, then decode its tokens.

        A batch without tokens only changes the KV cache. meanwhile: is called once, while other processes
        compute or else before. Raises UsageError if the batch breaks the limits in `info`.
        """

    def logits(self, row: int) -> Floats:
        """Return all logits of an output row of the last step, adjusted as that step said.

        row: an index into `Batch.outputs`. Returns float32 [n_vocab]. The step must have asked for logits,
        not for embeddings.
        """

    def close(self) -> None:
        """End every process and free the memory. May be called at any time, and again."""


class SequenceFiles(Protocol):
    """Writes sequences of an executor's KV cache to files, a part on every rank, and reads them back.

    Between two steps, by the thread that makes them. `path` is a directory and a key; it names one file
    on each rank, which may lie on that rank's own machine. An error of a file leaves the KV cache usable,
    and no half file behind. Raises EngineError as the executor does.
    """

    def save(self, sequence: int, path: str) -> int:
        """Write a sequence, which stays as it is; return the bytes written by all ranks.

        Raises ResourceError if a rank cannot write its part; no rank has one then.
        """

    def load(self, sequence: int, path: str, n_tokens: int) -> bool:
        """Read n_tokens positions back into an empty sequence, as `save` wrote them.

        False if a file is missing, damaged or does not fit; the sequence is empty then.
        """

    def keep_only(self, directory: str, keys: Sequence[str]) -> list[SavedSequences]:
        """Delete all saved sequences of a directory but these; return what each rank has of them."""

    def drop(self, path: str) -> None:
        """Delete a saved sequence on every rank. Nothing happens if it is not there."""


class Instruments(Protocol):
    """Measures an executor's ranks, and sets how many threads they use.

    Between two steps, by the thread that makes them. The KV cache stays as it is.
    Raises EngineError as the executor does.
    """

    def set_threads(self, threads: Sequence[int]) -> None:
        """Decode single tokens with this number of threads on each rank; `info.threads` says so then.

        Prompts keep the threads that the executor was made with.
        """

    def watch_threads(self, changed: Callable[[Sequence[int]], None]) -> None:
        """Call `changed` with how many threads each rank has given up, when that has changed."""

    def trace(self, *, experts: bool = False) -> None:
        """Record the times of every step until `traced`. Raises UsageError if the model has no table.

        experts: also which are chosen, for which llama.cpp halts once more in each layer that has them.
        """

    def traced(self) -> list[RankTrace]:
        """Return what every rank has recorded since `trace`, and stop recording."""

    def probe(self, n_bytes: int, /) -> tuple[list[float], float]:
        """Measure how many bytes of memory each rank reads in a second, all at once, and the seconds of
        an exchange of n_bytes among them.
        """

    def facts(self) -> list[RankFacts]:
        """Return what every rank holds now."""


class InputGathering(Protocol):
    """Adds up what the weights of an executor's layers are multiplied with, while steps are computed.

    Between two steps, by the thread that makes them. Raises EngineError as the executor does.
    """

    def gather_inputs(self, *, on: bool) -> InputSums:
        """Gather from now on, from nothing, or stop; return what was gathered before, of the whole model.

        The last layer's feed-forward sees only the tokens that are outputs. Raises ResourceError if memory
        is short.
        """


class FullExecutor(Executor, SequenceFiles, Instruments, InputGathering, Adapters, Protocol):
    """All sides of one running model. For who starts it and hands the sides on; use the narrowest."""
