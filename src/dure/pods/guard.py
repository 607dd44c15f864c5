"""The guard at home: one round compares what the provider lists with the ledger, and ends what must end.

Touches nothing that the ledger has not made. One pod that cannot be ended does not keep it from the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from dure.errors import DureError, ResourceError
from dure.pods.decide import Act, PodVerdict, what_to_do
from dure.pods.ledger import Entry, PodState
from dure.pods.life import PodLives
from dure.pods.names import is_label
from dure.pods.provider import Pod, PodStatus
from dure.pods.report import PodReport

__all__ = ["AT_HOME", "GuardOutcome", "GuardRound", "guard_round"]

AT_HOME = "home"


@dataclass(frozen=True)
class GuardOutcome:
    """What a round found of a pod, and did. problem: why it is not done; "" if it is."""

    name: str
    act: Act
    reason: str
    problem: str = ""
    cure: str = ""


@dataclass
class GuardRound:
    """What a round has done. strangers: pods with a name like ours that another ledger may have made."""

    at: float
    outcomes: list[GuardOutcome] = field(default_factory=list)
    strangers: list[Pod] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether everything that must end has ended."""
        return not self.problems and not any(outcome.problem for outcome in self.outcomes)


def guard_round(
    lives: PodLives,
    ask: Callable[[Entry], PodReport | None] = lambda _entry: None,
    *,
    comes_again: bool = False,
) -> GuardRound:
    """Look at every pod once, and do what must be done.

    ask: the guard in a pod; None if it is silent. comes_again: more rounds follow by themselves; only
    such rounds arm the guard at home. Raises PodError if nothing could be seen.
    """
    listed = [pod for pod in lives.provider.pods() if pod.status is not PodStatus.TERMINATED]
    done = GuardRound(lives.provider.now())
    by_name = {pod.name: pod for pod in listed}
    entries = {entry.label: entry for entry in lives.ledger.all()}
    for label, entry in entries.items():
        if label in by_name or not entry.state.is_over:
            done.outcomes.append(_guarded(lives, ask, entry, by_name.get(label)))
    done.strangers = [p for p in listed if is_label(p.name) and p.name not in entries]
    try:
        if comes_again:
            lives.ledger.note_round(AT_HOME, time.time())
    except ResourceError as error:
        lives.unwritten.append(str(error))
    done.problems = list(dict.fromkeys(lives.unwritten))
    return done


def _guarded(
    lives: PodLives, ask: Callable[[Entry], PodReport | None], entry: Entry, pod: Pod | None
) -> GuardOutcome:
    verdict = PodVerdict(Act.KEEP)
    try:
        if pod is not None:
            entry = lives.see(entry, pod, None if pod.status.is_over else ask(entry))
        verdict = what_to_do(pod, entry, lives.provider.now())
        _follow(lives, entry, verdict)
        lock = "it is locked" if pod is not None and pod.locked else ""
        return GuardOutcome(entry.name, verdict.act, verdict.reason or lock)
    except DureError as error:
        return GuardOutcome(entry.name, verdict.act, verdict.reason, error.problem, error.cure)
    except Exception as error:  # a bug of ours with one pod must not leave the others running
        return GuardOutcome(entry.name, verdict.act, verdict.reason, repr(error), "report this")


def _follow(lives: PodLives, entry: Entry, verdict: PodVerdict) -> None:
    """Do what was decided. Raises PodError, ResourceError."""
    if verdict.act is Act.TERMINATE:
        lives.end(entry, verdict.reason)
    elif verdict.act is Act.STOP:
        lives.stop(entry)
    elif verdict.act is Act.CONFIRM:
        if lives.is_gone(entry):
            lives.bury(entry)
    elif verdict.act is Act.FORGET:
        lives.ledger.update(
            entry.label,
            lambda e: replace(e, state=PodState.REFUSED) if e.state is PodState.INTENDED else e,
            lives.provider.now(),
            "forgotten",
            verdict.reason,
        )
