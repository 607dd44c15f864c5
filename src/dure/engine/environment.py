"""The environment of a process that computes.

Knows glibc's tunables. Refuses to know what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["says_huge_pages", "with_huge_pages"]

_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which large blocks of memory come in huge pages, if the kernel allows it.

    Weights are read from end to end for every token, and each page of 4 KiB has to be looked up. Other C
    libraries than glibc do not know the word; a user's own choice stays.
    """
    if says_huge_pages(environment):
        return dict(environment)
    chosen = environment.get(_TUNABLES)
    return {**environment, _TUNABLES: ":".join(filter(None, [chosen, f"{_HUGE}=1"]))}


def says_huge_pages(environment: Mapping[str, str]) -> bool:
    """Return whether an environment says that large blocks come in huge pages, or that they do not."""
    return _HUGE in environment.get(_TUNABLES, "")
