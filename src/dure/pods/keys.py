"""The key of the provider's account: where it is found, and that it is nowhere else.

Knows three places. Refuses to put it into a text: an `AccountKey` shows as dots.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from dure.errors import UsageError
from dure.private_file import private_text

__all__ = ["AccountKey", "account_key"]

_CURE = (
    "make one at https://console.runpod.io/user/settings, and put it into RUNPOD_API_KEY, or into a "
    "file that nobody else may read, named by DURE_POD_KEY_FILE"
)


@dataclass(frozen=True, repr=False)
class AccountKey:
    """The secret, and the place that it is from."""

    secret: str
    origin: str

    def __repr__(self) -> str:
        return f"AccountKey(…, {self.origin!r})"


def account_key(home: Path | None = None) -> AccountKey:
    """Return the account's key. home: of the user.

    The first of these counts: RUNPOD_API_KEY, the file that DURE_POD_KEY_FILE names, and what the
    provider's own tools keep in ~/.runpod/config.toml. Raises UsageError if there is none, if others may
    read the file, or if it is no key.
    """
    if value := os.environ.get("RUNPOD_API_KEY", "").strip():
        return AccountKey(_checked(value, "RUNPOD_API_KEY"), "RUNPOD_API_KEY")
    if named := os.environ.get("DURE_POD_KEY_FILE"):
        path = Path(named).expanduser()
        return AccountKey(_checked(private_text(path, "the key").strip(), str(path)), str(path))
    path = (home or Path.home()) / ".runpod" / "config.toml"
    if path.exists():
        return AccountKey(_checked(_of_toml(path), str(path)), str(path))
    raise UsageError("there is no key for RunPod here", _CURE)


def _of_toml(path: Path) -> str:
    try:
        table = tomllib.loads(private_text(path, "the key"))
    except ValueError as error:
        raise UsageError(f"{path} is no TOML", 'write `apikey = "…"` into it') from error
    sections = [table.get("default", {}), table]
    words = ("api_key", "apikey", "apiKey")
    found = [s[w] for s in sections if isinstance(s, dict) for w in words if w in s]
    return str(found[0]).strip() if found else ""


def _checked(secret: str, origin: str) -> str:
    """Return the key if it can stand in a header; its text is never told."""
    if not re.fullmatch(r"[\x21-\x7e]{8,512}", secret):
        raise UsageError(f"{origin} holds no key", _CURE)
    return secret
