"""What goes wrong at a provider, by name: each fault happens a number of times, or always."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

__all__ = ["ALWAYS", "ApiRefusal", "Fault", "FaultCounts", "check_fields"]

ALWAYS = -1


class Fault(StrEnum):
    """The name says what happens to the next request that it concerns."""

    DOWN = "down"  # the connection closes, and nothing was done
    BROKEN = "broken"  # 500, and nothing was done
    BROKEN_CHANGE = "broken-change"  # the same for a request that is no reading
    TOO_MANY = "too-many"  # 429 with Retry-After, and nothing was done
    LOST_CREATE = "lost-create"  # the pod or volume is made, and the answer does not come
    LOST_ANSWER = "lost-answer"  # the same for every other change
    UNLISTED = "unlisted"  # a listing without the newest pod
    NO_CAPACITY = "no-capacity"  # 400
    NO_BALANCE = "no-balance"  # 402
    FORBIDDEN = "forbidden"  # 403
    REPEATS_KEY = "repeats-key"  # the same, and the answer repeats the key
    CONFLICT = "conflict"  # 409 for an action
    DEARER = "dearer"  # a new pod costs half as much again
    ERROR_STATE = "error-state"  # a new pod fails
    ZERO_GPUS = "zero-gpus"  # a pod starts again without its GPUs
    LATE_SSH = "late-ssh"  # a reading without ssh.direct
    STALE_PORT = "stale-port"  # a reading with the port before the last start
    DEAF_STOP = "deaf-stop"  # a stop is accepted, and the pod runs on
    DEAF_TERMINATE = "deaf-terminate"  # the same for its end
    DEAF_DELETE = "deaf-delete"  # the same for a network volume's end


class ApiRefusal(Exception):  # noqa: N818  # it is an answer, not a fault of ours
    """An answer that is an error. more: further fields of its body."""

    def __init__(self, status: int, title: str, detail: str, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"title": title, "status": status, "detail": detail, **more}


def check_fields(
    body: Mapping[str, Any], known: set[str], required: frozenset[str] = frozenset()
) -> None:
    """Check the names in a body. Raises ApiRefusal: unknown fields are refused."""
    unknown, missing = set(body) - known, required - set(body)
    if unknown or missing:
        errors = [f"unknown field {name}" for name in sorted(unknown)]
        errors += [f"missing field {name}" for name in sorted(missing)]
        raise ApiRefusal(422, "Unprocessable Entity", "the body is not valid", errors=errors)


class FaultCounts:
    """How often each fault still happens."""

    def __init__(self) -> None:
        self._left: dict[Fault, int] = {}

    def set(self, times: Mapping[str, int]) -> None:
        """Have faults happen so many times from now on. Raises ValueError for an unknown name."""
        self._left |= {Fault(name): count for name, count in times.items()}

    def clear(self) -> None:
        """Have none happen."""
        self._left.clear()

    def happens(self, fault: Fault) -> bool:
        """Return whether a fault happens now, and count it."""
        left = self._left.get(fault, 0)
        if left > 0:
            self._left[fault] = left - 1
        return left != 0
