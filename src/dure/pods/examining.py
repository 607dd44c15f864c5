"""What pods need, checked: the key, the provider's answer, ssh, the ledger, and every guard."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dure.errors import DureError, ResourceError, UsageError
from dure.places import pods_directory
from dure.pods.keys import account_key
from dure.pods.ledger import Ledger
from dure.pods.provider import PodError, PodStatus
from dure.pods.runpod import RunPod
from dure.pods.ssh_access import SshAccess
from dure.pods.timer import guard_is_armed
from dure.ssh_program import ssh_is_here

__all__ = ["PodCheck", "examined"]

_CLOCK_S = 120


@dataclass(frozen=True)
class PodCheck:
    """Something that was checked. problem: "" if it is well."""

    what: str
    problem: str = ""
    cure: str = ""


def examined() -> list[PodCheck]:
    """Check everything, and go on after each failure."""
    ssh = SshAccess(Path.home())
    checks = [
        ("a key of the provider's account is found", lambda: _nothing(account_key())),
        ("the provider accepts it, and its clock agrees", _provider),
        (
            "ssh, ssh-keygen and rsync are installed",
            lambda: ssh_is_here("ssh", "ssh-keygen", "rsync"),
        ),
        ("~/.ssh/config includes the pods' entries", lambda: _included(ssh)),
        ("the ledger can be written", _ledger),
        ("a guard at home makes its rounds", _home),
        ("the guard in every running pod is armed", lambda: _in_pods(ssh)),
    ]
    return [_checked(what, check) for what, check in checks]


def _checked(what: str, check: Callable[[], None]) -> PodCheck:
    try:
        check()
    except DureError as error:
        return PodCheck(what, error.problem, error.cure)
    return PodCheck(what)


def _nothing(_found: object) -> None:
    pass


def _provider() -> None:
    provider = RunPod(account_key())
    try:
        provider.pods()
        ahead = time.time() - provider.now()
    finally:
        provider.close()
    if abs(ahead) > _CLOCK_S:
        raise ResourceError(
            f"this machine's clock is {ahead:.0f} s ahead of the provider's",
            "set it; the guards go by the provider's",
        )


def _included(ssh: SshAccess) -> None:
    if not ssh.is_included:
        raise UsageError(
            "~/.ssh/config does not include them", f"add this line at its beginning: {ssh.include}"
        )


def _ledger() -> None:
    ledger = Ledger(pods_directory())
    try:
        ledger.note_round("doctor", time.time())
    finally:
        ledger.close()


def _home() -> None:
    ledger = Ledger(pods_directory())
    try:
        if not guard_is_armed(ledger):
            raise ResourceError(
                "no guard at home has looked in the last minutes", "`dure pod guard --install`"
            )
    finally:
        ledger.close()


def _in_pods(ssh: SshAccess) -> None:
    ledger = Ledger(pods_directory())
    try:
        running = [entry for entry in ledger.living() if entry.status == PodStatus.RUNNING]
    finally:
        ledger.close()
    for entry in running:
        report = ssh.report(entry)
        if report is None or not report.armed_at:
            raise PodError(
                f"the guard in {entry.name} does not say that it is armed",
                f"look at `dure pod logs {entry.name}`, or `dure pod rm {entry.name}`",
            )
