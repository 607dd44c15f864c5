"""Reads API keys, and finds whether a key that is shown is among them.

Keeps digests only, compares every key in constant time, and reads its file again when that changes,
so that a key can be revoked without a restart. Refuses to know HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from dure.errors import DureError, UsageError
from dure.http.file_stamp import stamp_of
from dure.private_file import private_text

__all__ = [
    "ApiKey",
    "KeyRing",
    "Priority",
    "keys_of_environment",
    "parse_keys",
    "read_key_file",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_OPTION = re.compile(r"\s+(weight|priority)=(\S*)$")
_WEIGHT = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4})?")
_LEAST_WEIGHT, _MOST_WEIGHT = 0.01, 1000

Priority = Literal["low", "normal", "high"]
_GIVEN = "--api-key or DURE_API_KEYS"


@dataclass(frozen=True)
class ApiKey:
    """A key under its name. digest: its SHA-256; the key itself is not kept.

    weight: of its share if several keys have work; priority: work of a higher one comes first.
    """

    name: str
    digest: bytes = field(repr=False)
    weight: float = 1.0
    priority: Priority = "normal"


def keys_of_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the keys in DURE_API_KEYS: written as in a file, with commas between them."""
    words = environment.get("DURE_API_KEYS", "").split(",")
    return tuple(word.strip() for word in words if word.strip())


def parse_keys(lines: Iterable[str], source: str) -> list[ApiKey]:
    """Return the keys of `name:key` and `key` lines; the latter are named by place, as `key-3`.

    Behind the key may stand `weight=2` and `priority=low`, `normal` or `high`.
    Raises UsageError naming the place, never the key.
    """
    keys: dict[str, ApiKey] = {}
    for place, line in enumerate(lines, start=1):
        if text := line.strip():
            key = _parse_key(text, place, source)
            if keys.setdefault(key.name, key) is not key:
                raise UsageError(f"{source}: two keys are named {key.name}", "rename one")
    return list(keys.values())


def _parse_key(text: str, place: int, source: str) -> ApiKey:
    text, weight, priority = _options(text, place, source)
    name, colon, key = (part.strip() for part in text.partition(":"))
    if not colon:
        name, key = f"key-{place}", name
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{source}: the name of key {place} must be letters, digits and . _ @ -, at most 64"
        )
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{source}: key {place} must be printable ASCII without spaces")
    return ApiKey(name, _digest(key.encode()), weight, priority)


def _options(text: str, place: int, source: str) -> tuple[str, float, Priority]:
    """Return what stands before the options of a key, its weight and its priority."""
    given: dict[str, str] = {}
    while option := _OPTION.search(text):
        text = text[: option.start()]
        given[option[1]] = option[2]
    weight = given.get("weight", "1")
    if not _WEIGHT.fullmatch(weight) or not _LEAST_WEIGHT <= float(weight) <= _MOST_WEIGHT:
        raise UsageError(
            f"{source}: the weight of key {place} must be a number from {_LEAST_WEIGHT} to {_MOST_WEIGHT}"
        )
    priority = given.get("priority", "normal")
    if priority not in get_args(Priority):
        raise UsageError(f"{source}: the priority of key {place} must be low, normal or high")
    return text, float(weight), cast("Priority", priority)


def read_key_file(path: Path) -> list[ApiKey]:
    """Return the keys of a file; lines that begin with # are comments. Raises UsageError."""
    lines = private_text(path, "the API keys").splitlines()
    keys = parse_keys(("" if line.lstrip().startswith("#") else line for line in lines), str(path))
    if not keys:
        raise UsageError(f"{path} holds no API key", "write one a line, as name:key")
    return keys


class KeyRing:
    """The keys that are valid now: those that were given, and those of the file as it is."""

    def __init__(self, given: Iterable[str] = (), path: Path | None = None) -> None:
        """Raises UsageError if a key or the file is invalid, or two keys share a name."""
        self._given = parse_keys(given, _GIVEN)
        self._path = path
        self._stamp = stamp_of(path) if path else None
        self._from_file = read_key_file(path) if path else []
        self._check_names()
        self.problem: str | None = None

    def __iter__(self) -> Iterator[ApiKey]:
        yield from self._given
        yield from self._from_file

    def __bool__(self) -> bool:
        return bool(self._given) or self._path is not None

    def find(self, shown: bytes) -> ApiKey | None:
        """Return the key that was shown, or None if it is not ours.

        Takes as long for every key, right or wrong.
        """
        digest, found = _digest(shown), None
        for key in self:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether it was read.

        A file that is gone or broken revokes all of its keys; `problem` then says why.
        """
        if self._path is None or (stamp := stamp_of(self._path)) == self._stamp:
            return False
        self._stamp, self._from_file, self.problem = stamp, [], None
        try:
            self._from_file = read_key_file(self._path)
            self._check_names()
        except DureError as error:
            self._from_file, self.problem = [], str(error)
        return True

    def _check_names(self) -> None:
        given = {key.name for key in self._given}
        for key in self._from_file:
            if key.name in given:
                raise UsageError(f"{self._path}: {key.name} is in {_GIVEN} too", "rename one")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
