"""One rank of exchange.py: times the exchange of dure's native all-reduce.

Knows nothing of hosts or links; `mpiexec` starts one on each. Rank 0 prints the mean seconds.

    mpiexec -n 2 python bench/exchange_rank.py BYTES REPEATS
"""

from __future__ import annotations

import math
import sys

from dure.engine.compute.allreduce import AllReduce, exchange_seconds
from dure.engine.compute.native import mpi
from dure.engine.wire import Wire


def run(n_bytes: int, repeats: int) -> None:
    """Exchange with the other ranks, after a tenth of the repeats as warm-up, and print."""
    mpi().Init()
    sums = AllReduce((), Wire.Q8, max_values=n_bytes, wait_s=30.0, two_phase_above=math.inf)
    exchange_seconds(n_bytes, max(1, repeats // 10))
    seconds = exchange_seconds(n_bytes, repeats)
    if mpi().COMM_WORLD.rank == 0:
        print(f"{seconds:.9g}", flush=True)
    sums.close()
    mpi().Finalize()


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
