"""Memory in huge pages: asked for by the environment of what we start, and by a process that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dure.engine.environment import with_huge_pages
from tests.support.random_models import Shape, write_random_model

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FILLS = """
filled = b"x" * (64 << 20)
"""
LOADS = """
import sys
from dure.engine.compute.llama import LoadedModel
from dure.engine.limits import Limits
model = LoadedModel(Path(sys.argv[1]), Limits(n_ctx=256, threads=1))
"""
TELLS = """
smaps = Path("/proc/self/smaps_rollup").read_text()
print(next(line.split()[1] for line in smaps.splitlines() if line.startswith("AnonHugePages")))
"""


def test_other_choices_stay() -> None:
    assert with_huge_pages({})["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    both = with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=1", "A": "b"})
    assert both == {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1", "A": "b"}
    own = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(own) == own


with_huge_pages_here = pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text() or os.confstr("CS_GNU_LIBC_VERSION") is None,
    reason="this kernel or C library has no huge pages to give",
)


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}


def huge_kb(program: str, environment: Mapping[str, str], *arguments: object) -> int:
    """What a program has in huge pages at its end."""
    script = "from pathlib import Path" + program + TELLS
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@with_huge_pages_here
def test_large_blocks_come_in_huge_pages() -> None:
    """Of 64 MiB that a program fills, more than without; how many is the kernel's to decide."""
    plain = plain_environment()
    if "[always]" in THP.read_text():
        assert huge_kb(FILLS, with_huge_pages(plain)) > 0
    else:
        assert huge_kb(FILLS, with_huge_pages(plain)) > huge_kb(FILLS, plain)


@with_huge_pages_here
def test_weights_come_in_huge_pages_unless_the_user_says_no(tmp_path: Path) -> None:
    """In a process that nobody gave an environment for it."""
    model = tmp_path / "wide.gguf"
    write_random_model(model, Shape("llama", 2, 1024, 8, 8, 128, 3072, 1003), "Q8_0")
    weights_kb = huge_kb(LOADS, plain_environment(), model)
    assert weights_kb > model.stat().st_size // 1024 // 2
    refused = {**plain_environment(), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    if "[always]" not in THP.read_text():
        assert huge_kb(LOADS, refused, model) < weights_kb // 2
