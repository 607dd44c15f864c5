"""Says before `dure quantize` starts how long it will take, and what disk and memory it needs.

Knows what each phase computes, and how fast this machine does that: measured in a moment, or kept.
Refuses to know options, and what is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dure.cluster.trust.identity import ROOT_NAME
from dure.convert.quantize.encoding_speed import encoding_s, weights_per_s
from dure.convert.quantize.group_weights import GroupWeights, swaps_left
from dure.convert.quantize.output_errors import weights_left
from dure.convert.quantize.search import Search
from dure.deploy.local import check_local
from dure.deploy.options import RunOptions
from dure.deploy.quantize_machines import speeds_here
from dure.deploy.reporter import Reporter
from dure.errors import ResourceError
from dure.model.architectures import shape_of
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile
from dure.places import free_bytes
from dure.plan.load import main_type_of
from dure.plan.type_times import read_part
from dure.sizes import compared

__all__ = [
    "START_S",
    "QuantizeEstimate",
    "TextWork",
    "check_original_fits",
    "check_swap_room",
    "estimated",
]

# What the speed of reading weights does not say, in seconds; of two cores with AVX-512, see docs/LOG.md.
START_S = 0.2  # of an engine
_START_WORD_S = 3e-6  # of a start, for each token of the vocabulary
_LAYER_S = 2e-5  # of a token in a layer, beside others: attention and small kernels
_WRITTEN_S = 2e-4  # of a token that is written
_LOGIT_S = (
    7e-9  # of a row's logits that are compared, each; twice that if the row is kept or drawn from
)


@dataclass(frozen=True)
class TextWork:
    """The text of a judge. n_to_write, n_to_read: tokens that the model must write, and read itself.

    n_tokens: of the text. at_once: sequences in which it is written. known: what was judged on it.
    """

    n_tokens: int
    n_to_write: int
    n_to_read: int
    at_once: int
    known: GroupWeights | None


@dataclass(frozen=True)
class QuantizeEstimate:
    """Seconds of each phase, about; bytes on disk.

    text_s: the model writes the text and reads it. errors_s: of n_tensors tensors, swaps_s: of n_judged of
    n_swaps groups, as far as they are not known yet and the time allows. write_s: the file is written, and
    judged. swap_bytes: in the cache, until the swaps are done. file_bytes: of tensors in the file; 0: none.
    """

    text_s: float
    n_tensors: int
    errors_s: float
    n_swaps: int
    n_judged: int
    swaps_s: float
    write_s: float
    swap_bytes: int
    file_bytes: int

    @property
    def total_s(self) -> float:
        """Return the seconds of all phases."""
        return self.text_s + self.errors_s + self.swaps_s + self.write_s


def estimated(
    search: Search,
    types: Mapping[str, GgmlType] | None,
    text: TextWork | None,
    time_s: float,
    reporter: Reporter,
    *,
    measures: bool,
) -> QuantizeEstimate:
    """Return what a run will take.

    types: of a file, about; None: none is written. text: None: nothing is judged. time_s: see
    `measure_errors`. measures: errors count.
    """
    swaps = swaps_left(search, text.known) if text and measures else []
    swapped, written = [_weights(search, swap) for swap in swaps], _weights(search, types or {})
    passes = weights_left(search.model, search.types, search.table) if measures else []
    speeds = weights_per_s(set[str]().union(*passes, *swapped, written))
    times = _TextTimes.of(search.model, text, reporter) if text else _TextTimes(0.0, 0.0, 0.0)

    def encoded_s(weights: Mapping[str, int]) -> float:
        return encoding_s(weights, speeds, search.threads)

    each_s = list(map(encoded_s, passes))
    left_s = time_s - times.write_s
    errors_s = max(sum(each_s[:1]), min(sum(each_s), left_s / 2 if text else left_s))
    left_s -= errors_s + times.own_s
    n_judged, swaps_s = _within(left_s, [encoded_s(one) + times.compare_s for one in swapped])
    return QuantizeEstimate(
        text_s=times.write_s + times.own_s,
        n_tensors=len(search.types) if measures else 0,
        errors_s=errors_s,
        n_swaps=len(swaps),
        n_judged=n_judged,
        swaps_s=swaps_s,
        write_s=encoded_s(written) + times.compare_s if types is not None else 0.0,
        swap_bytes=_swap_bytes(search.model, swaps),
        file_bytes=_bytes(search.model, types) if types is not None else 0,
    )


def check_original_fits(model: GgufFile, n_ctx: int, n_sequences: int) -> None:
    """Check that a model can run here to be compared with. Raises ResourceError."""
    try:
        check_local(model, RunOptions(ctx=n_ctx, n_sequences=n_sequences))
    except ResourceError as error:
        raise ResourceError(
            f"the original must fit into memory to weigh groups of tensors: {error.problem}",
            "use --even, which runs only the result, or a machine with more memory",
        ) from error


def check_swap_room(directory: Path, swap_bytes: int) -> None:
    """Check that the cache's disk has room for swaps. Raises ResourceError."""
    free = free_bytes(directory)
    if swap_bytes > free:
        needs, has = compared(swap_bytes, free)
        raise ResourceError(
            f"swapping groups of tensors needs {needs} in {directory}, and {has} are free there",
            "make room, name another directory with DURE_CACHE, or leave it out with --even",
        )


def _weights(search: Search, types: Mapping[str, GgmlType]) -> Counter[str]:
    """Return how many weights are encoded in each type."""
    weights: Counter[str] = Counter()
    for name, type_ in types.items():
        tensor = search.model.tensors[name]
        if type_ != tensor.type:
            weights[type_.name] += tensor.n_elements
    return weights


@dataclass(frozen=True)
class _TextTimes:
    """Seconds in which a model writes what is missing of a text, reads it itself, and is compared on it."""

    write_s: float
    own_s: float
    compare_s: float

    @classmethod
    def of(cls, model: GgufFile, text: TextWork, reporter: Reporter) -> _TextTimes:
        type_name = main_type_of(model)
        speed = speeds_here([type_name], reporter).speed(ROOT_NAME, type_name)
        assert speed is not None, "it was measured"
        n_bytes = sum(read_part(model, one) * one.size_bytes for one in model.tensors.values())
        shape = shape_of(model)
        start_s = START_S + _START_WORD_S * shape.n_vocab
        token_s, row_s = n_bytes / speed.prompt_bytes_per_s, _LOGIT_S * shape.n_vocab
        small_s = _LAYER_S * shape.n_layer
        decode_s = n_bytes / speed.decode_bytes_per_s + speed.layer_s * shape.n_layer
        step_s = max(decode_s, token_s * text.at_once)
        written_s = step_s / text.at_once + small_s + 2 * row_s + _WRITTEN_S
        read_s = start_s + text.n_tokens * (token_s + small_s)
        scored_s = text.n_tokens / 2 * row_s
        return cls(
            write_s=start_s + text.n_to_write * written_s if text.n_to_write else 0.0,
            own_s=read_s + 2 * scored_s if text.n_to_read else 0.0,
            compare_s=read_s + scored_s,
        )


def _within(left_s: float, each_s: Sequence[float]) -> tuple[int, float]:
    """Return how many begin in a time, one at least, and what they take."""
    n, taken_s = 0, 0.0
    for one_s in each_s:
        if n and taken_s >= left_s:
            break
        n, taken_s = n + 1, taken_s + one_s
    return n, taken_s


def _swap_bytes(model: GgufFile, swaps: list[Mapping[str, GgmlType]]) -> int:
    """Return what swaps take on disk: the model, and the largest group once more."""
    groups = [
        sum(_tensor_bytes(model, name, type_) for name, type_ in swap.items()) for swap in swaps
    ]
    return model.size_bytes + max(groups) if groups else 0


def _bytes(model: GgufFile, types: Mapping[str, GgmlType]) -> int:
    return sum(
        _tensor_bytes(model, name, types.get(name, t.type)) for name, t in model.tensors.items()
    )


def _tensor_bytes(model: GgufFile, name: str, type_: GgmlType) -> int:
    tensor = model.tensors[name]
    return type_.row_bytes(tensor.shape[0]) * tensor.n_rows
