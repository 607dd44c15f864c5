"""What a process that computes finds in its environment."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["says_huge_pages", "with_huge_pages"]

_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The same, and large blocks of memory come in huge pages where the kernel allows a program to ask.

    Weights are read from end to end for every token, and each page of 4 KiB has to be looked up. Other C
    libraries than glibc do not know the word; a user's own choice stays.
    """
    if says_huge_pages(environment):
        return dict(environment)
    chosen = environment.get(_TUNABLES)
    return {**environment, _TUNABLES: ":".join(filter(None, [chosen, f"{_HUGE}=1"]))}


def says_huge_pages(environment: Mapping[str, str]) -> bool:
    """Whether it says that large blocks come in huge pages, or that they do not."""
    return _HUGE in environment.get(_TUNABLES, "")
