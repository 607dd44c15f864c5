"""Learns how much an error in each group of tensors counts: groups are swapped one at a time.

A group's weight is the KL divergence of the model with that group alone in a small type, by the sum of its
tensors' errors. What was measured is kept. Refuses to know how a model is run and judged: that is given.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from dure.convert.quantize.choosing import group_of
from dure.convert.quantize.encoding import Encoder
from dure.convert.quantize.output_errors import Progress
from dure.convert.quantize.search import Search
from dure.convert.quantize.swap_files import SwapFiles
from dure.model.architectures import shape_of
from dure.model.ggml import GgmlType, type_named
from dure.whole_file import write_whole

__all__ = ["GroupWeights", "measure_weights", "swaps_left"]

PROBE_BITS = 3.5  # of the type that a group is swapped to: its error shows, and is not yet a wreck
_LEAST = 1e-3  # of the median: no group is for free


class GroupWeights:
    """The divergences that were measured of one model on one text, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, float] = {}
        try:
            self._found = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.MsgspecError):
            return

    @classmethod
    def on(cls, search: Search, text: str) -> GroupWeights:
        """Return what was measured with a search on a text. text: its SHA-256."""
        return cls(search.directory / f"{search.key}-{text[:16]}.weights.json")

    def of(self, key: str) -> float | None:
        """Return what was measured for a swap."""
        return self._found.get(key)

    def keep(self, key: str, weight: float) -> None:
        """Keep what was measured."""
        self._found[key] = weight
        write_whole(self._path, msgspec.json.encode(self._found))


def measure_weights(
    search: Search,
    divergence: Callable[[Path, Progress], float],
    known: GroupWeights,
    *,
    directory: Path,
    time_s: float,
    progress: Progress = lambda _: None,
) -> dict[str, float]:
    """Return the weight of each group; of those that time_s did not suffice for, the median of the others.

    divergence: runs a model and returns its KL divergence from the original; it tells how far it is.
    directory: empty, has room for the model and a group of it. The largest groups come first, and one is
    judged whatever time_s is.
    """
    ends = time.monotonic() + time_s
    groups = _groups(search)
    importances = search.importance.importance if search.importance else None
    encoder = Encoder(search.model, importances, search.threads)
    files = SwapFiles(search.model, encoder, groups, directory)
    weights: dict[str, float] = {}

    def judged(path: Path, done: int) -> float:
        return divergence(path, lambda part: progress((done + part) / len(groups)))

    for done, (group, names) in enumerate(groups.items()):
        swap = _swap(search, names)
        error = sum(search.table.error(name, type_.name) or 0.0 for name, type_ in swap.items())
        key = _key(group, swap)
        found = known.of(key)
        if found is None and (not weights or time.monotonic() < ends):
            with files.swapped(group, swap) as path:
                found = judged(path, done)
            known.keep(key, found)
        if found is not None and error > 0:
            weights[group] = found / error
        progress((done + 1) / len(groups))
    return _filled(weights, list(groups))


def swaps_left(search: Search, known: GroupWeights | None) -> list[Mapping[str, GgmlType]]:
    """Return the types of each swap that was not judged yet, the largest first; None: nothing was."""
    swaps = {group: _swap(search, names) for group, names in _groups(search).items()}
    return [
        swap
        for group, swap in swaps.items()
        if known is None or known.of(_key(group, swap)) is None
    ]


def _swap(search: Search, names: Sequence[str]) -> dict[str, GgmlType]:
    return {name: _probe(search.types[name]) for name in names}


def _key(group: str, swap: Mapping[str, GgmlType]) -> str:
    return f"{group} {sorted({type_.name for type_ in swap.values()})}"


def _groups(search: Search) -> dict[str, list[str]]:
    n_layer = shape_of(search.model).n_layer
    groups: dict[str, list[str]] = defaultdict(list)
    for name in search.types:
        groups[group_of(name, n_layer)].append(name)
    tensors = search.model.tensors
    sizes = {group: sum(tensors[n].n_elements for n in names) for group, names in groups.items()}
    return {group: groups[group] for group in sorted(groups, key=lambda group: -sizes[group])}


def _probe(names: Sequence[str]) -> GgmlType:
    """Return the type that a tensor is swapped to."""
    types = [type_named(name) for name in names]
    return min(types, key=lambda one: abs(8 * one.type_size / one.block_size - PROBE_BITS))


def _filled(weights: Mapping[str, float], groups: Sequence[str]) -> dict[str, float]:
    """Return a weight for every group. Without any, as no swap has an error, all count alike."""
    middle = sorted(weights.values())[len(weights) // 2] if weights else 1.0
    return {group: max(weights.get(group, middle), _LEAST * middle) for group in groups}
