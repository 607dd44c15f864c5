"""Threads held to cores of their own: which cores, that they stay there, and what is said of too few."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dure.engine.limits import Limits
from dure.hardware import probe
from tests.support.cut_models import cut_executor, rank_pids
from tests.support.dure_process import Dure

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
needs_two = pytest.mark.skipif(len(probe.cpus()) < 2, reason="needs two CPUs")
# Decodes a prompt of 8 tokens, and prints where each thread of the process may run.
DECODES = """
import os, sys
from pathlib import Path
import numpy as np
from dure.engine.compute.llama import LoadedModel
from dure.engine.limits import Limits
from dure.hardware.probe import probe
model = LoadedModel(Path(sys.argv[1]), Limits(256, int(sys.argv[2]), pin=True))
ids = np.arange(8, dtype=np.int32)
model.decode(ids, ids, np.zeros(8, np.int32), [7])
threads = [os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")]
print(probe().cores, sorted(tuple(t) for t in threads if len(t) == 1))
model.close()
"""


def decode(n_threads: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DECODES, str(DEMO), str(n_threads)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@needs_two
@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_stay_on_cores_of_their_own(n_threads: int) -> None:
    """And the process still knows how many cores there are for others."""
    cores = sorted((cpu,) for cpu in probe.cpus()[:n_threads])
    assert decode(n_threads) == f"{probe.probe().cores} {cores}"


@needs_two
def test_ranks_of_one_machine_take_different_cores(tmp_path: Path) -> None:
    with cut_executor(DEMO, [1, 1], tmp_path, limits=Limits(n_ctx=256, threads=1, pin=True)):
        cores = [os.sched_getaffinity(pid) for pid in rank_pids()]
    assert sorted(map(sorted, cores)) == sorted([cpu] for cpu in probe.cpus()[:2])


def test_too_few_cores_are_told_with_the_cure(tmp_path: Path) -> None:
    dure = Dure(tmp_path)
    wanted = len(probe.cpus()) + 1
    done = dure("run", DEMO, "Hello", "-n", 1, "--pin", "-t", wanted)
    assert done.returncode == 1
    assert f"--pin holds {wanted} threads on this machine to a core each" in done.stderr
    assert "use fewer --threads, or leave out --pin" in done.stderr
    assert dure("run", DEMO, "Hello", "-n", 1, "--pin", "-t", 1).returncode == 0


def test_quick_cores_come_first_and_second_threads_of_a_core_last(
    tmp_path: Path,
) -> None:
    """Two efficient cores (0, 1), a quick one with two threads (2, 3), and one that is not ours (4)."""
    for cpu, (core, mhz) in enumerate([("0", 2), ("1", 2), ("2-3", 5), ("2-3", 5), ("4", 9)]):
        directory = tmp_path / f"cpu{cpu}"
        (directory / "topology").mkdir(parents=True)
        (directory / "topology" / "thread_siblings_list").write_text(core + "\n")
        (directory / "cpufreq").mkdir()
        (directory / "cpufreq" / "cpuinfo_max_freq").write_text(f"{mhz}000000\n")
    assert probe.cpus(tmp_path, {0, 1, 2, 3}) == (2, 0, 1, 3)
