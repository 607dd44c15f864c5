"""What is done with a pod of the ledger: it is seen, stopped, started and ended, and each is read back.

An order that was accepted changes nothing here: only what the provider shows afterwards counts.
If the ledger cannot be written, pods end all the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import datetime

from msgspec.structs import replace

from dure.errors import ResourceError, UsageError
from dure.pods.decide import ROUND_S, Act, PodVerdict, is_active, what_to_do
from dure.pods.ledger import Entry, Ledger, PodState, Wanted, accrued
from dure.pods.money import NOTHING, Money
from dure.pods.provider import ConflictError, Pod, PodError, PodProvider, PodStatus
from dure.pods.report import PodReport
from dure.pods.templates import MAX_S

__all__ = ["SHORTEST_RUN_S", "PodLives", "left_of", "pauses"]

SHORTEST_RUN_S = 300
_READ_BACK_S = 60.0
_ASLEEP_S = 5 * ROUND_S
_PAUSES_S = (0.3, 0.7, 1.0, 2.0)


def left_of(entry: Entry) -> int:
    """Return the seconds that a new run of a pod may last, by time and by money."""
    paid_s = (entry.limits.max_spend - entry.spent).lasts_s(entry.limits.hourly)
    return entry.limits.max_seconds if paid_s is None else min(entry.limits.max_seconds, paid_s)


def pauses(patience_s: float) -> Iterator[float]:
    """Yield pauses between looks, short ones first, until they make up a time."""
    waited = 0.0
    for pause_s in itertools.chain(_PAUSES_S, itertools.repeat(3.0)):
        if waited >= patience_s:
            return
        yield pause_s
        waited += pause_s


class PodLives:
    """The pods of a ledger, at their provider. wait: how a pause is made. read_back_s: how long to
    look whether an order has come true.

    unwritten: what the ledger could not be told.
    """

    def __init__(
        self,
        provider: PodProvider,
        ledger: Ledger,
        wait: Callable[[float], None] = time.sleep,
        read_back_s: float = _READ_BACK_S,
    ) -> None:
        self.provider, self.ledger = provider, ledger
        self.unwritten: list[str] = []
        self.wait, self._read_back_s = wait, read_back_s

    # ------------------------------------------------------------ seeing

    def see(self, entry: Entry, pod: Pod, report: PodReport | None = None) -> Entry:
        """Write down what the provider, and the guard in the pod, show; return it with what it has cost."""
        at, billed = self.provider.now(), self._unseen_bill(entry)
        kind = "" if pod.status == entry.status else "status"

        def seen(before: Entry) -> Entry:
            after = _heard(_seen(before, pod, at), pod, report, at)
            return replace(after, spent=max(after.spent, billed))

        return self._note(entry, seen, kind, pod.status)

    def _unseen_bill(self, entry: Entry) -> Money:
        """Return what was billed for a stopped pod that nobody has looked at: it may have run meanwhile."""
        if entry.status not in _OVER or self.provider.now() - entry.seen_at < _ASLEEP_S:
            return NOTHING
        try:
            return self.provider.billed(entry.pod_id)
        except PodError:
            return NOTHING  # what is counted is known at least, and its limits hold

    def look(self, entry: Entry) -> tuple[Entry, Pod | None]:
        """Ask for one pod, by its id, or by its name if no answer has told the id. Raises PodError."""
        pod = (
            self.provider.pod(entry.pod_id)
            if entry.pod_id
            else next((p for p in self.provider.pods() if p.name == entry.label), None)
        )
        return (entry, None) if pod is None else (self.see(entry, pod), pod)

    # ------------------------------------------------------------ ending

    def end(self, entry: Entry, reason: str) -> Entry:
        """Terminate a pod, and read back until it is gone.

        Raises PodError if it is still there: then it costs money, and the guard goes on.
        """
        entry = self._note(
            entry, lambda e: replace(e, wanted=Wanted.GONE, note=e.note or reason), "end", reason
        )
        if not entry.pod_id:
            entry, pod = self.look(entry)
            if pod is None:
                raise PodError(
                    f"{entry.name} was asked for, and is not listed yet",
                    "leave it to the guard, which ends it if it comes: `dure pod guard --once`",
                )
        self.provider.terminate(entry.pod_id)
        for pause_s in pauses(self._read_back_s):
            if self.is_gone(entry):
                return self.bury(entry)
            self.wait(pause_s)
        raise PodError(
            f"{entry.name} ({entry.pod_id}) was told to end, and is still there: it costs money",
            "`dure pod guard` goes on until it is gone; see https://console.runpod.io/pods too",
        )

    def is_gone(self, entry: Entry) -> bool:
        """Return whether the provider has no such pod, or a terminated one. Raises PodError."""
        pod = self.provider.pod(entry.pod_id)
        return pod is None or pod.status is PodStatus.TERMINATED

    def bury(self, entry: Entry) -> Entry:
        """Write down that a pod was read back as gone."""
        at = self.provider.now()
        if entry.armed_at:  # while nobody looked, the guard in it did
            at = min(at, max(entry.seen_at, entry.dies_at + ROUND_S))
        return self._note(
            entry,
            lambda e: replace(accrued(e, e.hourly, at), state=PodState.GONE),
            "gone",
            entry.note,
        )

    # ------------------------------------------------------------ stopping and starting

    def stop(self, entry: Entry) -> Entry:
        """Stop a pod, and read back until it is so. Raises PodError if it is not."""
        entry = self._note(entry, lambda e: replace(e, wanted=Wanted.STOPPED), "stop")
        try:
            self.provider.stop(entry.pod_id)
        except ConflictError:  # it may have stopped by itself
            entry, pod = self.look(entry)
            if pod is None or not pod.status.is_over:
                raise
        for pause_s in pauses(self._read_back_s):
            entry, pod = self.look(entry)
            if pod is None or pod.status.is_over:
                return self.bury(entry) if pod is None else entry
            self.wait(pause_s)
        raise PodError(
            f"{entry.name} was told to stop, and still reads {entry.status}: it costs "
            f"{entry.hourly} an hour",
            f"`dure pod rm {entry.name}` ends it; `dure pod guard` goes on with the stop",
        )

    def start(self, entry: Entry) -> Entry:
        """Start a stopped pod, with a new deadline in it first.

        Raises UsageError if its money does not last, PodError if it does not start, or without its GPUs.
        """
        entry, pod = self.look(entry)
        if pod is None:
            self.bury(entry)
            raise PodError(f"{entry.name} is gone", "make another: `dure pod up`")
        if not pod.status.is_over:
            raise UsageError(
                f"{entry.name} runs already", f"log in with `dure pod ssh {entry.name}`"
            )
        runs_s = left_of(entry)
        if runs_s < SHORTEST_RUN_S:
            raise UsageError(
                f"{entry.name} has cost {entry.spent} of {entry.limits.max_spend}",
                f"give it more, as in `dure pod start {entry.name} --max-spend 5`",
            )
        env = {k: v for k, v in pod.env.items() if not k.startswith("RUNPOD_")}
        renewed = self.provider.set_env(entry.pod_id, {**env, MAX_S: str(runs_s)})
        if renewed.env.get(MAX_S) != str(runs_s):
            raise PodError(
                f"{entry.name} does not take its new deadline, so it was not started",
                f"`dure pod rm {entry.name}`, and make another",
            )
        self.provider.start(entry.pod_id)
        return self._note(entry, lambda e: replace(e, wanted=Wanted.UP, armed_at=0.0), "start")

    def until_running(self, entry: Entry, patience_s: float) -> tuple[Entry, Pod]:
        """Wait until a pod runs with all of its GPUs.

        One that costs more than was shown, that fails, or that has lost its GPUs is ended or stopped.
        Raises PodError then, and if it takes longer than patience_s.
        """
        for pause_s in pauses(patience_s):
            entry, pod = self.look(entry)
            if pod is None:
                raise PodError(f"{entry.name} is gone", "see `dure pod show`")
            self._check(entry, pod)
            if pod.status is PodStatus.RUNNING and (pod.gpus is not None or pod.door is not None):
                return entry, pod
            self.wait(pause_s)
        raise PodError(
            f"{entry.name} does not run after {patience_s / 60:.0f} min: it reads {entry.status}, and "
            f"costs {entry.hourly} an hour",
            f"wait for it with `dure pod show {entry.name}`, or `dure pod rm {entry.name}`",
        )

    def _check(self, entry: Entry, pod: Pod) -> None:
        """End or stop a pod that is not worth waiting for. Raises PodError then."""
        verdict = what_to_do(pod, entry, self.provider.now())
        if pod.status is PodStatus.ERROR:
            verdict = PodVerdict(Act.TERMINATE, "the provider could not start it")
        if verdict.act is Act.TERMINATE:
            self.end(entry, verdict.reason)
            raise PodError(f"{entry.name} was terminated: {verdict.reason}", "see `dure pod gpus`")
        if pod.status is PodStatus.RUNNING and pod.gpus is not None and pod.gpus < entry.gpus:
            self.stop(entry)
            raise PodError(
                f"{entry.name} came back with {pod.gpus} of {entry.gpus} GPUs, as others rent its "
                "machine's; it is stopped again",
                f"start it later, or copy its files and `dure pod rm {entry.name}`",
            )

    def _note(
        self, entry: Entry, change: Callable[[Entry], Entry], kind: str = "", text: str = ""
    ) -> Entry:
        """Change an entry in the ledger; if that cannot be written, in memory at least."""
        try:
            return self.ledger.update(entry.label, change, self.provider.now(), kind, text)
        except ResourceError as error:
            self.unwritten.append(str(error))
            return change(entry)


def _seen(entry: Entry, pod: Pod, at: float) -> Entry:
    """Return an entry with what a sighting of its pod tells.

    A pod that was read back as stopped, and runs, was started by somebody: that is a new run.
    """
    runs, ran = not pod.status.is_over, bool(entry.status) and entry.status not in _OVER
    since = entry.running_since
    if runs and not ran:
        since = _started(pod, entry, at) if entry.status else entry.made_at
    was_stopped = entry.wanted is Wanted.STOPPED and entry.status in _OVER
    is_new = not entry.state.is_over
    after = replace(
        accrued(entry, pod.hourly, at),
        state=PodState.LIVE,
        pod_id=pod.id,
        status=pod.status,
        running_since=since,
        armed_at=0.0 if runs and not ran else entry.armed_at,  # a new container, with a new guard
        wanted=Wanted.UP if runs and was_stopped else entry.wanted,
    )
    if is_new:
        return after
    return replace(after, name=entry.label, wanted=Wanted.GONE)  # it came after it was given up


def _started(pod: Pod, entry: Entry, at: float) -> float:
    """Return when a pod was started again, as the provider says: nobody may have looked since."""
    try:
        told = datetime.fromisoformat(pod.started_at).timestamp()
    except ValueError:
        return at
    return min(max(told, entry.seen_at), at)


def _heard(entry: Entry, pod: Pod, report: PodReport | None, at: float) -> Entry:
    """Return an entry with when its pod was last busy, and when it ends itself.

    The guard in the pod sees every request and download; without it, the provider's figures count.
    """
    if report is None:
        return replace(entry, active_at=at if is_active(pod) else entry.active_at)
    told = report.as_of(at)
    return replace(
        entry,
        active_at=max(entry.active_at, told.active_at),
        armed_at=told.armed_at and at,
        dies_at=told.dies_at,
    )


_OVER = tuple(status for status in PodStatus if status.is_over)
