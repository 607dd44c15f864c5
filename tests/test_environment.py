"""What a process that computes finds in its environment, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dure.engine.environment import with_huge_pages

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TOUCHES = """
from pathlib import Path
filled = b"x" * (64 << 20)
smaps = Path("/proc/self/smaps_rollup").read_text()
print(next(line.split()[1] for line in smaps.splitlines() if line.startswith("AnonHugePages")))
"""


def test_other_choices_stay() -> None:
    assert with_huge_pages({})["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    both = with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=1", "A": "b"})
    assert both == {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1", "A": "b"}
    own = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(own) == own


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text() or os.confstr("CS_GNU_LIBC_VERSION") is None,
    reason="this kernel or C library has no huge pages to give",
)
def test_large_blocks_come_in_huge_pages() -> None:
    """Of 64 MiB that a program fills, more than without; how many is the kernel's to decide."""

    def huge_kb(environment: Mapping[str, str]) -> int:
        command = [sys.executable, "-c", TOUCHES]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    plain = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if "[always]" in THP.read_text():
        assert huge_kb(with_huge_pages(plain)) > 0
    else:
        assert huge_kb(with_huge_pages(plain)) > huge_kb(plain)
