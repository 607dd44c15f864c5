"""Starts a stopped pod again within every ceiling, and checks the guards of its new run.

The caller may ask somebody between the check and the start. Refuses to end a pod.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from msgspec.structs import replace

from dure.errors import DureError, UsageError
from dure.pods.account import PodAccount
from dure.pods.api_key import hand_api_key
from dure.pods.ceilings import Ceilings, check_ceilings
from dure.pods.hub_token import HubToken, found_token
from dure.pods.ledger import Entry, PodLimits
from dure.pods.life import left_of, pauses
from dure.pods.money import Bill
from dure.pods.provider import ConflictError, PodError, PodStatus
from dure.pods.timer import guard_is_armed

__all__ = ["START_PATIENCE_S", "Restart", "guarded", "restarted"]

START_PATIENCE_S = 900.0


@dataclass(frozen=True)
class Restart:
    """A start of a stopped pod. limits: of its new run."""

    entry: Entry
    limits: PodLimits
    ceilings: Ceilings

    @property
    def bill(self) -> Bill:
        """What the new run costs."""
        limits, disks = self.limits, self.entry.disks
        left_s = left_of(replace(self.entry, limits=limits))
        gpu = limits.hourly - disks.running
        return Bill(gpu, disks, left_s, limits.max_spend - self.entry.spent)

    def allowed(self, here: PodAccount, now: Entry) -> Entry:
        """Return the pod's entry with the limits of the new run. Raises UsageError at a ceiling."""
        others = [entry for entry in here.ledger.living() if entry.label != now.label]
        lately = here.ledger.spent_lately(here.lives.provider.now())
        check_ceilings(self.bill, self.ceilings, others, lately)
        return replace(now, limits=self.limits, hourly=self.limits.hourly)

    def start(self, here: PodAccount) -> Entry:
        """Start the pod, if every ceiling still allows it. Raises UsageError, PodError."""
        at = here.lives.provider.now()
        entry = here.ledger.update(
            self.entry.label, lambda now: self.allowed(here, now), at, "limits"
        )
        return here.lives.start(entry)


def guarded(
    here: PodAccount,
    entry: Entry,
    patience_s: float = START_PATIENCE_S,
    token: HubToken | None = None,
) -> Entry:
    """Wait until a pod runs, lets its owner in, and says that its guard is armed. Raises PodError.

    Then it gets the key of its public address, if it has one. token: what its program waits for.
    """
    gives_up = time.monotonic() + patience_s
    entry, _ = here.lives.until_running(entry, patience_s)
    entry = here.ssh.heal(here.lives, entry, max(1.0, gives_up - time.monotonic()))
    entry = _armed(here, entry, max(1.0, gives_up - time.monotonic()))
    hand_api_key(here.ssh, entry)
    if token is not None:
        here.ssh.hand_token(entry, token)
    return entry


def restarted(here: PodAccount, restart: Restart, patience_s: float) -> Entry:
    """Start a pod and check its guards; without any that was checked it is stopped again.

    One that somebody else starts at this moment is left alone. Raises UsageError at a ceiling, PodError
    if it does not start.
    """
    token = found_token() if restart.entry.awaits_token else None
    try:
        return guarded(here, restart.start(here), patience_s, token)
    except BaseException as error:
        is_ours = not isinstance(error, ConflictError | UsageError)
        if is_ours and not guard_is_armed(here.ledger):
            _stop_again(here, restart.entry.label)
        raise


def _stop_again(here: PodAccount, label: str) -> None:
    """Stop a pod that nothing would end; if it cannot be stopped, end it. Raises PodError."""
    here.lives.wait = time.sleep  # whoever was interrupted: this has to be waited for
    entry = next((one for one in here.ledger.living() if one.label == label), None)
    if entry is None or entry.status == PodStatus.EXITED:
        return
    try:
        here.lives.stop(entry)
    except DureError:
        here.lives.end(entry, "no guard of it could be checked")


def _armed(here: PodAccount, entry: Entry, patience_s: float) -> Entry:
    """Read the report of the guard in a pod until it is armed. Raises PodError."""
    answer = ""
    for pause_s in pauses(patience_s):
        if report := here.ssh.report(entry):
            pod = here.lives.provider.pod(entry.pod_id)
            if pod is not None and report.armed_at:
                return here.lives.see(entry, pod, report)
            answer = report.answer
        here.lives.wait(pause_s)
    said = f"the provider answers it {answer}" if answer else "it says nothing"
    raise PodError(
        f"the guard in {entry.name} is not armed: {said}", f"look at `dure pod logs {entry.name}`"
    )
