"""A cluster whose paths have blanks and quotes: environment, temporary folders, model, directories."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_hosts import WAIT_S, Machine, joined, machines

from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
ODD = "it's a b"
GREEDY = ("--temp", "0", "--sync", "f32", "-t", "1", "-n", "40")


@dataclass
class _OddMachine(Machine):
    """A host whose dure lies in an environment of such a path, and that has such a temporary folder."""

    @property
    def environment(self) -> dict[str, str]:
        temporary = self.home.parent / "t 'p"
        temporary.mkdir(exist_ok=True)
        return {**super().environment, "TMPDIR": str(temporary)}

    def command(self, *arguments: object) -> list[str]:
        python = str(self.home.parent / f"env {ODD}" / "bin" / Path(sys.executable).name)
        words = [python, "-m", "dure.cli.main", *map(str, arguments)]
        return self.host.command(words, self.cpu)


@pytest.fixture
def two() -> Iterator[list[Machine]]:
    """A root and a node. Sockets lie in the temporary folder, whose path may not be long."""
    with tempfile.TemporaryDirectory(prefix=f"{ODD} ", dir="/tmp") as name:
        yield from _two(Path(name))


def _two(directory: Path) -> Iterator[list[Machine]]:
    (directory / f"env {ODD}").symlink_to(sys.prefix)
    with machines(directory, 2) as hosts:
        odd: list[Machine] = [_OddMachine(one.host, one.home) for one in hosts]
        try:
            joined(*odd)
            yield odd
        finally:
            for one in odd:
                one.close()


@needs_root
def test_a_model_runs_on_a_cluster_of_odd_paths(two: list[Machine], tmp_path: Path) -> None:
    """The text is that of one rank, and the ranks are where the paths say."""
    model = tmp_path / f"{ODD}.gguf"
    shutil.copy(DEMO, model)
    alone = subprocess.run(
        [sys.executable, "-m", "dure.cli.main", "run", model, "Tell me a story.", *GREEDY],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    ).stdout
    cluster = ("--cluster", "--nodes", "all")
    assert two[0].dure("run", model, "Tell me a story.", *GREEDY, *cluster) == alone
