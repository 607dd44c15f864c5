"""Chooses types within a size that a cut allows, or for a speed on given machines.

For a speed it learns: each file that has run says what a type and a token really take, and two of them, one
too slow and one too quick, hold the one that is wanted between them. What runs have shown is kept.
Refuses to know commands, and how a model is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from dure.convert.quantize.choosing import TypeChoice, TypeProblem
from dure.convert.quantize.search import Search
from dure.deploy.quantize_machines import Machines, MachinesFor
from dure.errors import UsageError
from dure.model.cut import CutPlan
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import Tensor
from dure.plan.learned_times import LearnedTimes, ShownRun, learned_from
from dure.plan.type_times import TypeTimes, legal_cuts, retyped
from dure.whole_file import write_whole

__all__ = ["MISSED", "ForSpeed", "Shown", "choose_for_size", "likely_types", "size_frontier"]

_PLANS = 3  # of a cluster, until the types that are chosen and the shares suit each other
_SAME_SHARE = 0.02
MISSED = 0.05  # of a speed: farther off than what is told as reached
_STEP, _STEPS = 0.97, 12  # towards a file that has not run, if none lies on the other side
_PARTS = 16  # of the way between two runs, where a file that has not run is looked for
_SURELY_TOO_MUCH = 1.5  # times what a token takes besides weights, before a file has shown it
_KEPT_RUNS = 20


def likely_types(search: Search, size_bytes: float) -> dict[str, GgmlType]:
    """Return for each tensor the type that is nearest to this size of all."""
    tensors = search.model.tensors
    bits = 8 * size_bytes / sum(tensor.n_elements for tensor in tensors.values())
    types = {}
    for name, allowed in search.types.items():
        each = [tensors[name].type, *map(type_named, allowed)]
        types[name] = min(each, key=lambda one: abs(8 * one.type_size / one.block_size - bits))
    return types


# ---------------------------------------------------------------- a size


def choose_for_size(
    search: Search, weights: Mapping[str, float], shares: Sequence[float], size_bytes: float
) -> TypeChoice:
    """Return the choice with the least error within a size, that ranks with these shares can have.

    weights: see `TypeProblem`. Raises UsageError if there is none.
    """
    return _best(_problems(search, weights, shares), size_bytes)


def size_frontier(
    search: Search, weights: Mapping[str, float], shares: Sequence[float], n_points: int
) -> list[TypeChoice]:
    """Return the choices with the least error at n_points sizes, that ranks with these shares can have."""
    problems = _problems(search, weights, shares)
    ranges = [problem.size_range for problem in problems]
    least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
    sizes = [least + (most - least) * i / max(1, n_points - 1) for i in range(n_points)]
    found = {one.size_bytes: one for one in (_best(problems, size) for size in sizes)}
    return [found[size] for size in sorted(found)]


def _problems(
    search: Search, weights: Mapping[str, float], shares: Sequence[float]
) -> list[TypeProblem]:
    """Return what can be chosen, for each cut over ranks with these shares."""
    if len(shares) == 1:
        return [search.problem(weights)]
    cuts = [TypeTimes(search.model, (), plan) for plan in legal_cuts(search.model, shares)]
    return [search.problem(weights, None, cut.allows) for cut in cuts]


def _best(
    problems: Sequence[TypeProblem], size_bytes: float, token_s: Sequence[float] = ()
) -> TypeChoice:
    """Return the best choice of all that are possible. Raises UsageError if none is."""
    found: list[TypeChoice] = []
    refusals: list[UsageError] = []
    for problem in problems:
        try:
            found.append(problem.choose(size_bytes, token_s))
        except UsageError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return min(found, key=lambda choice: choice.error)


# ---------------------------------------------------------------- a speed


@dataclass(frozen=True)
class Shown:
    """A choice whose file has run, and the seconds that a token took."""

    choice: TypeChoice
    token_s: float


class ForSpeed:
    """Choices for a model on machines. weights: see `TypeProblem`. likely: types for a first plan of them.

    Besides reading weights, a token takes time that is learned from runs: see `learn`.
    """

    def __init__(
        self,
        search: Search,
        machines_for: MachinesFor,
        weights: Mapping[str, float],
        likely: Mapping[str, GgmlType],
    ) -> None:
        self._search, self._weights, self._machines_for = search, weights, machines_for
        self._use(machines_for(retyped(search.model, likely)))
        self.shown: list[Shown] = []
        self._kept = _KeptRuns(search, self.machines)
        self._learned = learned_from(self._kept.runs, self.machines.rest_s)

    @property
    def rest_s(self) -> float:
        """The seconds of a token besides reading weights, as far as they are known."""
        return self._learned.rest_s

    def choose(self, tokens_per_s: float, size_bytes: float = float("inf")) -> TypeChoice:
        """Return the choice with the least error at this speed or more, by all that was learned.

        Raises UsageError if there is none, and ClusterError or ResourceError as a start would.
        """
        for _ in range(_PLANS):
            choice = self._choice(tokens_per_s, size_bytes)
            planned = self._machines_for(retyped(self._search.model, choice.types))
            if _same(planned, self.machines):
                break
            self._use(planned)
        return choice

    def _use(self, machines: Machines) -> None:
        """Choose for these machines; the cuts that some types allow are of their shares."""
        self.machines = machines
        self._cuts: list[CutPlan | None] = [None]
        if len(machines.names) > 1:
            self._cuts = [*legal_cuts(self._search.model, machines.shares)]

    def frontier(self, n_points: int) -> list[TypeChoice]:
        """Return the best choices at n_points times of a token, the quickest first, each once."""
        problems = self._problems()
        least = min(problem.quickest_s for problem in problems)
        most = min(max(problem.choose().token_s) for problem in problems)
        ways = [least + (most - least) * i / max(1, n_points - 1) for i in range(n_points)]
        found = [self._within(problems, token_s * (1 + 1e-9)) for token_s in ways]
        return list({choice.error: choice for choice in found}.values())

    def predicted_s(self, choice: TypeChoice) -> float:
        """Return the seconds of a token with a choice, by what was known when it was made."""
        return max(choice.token_s) + self.rest_s

    def learn(self, choice: TypeChoice, tokens_per_s: float) -> None:
        """Learn from a run of a choice, and keep it."""
        self.shown.append(Shown(choice, 1 / tokens_per_s))
        self._kept.add(ShownRun(self._expected(choice), 1 / tokens_per_s))
        self._learned = learned_from(self._kept.runs, self.machines.rest_s)

    def was_shown(self, choice: TypeChoice) -> bool:
        """Return whether a file with these types has run already."""
        return any(one.choice.types == choice.types for one in self.shown)

    def nearest(self, tokens_per_s: float) -> Shown:
        """Return the run nearest to a speed; if all are far off, of those that are quick enough."""
        best = min(self.shown, key=lambda one: abs(1 / one.token_s / tokens_per_s - 1))
        quick = [one for one in self.shown if one.token_s * tokens_per_s <= 1]
        if quick and best.token_s * tokens_per_s > 1 / (1 - MISSED):
            return max(quick, key=lambda one: one.token_s)
        return best

    def _choice(self, tokens_per_s: float, size_bytes: float) -> TypeChoice:
        between = self._between(1 / tokens_per_s)
        problems = self._problems(between)
        if between:
            return self._between_runs(problems, between, 1 / tokens_per_s, size_bytes)
        left_s = 1 / tokens_per_s - self.rest_s
        if not self.shown and self.rest_s * tokens_per_s > _SURELY_TOO_MUCH:
            raise UsageError(
                f"a token takes {self.rest_s * 1e3:.1f} ms besides reading weights",
                f"ask for less than {1 / self.rest_s:.3g} tokens per second, or use other machines",
            )
        # What is a little too much to ask for is told with the quickest file, which may surprise.
        least_s = min(problem.quickest_s for problem in problems) * (1 + 1e-6)
        step = _STEP if all(one.token_s > 1 / tokens_per_s for one in self.shown) else 1 / _STEP
        ways = dict.fromkeys(max(least_s, left_s * step**n) for n in range(_STEPS))
        return self._first_not_shown(self._within(problems, s, size_bytes) for s in ways)

    def _between_runs(
        self,
        problems: Sequence[TypeProblem],
        between: tuple[Shown, Shown],
        token_s: float,
        size_bytes: float,
    ) -> TypeChoice:
        """Return the best choice between two runs, or the nearest beside it.

        A large tensor may leave a gap there, and where it lies is known no better than the times are.
        """
        quick_s, slow_s = (max(problems[0].token_s(one.choice.types)) for one in between)
        wanted = _part_between(between, token_s)
        parts = sorted((n / _PARTS for n in range(1, _PARTS)), key=lambda part: abs(part - wanted))
        ways = (quick_s + part * (slow_s - quick_s) for part in (wanted, *parts))
        return self._first_not_shown(self._within(problems, s, size_bytes) for s in ways)

    def _first_not_shown(self, choices: Iterable[TypeChoice]) -> TypeChoice:
        """Return the first choice whose file has not run: that of one would only show the same again."""
        first = None
        for choice in choices:
            if not self.was_shown(choice):
                return choice
            first = first or choice
        assert first is not None, "something can always be chosen"
        return first

    def _within(
        self, problems: Sequence[TypeProblem], token_s: float, size_bytes: float = float("inf")
    ) -> TypeChoice:
        return _best(problems, size_bytes, [token_s] * len(self.machines.names))

    def _between(self, token_s: float) -> tuple[Shown, Shown] | None:
        """Return the runs next to a time: the slowest quicker one, and the quickest slower one."""
        quicker = [one for one in self.shown if one.token_s <= token_s]
        slower = [one for one in self.shown if one.token_s > token_s]
        if not quicker or not slower:
            return None
        return max(quicker, key=lambda one: one.token_s), min(slower, key=lambda one: one.token_s)

    def _problems(self, between: tuple[Shown, Shown] | None = None) -> list[TypeProblem]:
        """Return what can be chosen, for each cut. between: of two runs' types, each tensor has one."""
        return [
            self._search.problem(self._weights, times, partial(_allows, times, between))
            for times in self._times(self._learned)
        ]

    def _times(self, learned: LearnedTimes) -> list[TypeTimes]:
        """Return what types take, for each cut that some types allow."""
        speeds = [learned.speeds(one) for one in self.machines.bytes_per_s]
        return [TypeTimes(self._search.model, speeds, plan) for plan in self._cuts]

    def _expected(self, choice: TypeChoice) -> dict[str, float]:
        """Return the seconds of a choice by type, on the slowest machine, before anything was learned."""
        times = self._times(LearnedTimes({}, 0.0))[0]
        each: list[dict[str, float]] = [{} for _ in self.machines.names]
        for tensor in self._search.model.tensors.values():
            type_ = choice.types.get(tensor.name, tensor.type)
            for sums, taken_s in zip(each, times(tensor, type_), strict=True):
                if taken_s:
                    sums[type_.name] = sums.get(type_.name, 0.0) + taken_s
        return max(each, key=lambda sums: sum(sums.values()))


def _same(a: Machines, b: Machines) -> bool:
    """Return whether machines have the same parts of a model, about."""
    shares = [[share / sum(one.shares) for share in one.shares] for one in (a, b)]
    return a.names == b.names and all(
        abs(x - y) <= _SAME_SHARE for x, y in zip(*shares, strict=True)
    )


def _allows(
    times: TypeTimes, between: tuple[Shown, Shown] | None, tensor: Tensor, type_: GgmlType
) -> bool:
    if between and all(one.choice.types[tensor.name] != type_ for one in between):
        return False
    return times.allows(tensor, type_)


def _part_between(between: tuple[Shown, Shown], token_s: float) -> float:
    """Return where a time lies between those of two runs: 0 at the quick one, 1 at the slow one."""
    quick, slow = between
    return (token_s - quick.token_s) / (slow.token_s - quick.token_s)


class _KeptRuns:
    """What a model's files have shown on some machines, in the cache."""

    def __init__(self, search: Search, machines: Machines) -> None:
        self._path = search.directory / "runs.json"
        self._key = f"{search.model.fingerprint[:32]} {','.join(machines.names)}"
        self.runs = self._all().get(self._key, [])

    def add(self, run: ShownRun) -> None:
        """Keep a run; of many, the latest."""
        self.runs = [*self.runs, run][-_KEPT_RUNS:]
        write_whole(self._path, msgspec.json.encode({**self._all(), self._key: self.runs}))

    def _all(self) -> dict[str, list[ShownRun]]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, list[ShownRun]])
        except (OSError, msgspec.MsgspecError):
            return {}
