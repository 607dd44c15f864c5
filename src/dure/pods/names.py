"""Names: what the user calls a pod or a network volume, and the label that it has at the provider.

A label is given once, so that what a lost answer was about is found again.
"""

from __future__ import annotations

import re
import secrets

from dure.errors import UsageError

__all__ = ["checked_name", "is_label", "new_label"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_LABEL = re.compile(r"dure-.+-[0-9a-f]{6}")


def checked_name(option: str, name: str) -> str:
    """Return a name that somebody chose. Raises UsageError that names the option."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{option} {name}".strip(), "use up to 31 small letters, digits and hyphens"
        )
    return name


def new_label(name: str) -> str:
    """Return a label that nothing else has."""
    return f"dure-{name}-{secrets.token_hex(3)}"


def is_label(text: str) -> bool:
    """Return whether a name at the provider looks like one that some dure gave."""
    return _LABEL.fullmatch(text) is not None
