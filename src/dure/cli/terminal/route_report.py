"""Writes decisions, logs and reports of a router for a person."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.table import Table

from dure.cli.terminal.console import output, printable
from dure.route.decision import Decision
from dure.route.decision_log import RoutedLine
from dure.route.explaining import Explanation
from dure.route.prediction import RoutePrediction
from dure.route.replay import Replay
from dure.route.report import Report

__all__ = ["print_explanation", "print_log", "print_replay", "print_report"]


def print_explanation(found: Explanation) -> None:
    """Print what every rule saw and whom it excluded, then the predictions, the choice last."""
    table = Table(box=None, pad_edge=False)
    for name in ("rule", "saw", "excluded"):
        table.add_column(name, overflow="fold")
    for line in found.decision.lines:
        excluded = ", ".join(f"{name} ({why})" for name, why in line.excluded.items())
        table.add_row(line.rule, printable(line.saw), printable(excluded))
    output.print(table)
    output.print()
    output.print(_choice(found.decision), soft_wrap=True)


def _choice(decision: Decision) -> str:
    if decision.refusal:
        return f"nobody answers it ({decision.refusal})"
    ordered = sorted(decision.predictions.items(), key=lambda item: item[0] != decision.target)
    (chosen, best), *others = ordered
    texts = [
        f"{chosen}: {_predicted(best)} predicted",
        *(f"{name} {_predicted(one)}" for name, one in others),
    ]
    return f"{'; '.join(texts)} ({decision.reason})"


def _predicted(one: RoutePrediction) -> str:
    start = " with its start" if one.start_s else ""
    return f"{_seconds(one.finish_s)}{start}{f', {_usd(one.usd)}' if one.usd else ''}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _usd(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 0.01 or not usd else f"${usd:.2g}"


def print_log(lines: Iterable[RoutedLine]) -> None:
    """Print one row a request, the newest last."""
    table = Table(box=None, pad_edge=False)
    for name in (
        "time",
        "key",
        "dialect",
        "prompt",
        "answer",
        "target",
        "why",
        "predicted",
        "took",
        "$",
    ):
        table.add_column(name, overflow="fold")
    for line in lines:
        outcome, prediction = line.outcome, line.predictions.get(line.target)
        table.add_row(
            datetime.fromtimestamp(line.time).astimezone().strftime("%m-%d %H:%M:%S"),
            printable(line.request.key),
            line.request.dialect,
            str((outcome and outcome.prompt_tokens) or line.request.prompt_tokens),
            str(outcome.answer_tokens) if outcome else "",
            printable(line.target),
            line.reason or line.refusal,
            _seconds(prediction.finish_s) if prediction else "",
            _took(line),
            _usd(outcome.usd) if outcome and outcome.usd else "",
        )
    output.print(table)


def _took(line: RoutedLine) -> str:
    if line.outcome is None:
        return "refused"
    if line.outcome.whole and line.outcome.status < 400:
        return _seconds(line.outcome.finish_s)
    return str(line.outcome.status) if line.outcome.whole else "not whole"


def print_replay(found: Replay) -> None:
    """Print how other rules would have routed a log."""
    output.print(f"{found.n_moved} of {found.n_requests} requests go elsewhere")
    for (before, after), count in found.moves.most_common():
        if before != after:
            output.print(f"  {count:6} {printable(before)} to {printable(after)}", soft_wrap=True)
    if found.n_both:
        times = (
            f"{found.finish_s_before / found.n_both:.2f} s to {found.finish_s / found.n_both:.2f} s"
        )
        output.print(f"predicted finish, mean of {found.n_both}: {times}")
        output.print(f"predicted cost: {_usd(found.usd_before)} to {_usd(found.usd)}")


def print_report(report: Report) -> None:
    """Print what each upstream did, and the sums."""
    table = Table(box=None, pad_edge=False)
    for name in ("target", "answers", "failed", "median", "predicted within 20 %", "spent"):
        table.add_column(name, overflow="fold")
    for one in report.targets:
        median = _seconds(one.median_finish_s) if one.n_answers else ""
        near = f"{one.near:.0%}" if one.n_answers else ""
        counts = (str(one.n_answers), str(one.n_failed))
        table.add_row(printable(one.name), *counts, median, near, _usd(one.usd))
    output.print(table)
    output.print(
        f"{report.n_requests} requests, {report.n_refused} refused; {report.near:.0%} of the finish times "
        f"predicted within 20 %; {_usd(report.usd)} spent, {_usd(report.saved_usd)} saved",
        soft_wrap=True,
    )
    if (found := report.difficulty) is not None:
        output.print(
            f"{found.n_bad} answers of weaker upstreams did not do, of which {found.hard_bad} were guessed"
            f" to be too hard; {found.n_good} did, of which {found.hard_good} were",
            soft_wrap=True,
        )
