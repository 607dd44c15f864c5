"""What a process that computes finds in its environment."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["with_huge_pages"]

_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The same, and large blocks of memory come in huge pages where the kernel allows a program to ask.

    Weights are read from end to end for every token, and each page of 4 KiB has to be looked up. Other C
    libraries than glibc do not know the word; a user's own choice stays.
    """
    chosen = environment.get(_TUNABLES, "")
    if _HUGE in chosen:
        return dict(environment)
    return {**environment, _TUNABLES: ":".join(filter(None, [chosen, f"{_HUGE}=1"]))}
