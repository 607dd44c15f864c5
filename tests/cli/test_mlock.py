"""Weights that stay in memory: locked, or a clear word that they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dure.engine.compute.llama import LoadedModel
from dure.engine.limits import Limits
from tests.support.cut_models import cut_executor, rank_pids
from tests.support.dure_process import Dure
from tests.support.random_models import Shape, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
MODEL_KB = DEMO.stat().st_size >> 10


def locked_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ranks_lock_their_weights(tmp_path: Path) -> None:
    """Each its own shard: together the model."""
    limits = Limits(n_ctx=256, threads=1, lock_memory=True)
    with cut_executor(DEMO, [1, 1], tmp_path, limits=limits):
        locked = [locked_kb(pid) for pid in rank_pids()]
    assert len(locked) == 2
    assert min(locked) > MODEL_KB // 4


def test_repacked_weights_are_locked_too(tmp_path: Path) -> None:
    """Of Q4_0 matrices llama.cpp makes copies that its own lock leaves out."""
    model = tmp_path / "wide.gguf"
    write_random_model(model, Shape("llama", 2, 1024, 8, 8, 128, 3072, 1003), "Q4_0")
    loaded = LoadedModel(model, Limits(n_ctx=256, threads=1, lock_memory=True))
    assert loaded.weights_bytes < locked_kb(os.getpid()) << 10
    loaded.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes away a right of root's")
def test_what_cannot_be_locked_is_told_with_the_cure(tmp_path: Path) -> None:
    """64 kB may be locked, and the right to lock more is gone."""
    dure = Dure(tmp_path)
    done = subprocess.run(
        [
            *("prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock"),
            *("--inh-caps=-ipc_lock", sys.executable, "-m", "dure.cli.main"),
            *("run", DEMO, "Hello", "-n", "1", "--mlock"),
        ],
        env=dure.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "can be locked in memory: raise the limit (`ulimit -l unlimited`" in done.stderr
    assert dure("run", DEMO, "Hello", "-n", 1, "--mlock").returncode == 0
