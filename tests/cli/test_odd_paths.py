"""Paths with blanks and quotes: environment, model, temporary folder, and all directories of the user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
XDG = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


@pytest.fixture
def odd() -> Iterator[Path]:
    """A folder; sockets lie in it, so its path may not be long."""
    with tempfile.TemporaryDirectory(prefix="it's a b ", dir="/tmp") as name:
        yield Path(name)


def test_ranks_run_where_every_path_is_odd(odd: Path) -> None:
    """The model is cut, its shards are kept below the odd cache, and the answer is that of one rank."""
    (odd / "env 'e").symlink_to(sys.prefix)
    model = odd / "it's a model.gguf"
    shutil.copy(DEMO, model)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DURE_", "XDG_"))}
    for name in (*XDG, "TMPDIR"):
        environment[name] = str(odd / f"{name[:5]} 'd")
        Path(environment[name]).mkdir(exist_ok=True)

    def answer(n_ranks: int) -> str:
        dure = str(odd / "env 'e" / "bin" / "dure")
        done = subprocess.run(
            [
                dure,
                "run",
                str(model),
                "Tell me a story.",
                "-t",
                "1",
                "-n",
                "30",
                "--temp",
                "0",
                "--sync",
                "f32",
                "--ranks",
                str(n_ranks),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert answer(2) == answer(1)
    shards = sorted(Path(environment["XDG_CACHE_HOME"], "dure", "shards").glob("*.gguf"))
    begins = [path.name.rpartition("-")[0] for path in shards]
    assert begins == ["it-s-a-model-rank0of2", "it-s-a-model-rank1of2"]
