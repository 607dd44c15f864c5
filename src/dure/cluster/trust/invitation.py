"""Invitations: a code that lets one machine join, once, and for a while.

A code says whom one joins (the first 80 bits of the authority's fingerprint) and proves that one may (a
secret of 70 bits, of which the root keeps the hash). It is short enough to be typed on a board's keyboard,
in an alphabet without the letters that are taken for digits. Refuses to know how it travels.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

import msgspec

from dure.errors import ClusterError, UsageError

__all__ = ["Code", "Invitation", "RefusedError", "redeem"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_ALIKE = str.maketrans("ILO", "110")
_WHO, _SECRET = 16, 14  # characters of five bits each
_GROUP = 5


class RefusedError(ClusterError):
    """A code that lets nobody in: unknown, expired, or used already."""


class Code(msgspec.Struct, frozen=True):
    """What is typed on the machine that joins. authority, secret: in the alphabet of codes."""

    authority: str
    secret: str

    @classmethod
    def new(cls, fingerprint: bytes) -> Code:
        """A code for the cluster whose authority has this fingerprint."""
        secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET))
        return cls(_told(fingerprint), secret)

    @classmethod
    def parse(cls, text: str) -> Code:
        """The code in what somebody typed. Raises UsageError."""
        plain = text.upper().translate(_ALIKE).replace("-", "").replace(" ", "")
        if len(plain) != _WHO + _SECRET or not set(plain) <= set(_ALPHABET):
            raise UsageError(
                f"{text!r} is no code: `dure cluster invite` on the root shows one, as "
                "XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX"
            )
        return cls(plain[:_WHO], plain[_WHO:])

    def __str__(self) -> str:
        plain = self.authority + self.secret
        return "-".join(plain[i : i + _GROUP] for i in range(0, len(plain), _GROUP))

    def names(self, fingerprint: bytes) -> bool:
        """Whether this is a code of the cluster whose authority has this fingerprint."""
        return hmac.compare_digest(self.authority, _told(fingerprint))

    @property
    def digest(self) -> str:
        """What the root keeps of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


class Invitation(msgspec.Struct):
    """What the root remembers of a code. Times are seconds since 1970; used_by: the node that came."""

    digest: str
    expires: float
    used_by: str = ""


def redeem(invitations: Sequence[Invitation], secret: str, node: str, now: float) -> None:
    """Mark the invitation with this secret as used. Raises RefusedError; nothing has changed then."""
    digest = Code("", secret).digest
    found = [i for i in invitations if hmac.compare_digest(i.digest, digest)]
    if not found:
        raise RefusedError("the code is not one of this cluster's: look for a typing mistake")
    if found[0].used_by:
        raise RefusedError(
            f"the code was used by {found[0].used_by}: `dure cluster invite` makes another"
        )
    if found[0].expires < now:
        raise RefusedError("the code has expired: `dure cluster invite` makes another")
    found[0].used_by = node


def _told(fingerprint: bytes) -> str:
    """The first 80 bits in the alphabet of codes."""
    number = int.from_bytes(fingerprint[: _WHO * 5 // 8])
    return "".join(_ALPHABET[number >> (5 * i) & 31] for i in reversed(range(_WHO)))
