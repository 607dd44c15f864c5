"""Says before `dure quantize` starts how long it will take, and what disk and memory it needs.

Knows what each phase computes, and how fast this machine does that: measured in a moment, or kept.
Refuses to know options, and what is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile
from dure.places import free_bytes
from dure.plan.load import main_type_of
from dure.plan.type_times import read_part
from dure.sizes import compared

__all__ = [
    "QuantizeEstimate",
    "TextWork",
    "check_original_fits",
    "check_swap_room",
    "estimated",
]


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

    text_s: the model writes the text and reads it. errors_s: of n_tensors tensors, swaps_s: of n_swaps
    groups, as far as they are not known yet and the time allows. write_s: the file is written, and judged.
    swap_bytes: in the cache, until the swaps are done. file_bytes: of tensors in the file; 0: none.
    """

    text_s: float
    n_tensors: int
    errors_s: float
    n_swaps: int
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
    read_s, write_text_s = _text_s(search.model, text, reporter) if text else (0.0, 0.0)

    def encoded_s(weights: Mapping[str, int]) -> float:
        return encoding_s(weights, speeds, search.threads)

    each_s = list(map(encoded_s, passes))
    errors_s = max(sum(each_s[:1]), min(sum(each_s), time_s / 2 if text else time_s))
    own_s = read_s * bool(text and text.n_to_read)
    all_swaps_s = sum(encoded_s(one) + read_s for one in swapped)
    return QuantizeEstimate(
        text_s=write_text_s + own_s,
        n_tensors=len(search.types) if measures else 0,
        errors_s=errors_s,
        n_swaps=len(swaps),
        swaps_s=min(all_swaps_s, max(0.0, time_s - errors_s - own_s)),
        write_s=encoded_s(written) + read_s if types is not None else 0.0,
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


def _text_s(model: GgufFile, text: TextWork, reporter: Reporter) -> tuple[float, float]:
    """Return the seconds in which the model reads the text, and in which it writes what is missing."""
    type_name = main_type_of(model)
    speed = speeds_here([type_name], reporter).speed(ROOT_NAME, type_name)
    assert speed is not None, "it was measured"
    n_bytes = sum(read_part(model, tensor) * tensor.size_bytes for tensor in model.tensors.values())
    token_s = n_bytes / speed.prompt_bytes_per_s
    step_s = max(n_bytes / speed.decode_bytes_per_s, token_s * text.at_once)
    return token_s * text.n_tokens, step_s * text.n_to_write / text.at_once


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
