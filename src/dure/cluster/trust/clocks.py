"""What a wrong clock does to certificates, and how it is told: whose clock is off, and by how much.

Certificates are good for years, from a day before they were made. A board without a clock battery wakes up
long before that, and then finds everybody's certificate not valid yet. Refuses to set a clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from cryptography import x509

from dure.errors import ClusterError

__all__ = ["CLOCKS_DIFFER", "ClockError", "apart", "check_dates", "hint"]

CLOCKS_DIFFER = timedelta(days=1)  # between machines, before a certificate is not valid yet
HOW_TO_SET = "`sudo timedatectl set-ntp true` or `sudo date -s '2030-01-31 12:00'` sets it"


class ClockError(ClusterError):
    """A certificate is not valid at the time that a clock says. now: that time, in seconds since 1970."""

    def __init__(self, problem: str, cure: str = HOW_TO_SET, *, now: float = 0.0) -> None:
        super().__init__(problem, cure, now=now)
        self.now = now


def check_dates(certificate: x509.Certificate, whose: str, now: datetime) -> None:
    """Raise ClockError if a certificate is not valid now. whose: as in "pi-1's"."""
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if since <= now <= until:
        return
    if now < since:
        early = _length(_off_by(certificate, now))
        why = f"{early} before {whose} certificate was made"
    else:
        why = f"{_length((now - until).total_seconds())} after {whose} certificate has expired"
    raise ClockError(f"this machine's clock says {_said(now)}, {why}", now=now.timestamp())


def hint(certificate: x509.Certificate, now: datetime) -> str:
    """Return what a node's user should know of its clock, from its own certificate; "" if nothing.

    The root made it when the machine joined, a day later than it is valid from.
    """
    off = _off_by(certificate, now)
    valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    if valid:
        return ""
    side = "behind" if off > 0 else "ahead of"
    return (
        f"this machine's clock says {_said(now)}, {_length(abs(off))} {side} the root's when this node "
        f"joined; until it is right, this node believes nobody: {HOW_TO_SET}"
    )


def _off_by(certificate: x509.Certificate, now: datetime) -> float:
    """Return by how many seconds a clock is behind that of the root when it made this certificate."""
    return (certificate.not_valid_before_utc + CLOCKS_DIFFER - now).total_seconds()


def apart(place: str, theirs: float, ours: float | None = None) -> ClockError:
    """Return the error of a machine that finds a certificate not valid: both clocks, and how they differ.

    place: of the machine. theirs, ours: what its clock and this machine's say, in seconds since 1970.
    """
    ours = time.time() if ours is None else ours
    then, difference = _said(datetime.fromtimestamp(theirs, UTC)), theirs - ours
    if abs(difference) < CLOCKS_DIFFER.total_seconds():
        return ClockError(
            f"the root's certificate is not valid at the time that {place} and this machine say, {then}",
            "look at both clocks with `date`; if they are right, the certificates are old: begin anew with "
            "`dure cluster init` in another directory (DURE_CLUSTER_DIR)",
            now=theirs,
        )
    side = "behind" if difference < 0 else "ahead of"
    return ClockError(
        f"the clock of {place} is off: it says {then}, {_length(abs(difference))} {side} this machine's",
        f"there, {HOW_TO_SET}, and the node answers",
        now=theirs,
    )


def _said(moment: datetime) -> str:
    """Return a time as a person reads it."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _length(seconds: float) -> str:
    """Return a length of time in a unit of which it has at least two."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"
