"""A cluster whose disks hold no programs: many systems mount `/tmp` and homes with `noexec`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cluster_hosts import Machine, joined, machines

from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GREEDY = ("--temp", "0", "--sync", "f32", "-t", "1", "-n", "20")


class _NoexecMachine(Machine):
    """A host that starts no program from its own files, nor from its temporary folder."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "TMPDIR": str(self.home)}


@contextmanager
def noexec(directory: Path) -> Iterator[None]:
    """Mount memory at a directory, from which nothing starts, for the block."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def two() -> Iterator[list[Machine]]:
    """A root and a node that has joined. Sockets lie in their homes, so the path is a short one."""
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="dure-"))
        hosts = stack.enter_context(machines(Path(directory), 2))
        for host in hosts:
            stack.enter_context(noexec(host.home))
        strict: list[Machine] = [_NoexecMachine(one.host, one.home) for one in hosts]
        for one in strict:
            stack.callback(one.close)
        joined(*strict)
        yield strict


@needs_root
def test_a_cluster_starts_no_program_from_where_files_lie(two: list[Machine]) -> None:
    """MPI's manager waits for ever for a program that it may not start on a node."""
    alone = two[0].dure("run", DEMO, "Tell me a story.", *GREEDY)
    cluster = ("--cluster", "--nodes", "all")
    assert two[0].dure("run", DEMO, "Tell me a story.", *GREEDY, *cluster) == alone
