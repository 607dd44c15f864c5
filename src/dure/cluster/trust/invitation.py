"""Invitations: a code that lets one machine join, once, for a limited time.

A code says which cluster it is for (the first 80 bits of the authority's fingerprint) and proves that its
holder may join (a secret of 70 bits, of which the root stores the hash). It is short enough to be typed on
a board's keyboard, in an alphabet without the letters that are taken for digits. Refuses to know how it
travels.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

import msgspec

from dure.errors import ClusterError, UsageError
from dure.processes import Moment

__all__ = ["Code", "CodeRefusedError", "Invitation", "redeem"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_ALIKE = str.maketrans("ILO", "110")
_N_AUTHORITY, _N_SECRET = 16, 14  # characters of five bits each
_GROUP = 5
_ANOTHER_CODE = "`dure cluster invite` makes another"


class CodeRefusedError(ClusterError):
    """A code lets nobody in: it is unknown, expired, or used already."""


class Code(msgspec.Struct, frozen=True):
    """The code that is typed on the machine that joins. authority, secret: in the codes' alphabet."""

    authority: str
    secret: str

    @classmethod
    def new(cls, fingerprint: bytes) -> Code:
        """Make a code for the cluster whose authority has this fingerprint."""
        secret = "".join(secrets.choice(_ALPHABET) for _ in range(_N_SECRET))
        return cls(_authority_of(fingerprint), secret)

    @classmethod
    def parse(cls, text: str) -> Code:
        """Read the code that somebody typed. Raises UsageError."""
        plain = text.upper().translate(_ALIKE).replace("-", "").replace(" ", "")
        if len(plain) != _N_AUTHORITY + _N_SECRET or not set(plain) <= set(_ALPHABET):
            raise UsageError(
                f"{text!r} is no code",
                "`dure cluster invite` on the root shows one, as "
                "XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX",
            )
        return cls(plain[:_N_AUTHORITY], plain[_N_AUTHORITY:])

    def __str__(self) -> str:
        plain = self.authority + self.secret
        return "-".join(plain[i : i + _GROUP] for i in range(0, len(plain), _GROUP))

    def names(self, fingerprint: bytes) -> bool:
        """Return if this is a code of the cluster whose authority has this fingerprint."""
        return hmac.compare_digest(self.authority, _authority_of(fingerprint))

    @property
    def digest(self) -> str:
        """The hash of the secret, which the root stores."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


class Invitation(msgspec.Struct):
    """What the root stores of a code.

    expires, boot, expires_since_boot: when, as `Moment` has it. used_by: the node that joined.
    """

    digest: str
    expires: float
    used_by: str = ""
    boot: str = ""
    expires_since_boot_s: float = 0.0

    @classmethod
    def until(cls, end: Moment, digest: str) -> Invitation:
        """Return one that is good until then, however the clock is set meanwhile."""
        return cls(digest, end.time, "", end.boot, end.since_boot_s)

    @property
    def end(self) -> Moment:
        """When it expires."""
        return Moment(self.expires, self.boot, self.expires_since_boot_s)


def redeem(invitations: Sequence[Invitation], secret: str, node: str, now: Moment) -> None:
    """Mark the invitation with this secret as used. Raises CodeRefusedError; nothing has changed then."""
    digest = Code("", secret).digest
    matching = [one for one in invitations if hmac.compare_digest(one.digest, digest)]
    if not matching:
        raise CodeRefusedError("the code is not one of this cluster's", "look for a typing mistake")
    if matching[0].used_by:
        raise CodeRefusedError(f"the code was used by {matching[0].used_by}", _ANOTHER_CODE)
    if matching[0].end.has_come(now):
        raise CodeRefusedError("the code has expired", _ANOTHER_CODE)
    matching[0].used_by = node


def _authority_of(fingerprint: bytes) -> str:
    """Return the first 80 bits in the alphabet of codes."""
    number = int.from_bytes(fingerprint[: _N_AUTHORITY * 5 // 8])
    return "".join(_ALPHABET[number >> (5 * i) & 31] for i in reversed(range(_N_AUTHORITY)))
