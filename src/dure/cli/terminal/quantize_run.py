"""Carries out `dure quantize`: chooses, writes, runs what was written, and chooses again if it must.

Returns what is told of it as plain data. Refuses to know options, and how results are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dure.cli.terminal.console import errors, loading_bar, print_warning, progress_bar
from dure.cli.terminal.noted import noted_phase
from dure.cli.terminal.quantize_options import Frontier, Target
from dure.cli.terminal.quantize_report import point_facts, quantized_facts
from dure.cli.terminal.running_model import TerminalReporter, running_model
from dure.convert.quantize.choosing import TypeChoice
from dure.convert.quantize.llama_types import LlamaTypes, file_types, mixture_named
from dure.convert.quantize.search import Search
from dure.convert.quantize.writing import Quantized, file_type_of, write_quantized
from dure.deploy.options import RunOptions
from dure.deploy.quantize_machines import machines_for, shares_for
from dure.deploy.quantizing import MISSED, ForSpeed, choose_for_size, size_frontier
from dure.engine.instruments.benchmark import BenchRuns, measure
from dure.evaluate.swaps import SwapJudge
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile
from dure.plan.type_times import retyped

__all__ = ["QuantizeRun"]

_FRONTIER_POINTS = 16
_ATTEMPTS = 6  # files, until the measured speed is the one that was asked for
_NEAR = 0.02  # of the speed: near enough
_BENCH = BenchRuns(n_prompt=16, n_generate=48, depth=0, repeat=5)


@dataclass(frozen=True)
class _Attempt:
    """A file that was written for a speed, and what is told of it."""

    choice: TypeChoice
    quantized: Quantized
    facts: dict[str, Any]

    @property
    def tokens_per_s(self) -> float:
        return float(self.facts["measured_tokens_per_s"])


class QuantizeRun:
    """One run of the command: from a search to what is told of it.

    weights: see `TypeProblem`. likely: the types that tensors will have, about. path: None: none is
    written.
    """

    def __init__(
        self,
        search: Search,
        target: Target,
        options: RunOptions,
        path: Path | None,
        weights: Mapping[str, float],
        judge: SwapJudge | None,
        likely: Mapping[str, GgmlType],
        *,
        verify: bool,
    ) -> None:
        self._search, self._target, self._weights = search, target, weights
        self._options, self._path, self._judge, self._verify = options, path, judge, verify
        self._likely = likely

    def frontier(self, of: Frontier) -> dict[str, Any]:
        """Return the least error at each size, or at each speed."""
        if of is Frontier.SIZE:
            shares = self._shares()
            points = size_frontier(self._search, self._weights, shares, _FRONTIER_POINTS)
            return {"frontier": [point_facts(choice) for choice in points]}
        wanted = self._for_speed()
        return {
            "frontier": [
                {**point_facts(one), "predicted_tokens_per_s": 1 / wanted.predicted_s(one)}
                for one in wanted.frontier(_FRONTIER_POINTS)
            ]
        }

    def mixture(self, found: LlamaTypes) -> dict[str, Any]:
        """Write one of llama.cpp's mixtures."""
        assert self._target.type_, "the target is a mixture"
        model, importance = self._search.model, self._search.importance
        _tell_of_fallbacks(model, found.fell_back, found.types)
        number = file_types()[mixture_named(self._target.type_)]
        wanted = Quantized(model, found.types, importance, number, {})
        return {**self._written(wanted), **self._measured()}

    def for_size(self) -> dict[str, Any]:
        """Write the choice with the least error within a size."""
        shares = self._shares()
        choice, wanted = self._within(
            lambda n_bytes: choose_for_size(self._search, self._weights, shares, n_bytes)
        )
        return {**self._written(wanted), "error": choice.error, **self._measured()}

    def for_speed(self, tokens_per_s: float) -> dict[str, Any]:
        """Write the choice with the least error at a speed; measure it, and choose again if it is not near.

        What a token really takes is not known before a file has run. Of several files the nearest stays.
        """
        wanted = self._for_speed()
        attempts: list[_Attempt] = []
        while len(attempts) < _ATTEMPTS:
            choice, quantized = self._within(
                lambda n_bytes: wanted.choose(tokens_per_s, n_bytes),
                lambda one: {
                    **wanted.machines.metadata,
                    "dure.quantize.predicted_tokens_per_s": 1 / wanted.predicted_s(one),
                },
            )
            if wanted.was_shown(choice):
                break
            if attempts:
                _tell_of_attempt(attempts[-1], tokens_per_s)
            told = {"error": choice.error, "predicted_tokens_per_s": 1 / wanted.predicted_s(choice)}
            facts = {**self._written(quantized), **told, **self._speed()}
            if "measured_tokens_per_s" not in facts:
                return facts
            attempts.append(_Attempt(choice, quantized, facts))
            wanted.learn(choice, attempts[-1].tokens_per_s)
            if self._is_enough(attempts[-1], tokens_per_s):
                break
        best = attempts[wanted.shown.index(wanted.nearest(tokens_per_s))]
        return {**self._kept(best, attempts, tokens_per_s), **self._divergence()}

    def _is_enough(self, attempt: _Attempt, tokens_per_s: float) -> bool:
        """Return whether a speed is near, or above the wanted one with nothing left to restore."""
        off, own = attempt.tokens_per_s / tokens_per_s - 1, self._search.model.tensors
        is_whole = all(own[name].type == type_ for name, type_ in attempt.choice.types.items())
        return abs(off) <= _NEAR or (off > 0 and is_whole)

    def _kept(
        self, best: _Attempt, attempts: Sequence[_Attempt], tokens_per_s: float
    ) -> dict[str, Any]:
        """Return the facts of the attempt whose file stays; tell by how much it misses the speed."""
        if best is not attempts[-1]:
            self._written(best.quantized)
        asked, found = f"{tokens_per_s:g} tok/s were asked for", f"{best.tokens_per_s:.1f}"
        slower = [one.tokens_per_s for one in attempts if one.tokens_per_s < tokens_per_s]
        if best.tokens_per_s < (1 - MISSED) * tokens_per_s:
            print_warning(
                f"{asked}, and the nearest file that ran has {found}: other programs disturbed it, or no "
                "types are quick enough"
            )
        elif best.tokens_per_s > (1 + MISSED) * tokens_per_s and slower:
            print_warning(
                f"{asked}, and nothing that ran lies between {max(slower):.1f} and {found}: the quicker "
                "one stays"
            )
        return best.facts

    def _shares(self) -> Sequence[float]:
        model = retyped(self._search.model, self._likely)
        return shares_for(model, self._options, TerminalReporter())

    def _for_speed(self) -> ForSpeed:
        machines = machines_for(self._search.possible_types, self._options, TerminalReporter())
        return ForSpeed(self._search, machines, self._weights, self._likely)

    def _within(
        self,
        choose: Callable[[float], TypeChoice],
        metadata: Callable[[TypeChoice], Mapping[str, Any]] = lambda _: {},
    ) -> tuple[TypeChoice, Quantized]:
        """Return the choice whose file has the size that was asked for. choose: for the tensors' bytes."""
        n_bytes = self._target.tensor_bytes(self._search.model)
        while True:
            with noted_phase("choosing"):
                choice = choose(n_bytes)
            wanted = self._quantized(choice, metadata(choice))
            over = wanted.file_bytes - self._target.file_bytes
            if over <= 0:
                return choice, wanted
            n_bytes -= over

    def _quantized(self, choice: TypeChoice, metadata: Mapping[str, Any]) -> Quantized:
        model = self._search.model
        own: dict[str, Any] = {
            "dure.quantize.target": self._target.label,
            "dure.quantize.bits_per_weight": choice.bits_per_weight,
        }
        number = file_type_of(model, choice.types)
        return Quantized(model, choice.types, self._search.importance, number, {**own, **metadata})

    def _written(self, wanted: Quantized) -> dict[str, Any]:
        """Write the file, and return what stands in it; if nothing is written, what would."""
        if self._path is None:
            tensors = wanted.model.tensors.items()
            types = {name: wanted.types.get(name, tensor.type).name for name, tensor in tensors}
            return quantized_facts(wanted, types)
        with progress_bar(f"writing {self._path.name}", wanted.size_bytes, "writing") as progress:
            kept = self._search.kept(wanted.file_bytes)
            types = write_quantized(wanted, self._path, kept, self._search.threads, progress)
        return quantized_facts(wanted, types)

    def _measured(self) -> dict[str, Any]:
        """Run what was written; return its speed, and how far it is from the original on the text."""
        return {**self._speed(), **self._divergence()}

    @property
    def _runs(self) -> bool:
        """Whether what is written is run: here, or on the cluster that it is for."""
        is_elsewhere = self._options.nodes is not None and not self._options.cluster
        return self._path is not None and self._verify and not is_elsewhere

    def _speed(self) -> dict[str, Any]:
        if self._path is None or not self._runs:
            return {}
        options = msgspec.structs.replace(self._options, ctx=_BENCH.n_tokens)
        with (
            running_model(self._path, options) as (_, executor),
            loading_bar(f"measuring {self._path.name}", "timing") as progress,
        ):
            result = measure(executor, _BENCH, progress)
        return {"measured_tokens_per_s": result.generation.tokens_per_s.median}

    def _divergence(self) -> dict[str, Any]:
        if self._judge is None or self._path is None or not self._runs:
            return {}
        with loading_bar(f"judging {self._path.name}", "judging") as progress:
            self._judge.read_original()
            found = self._judge.divergence(self._path, progress)
        mean, agreement = found.mean, found.agreement
        return {
            "kl_divergence": {"mean": mean.value, "low": mean.low, "high": mean.high},
            "agreement": {"value": agreement.value, "low": agreement.low, "high": agreement.high},
        }


def _tell_of_attempt(attempt: _Attempt, tokens_per_s: float) -> None:
    errors.print(
        f"it generates {attempt.tokens_per_s:.1f} tok/s, and {tokens_per_s:g} are asked for: choosing "
        "again",
        markup=False,
    )


def _tell_of_fallbacks(
    model: GgufFile, fell_back: Mapping[str, str], types: Mapping[str, GgmlType]
) -> None:
    """Tell which tensors have rows that a type's blocks do not fit."""
    told: Counter[str] = Counter()
    for name, wanted in fell_back.items():
        tensor = model.tensors[name]
        got = types.get(name, tensor.type).name
        told[f"rows of {tensor.shape[0]} weights cannot be {wanted}, and are {got}"] += 1
    for text, n in told.items():
        errors.print(f"{n} tensors: {text}", markup=False)
