"""Sums a log up: who answered, how good the predictions were, what was spent and what was saved.

Pure. A prediction is compared with the time from sending a request to the end of its answer.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from dure.route.decision_log import JudgedLine, RoutedLine
from dure.route.upstream import RouteRules

__all__ = ["DifficultyReport", "Report", "TargetReport", "report_of"]

NEAR = 0.2


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one upstream did. near: the part of its answers whose finish was predicted within 20 %."""

    name: str
    n_answers: int
    n_failed: int
    median_finish_s: float
    near: float
    usd: float


class DifficultyReport(msgspec.Struct, frozen=True, kw_only=True):
    """How often a guess would have been right.

    n_bad, n_good: weaker upstreams' answers that did not do, and that did; hard_bad, hard_good: of these,
    how many were guessed to be too hard beforehand. n_said: users said so; others asked again, or were
    content.
    """

    n_bad: int
    hard_bad: int
    n_good: int
    hard_good: int
    n_said: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a router did. saved_usd: what answers from elsewhere would have cost at the quickest upstream
    that takes money and could have given them. difficulty: None if there were no verdicts.
    """

    n_requests: int
    n_refused: int
    near: float
    usd: float
    saved_usd: float
    targets: tuple[TargetReport, ...]
    difficulty: DifficultyReport | None = None


def report_of(
    lines: Iterable[RoutedLine], rules: RouteRules, verdicts: Iterable[JudgedLine] = ()
) -> Report:
    """Return the sums of a log. rules: which upstreams take money, and from when on a question is too hard.

    verdicts: of weaker upstreams' answers.
    """
    free = {one.name for one in rules.upstreams if one.is_free}
    of_target: dict[str, list[RoutedLine]] = defaultdict(list)
    n_refused, saved_usd = 0, 0.0
    for line in lines:
        if not line.target:
            n_refused += 1
            continue
        of_target[line.target].append(line)
        saved_usd += _saved_usd(line, free) if _is_answered(line) else 0.0
    everything = [line for found in of_target.values() for line in found]
    return Report(
        n_requests=len(everything) + n_refused,
        n_refused=n_refused,
        near=_near(everything),
        usd=sum(line.outcome.usd for line in everything if line.outcome),
        saved_usd=saved_usd,
        targets=tuple(_of_target(name, found) for name, found in sorted(of_target.items())),
        difficulty=_difficulty(list(verdicts), rules.difficulty_threshold),
    )


def _difficulty(verdicts: Sequence[JudgedLine], threshold: float) -> DifficultyReport | None:
    if not verdicts:
        return None
    good = [one.difficulty >= threshold for one in verdicts if one.good]
    bad = [one.difficulty >= threshold for one in verdicts if not one.good]
    return DifficultyReport(
        n_bad=len(bad),
        hard_bad=sum(bad),
        n_good=len(good),
        hard_good=sum(good),
        n_said=sum(one.how == "said" for one in verdicts),
    )


def _is_answered(line: RoutedLine) -> bool:
    return line.outcome is not None and line.outcome.whole and line.outcome.status < 400


def _saved_usd(line: RoutedLine, free: set[str]) -> float:
    paid = [one for name, one in line.predictions.items() if name not in free]
    if not paid or line.target not in free:
        return 0.0
    return min(paid, key=lambda one: one.finish_s).usd


def _near(lines: Sequence[RoutedLine]) -> float:
    """Return the part of whole answers that finished within 20 % of their prediction."""
    near = [
        abs(line.predictions[line.target].finish_s - line.outcome.finish_s)
        <= NEAR * line.outcome.finish_s
        for line in lines
        if line.outcome is not None and _is_answered(line)
    ]
    return sum(near) / len(near) if near else 0.0


def _of_target(name: str, lines: Sequence[RoutedLine]) -> TargetReport:
    outcomes = [line.outcome for line in lines if line.outcome is not None]
    finishes = [line.outcome.finish_s for line in lines if line.outcome and _is_answered(line)]
    return TargetReport(
        name=name,
        n_answers=len(finishes),
        n_failed=len(outcomes) - len(finishes),
        median_finish_s=statistics.median(finishes) if finishes else 0.0,
        near=_near(lines),
        usd=sum(one.usd for one in outcomes),
    )
