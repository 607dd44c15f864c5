"""Ranks and a small or full `/dev/shm`: told before the start, and survived afterwards.

Each test has a `/dev/shm` of its own, in a private mount namespace.
"""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dure_process import DURE, Dure, error_line
from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
MOUNT = 'mount -t tmpfs -o size="$0" own /dev/shm && exec "$@"'
PAGE = 4096

# Starts the demo model on two ranks, fills /dev/shm, decodes long prompts and saves a sequence there.
FILL = """
import sys
from pathlib import Path
import numpy as np
from dure.deploy.options import RunOptions
from dure.deploy.start import start_model
from dure.engine.executor import Batch
from dure.engine.kv import Clear
from dure.errors import ResourceError
from dure.model.gguf import open_gguf

with open_gguf(Path(sys.argv[1])) as model:
    executor = start_model(model, RunOptions(ranks=2, threads=1)).executor
n = 400
prompt = np.arange(n, dtype=np.int32)
batch = Batch(prompt + 100, prompt, prompt * 0, [n - 1], 1, [Clear()])
try:
    with open("/dev/shm/filler", "wb", 0) as filler:
        while True:
            filler.write(bytes(4096))
except OSError as error:
    print(error.strerror)
executor.step(batch)
try:
    executor.save(0, "/dev/shm/saved")
except ResourceError as error:
    print(error)
for _ in range(20):
    executor.step(batch)
executor.close()
print("decoded")
"""


def in_namespace(dure: Dure, size_bytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a `/dev/shm` of this size."""
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", MOUNT, str(size_bytes), *words],
        capture_output=True,
        text=True,
        env=dure.environment,
        check=False,
    )


@needs_root
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_too_little_shared_memory_is_refused_and_just_enough_works(
    tmp_path: Path, n_ranks: int
) -> None:
    """The error names what is needed and free and how to get more, and a page more is enough."""
    dure = Dure(tmp_path)
    needed = 1_057_344 * n_ranks + PAGE
    whole = -(-needed // PAGE) * PAGE
    run = (*DURE, "run", str(DEMO), "Hello", "-n", "4", "-t", "1", "--ranks", str(n_ranks))
    refused = in_namespace(dure, whole - PAGE, *run)
    assert refused.returncode == 1
    line = error_line(refused.stderr)
    sizes = re.search(r"ranks need (.*) of shared memory, and /dev/shm has (.*) free: ", line)
    assert sizes is not None
    assert sizes[1] != sizes[2]
    assert "--shm-size" in line
    assert in_namespace(dure, whole, *run).returncode == 0


def test_what_a_killed_rank_left_is_swept_at_the_next_start(tmp_path: Path) -> None:
    """But nothing that a process has mapped, that may be being made just now, or that is no rank's."""
    folder, mine = Path("/dev/shm"), f"{os.getpid():x}"  # noqa: S108 - where Linux keeps it
    left, held, fresh, other = (
        folder / name
        for name in (
            f"mpich_shm_{mine}_0",
            f"mpich_shm_{mine}_1",
            f"mpich_shm_{mine}_2",
            f"x{mine}",
        )
    )
    try:
        for path in (left, held, fresh, other):
            path.write_bytes(bytes(PAGE))
        with held.open("r+b") as file, mmap.mmap(file.fileno(), PAGE):
            for path in (left, held, other):
                os.utime(path, (0, 0))
            run = ("run", DEMO, "Hello", "-n", "2", "-t", "1", "--ranks", "2")
            assert Dure(tmp_path)(*run).returncode == 0
            assert [path.exists() for path in (left, held, fresh, other)] == [
                False,
                True,
                True,
                True,
            ]
    finally:
        for path in (left, held, fresh, other):
            path.unlink(missing_ok=True)


@needs_root
def test_a_full_folder_does_not_end_ranks_that_run(tmp_path: Path) -> None:
    """What others fill it with is an error for them, a saved sequence too, and the ranks decode on."""
    done = in_namespace(Dure(tmp_path), 3 << 20, sys.executable, "-c", FILL, str(DEMO))
    assert done.stdout.splitlines() == [
        "No space left on device",
        "the cache /dev/shm/saved cannot be written: make room there",
        "decoded",
    ], done.stderr
