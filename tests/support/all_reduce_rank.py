"""One rank of test_all_reduce.py: sums vectors made from its rank, and writes the results.

    mpiexec -n N python all_reduce_rank.py DIRECTORY JOB

They go to a file of the rank's own: mpiexec may lose what a rank prints before it ends them all.
JOB is JSON: {"wire", "two_phase_above", "wait_s", "vectors": [seed, ...], "size", "stop_rank",
"digest"}.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.engine.compute.allreduce import AllReduce
from dure.engine.compute.native import mpi
from dure.engine.wire import Wire
from dure.errors import EngineError
from dure.whole_file import write_whole


def vector(kind: str, rank: int, size: int) -> npt.NDArray[np.float32]:
    """Return a rank's partial vector of a kind, float32 [size]; the same in every process."""
    x = np.random.default_rng([rank, size]).standard_normal(size).astype(np.float32)
    match kind:
        case "huge":
            return x * np.float32(1e30)
        case "tiny":
            return x * np.float32(1e-30)
        case "denormal":
            return x * np.float32(1e-42)
        case "zero":
            return x * np.float32(0)
        case "infinite":
            x[size // 2] = np.inf if rank == 1 else x[size // 2]
            return x
        case "nan":
            x[5] = np.nan if rank == 0 else x[5]
            return x
        case _:
            return x


def digest(x: npt.NDArray[np.float32]) -> str:
    """Return a hash of all bits of a vector that is too long to print."""
    return hashlib.sha256(x.tobytes()).hexdigest()


def main() -> None:
    """Sum every vector; write the results as JSON, one file per rank."""
    directory, job = Path(sys.argv[1]), json.loads(sys.argv[2])
    mpi().Init()
    rank = mpi().COMM_WORLD.rank
    sums = AllReduce(
        (),
        Wire(job["wire"]),
        max_values=job["size"],
        wait_s=job["wait_s"],
        two_phase_above=job["two_phase_above"],
    )
    results = {}
    try:
        for kind in job["kinds"]:
            x = vector(kind, rank, job["size"])
            if rank == job.get("stop_rank"):
                os.kill(os.getpid(), signal.SIGSTOP)
            sums.begin()
            sums.reduce(x)
            results[kind] = digest(x) if job.get("digest") else x.view(np.uint32).tolist()
    except EngineError as error:
        results["error"] = str(error)
    write_whole(directory / f"{rank}.json", json.dumps(results).encode())
    if "error" in results:
        mpi().COMM_WORLD.Abort(1)
    sums.close()
    mpi().Finalize()


if __name__ == "__main__":
    main()
