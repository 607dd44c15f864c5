"""One rank: a process that holds one shard and takes part in every step.

Started by `mpiexec` as `python -m dure.engine.ranks.rank JOB`. Rank 0 also talks to the client
(`leader.py`); the others follow (`follower.py`).
Crash-only: what goes wrong is written beside the job file, and the whole job ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from dure.engine.compute.native import mpi
from dure.engine.ranks import shared_memory
from dure.engine.ranks.channel import Channel
from dure.engine.ranks.connections import hurry_connections
from dure.engine.ranks.follower import follow
from dure.engine.ranks.job import Job
from dure.engine.ranks.leader import Leader
from dure.engine.ranks.parent import end_with_guard, remember_parents
from dure.engine.ranks.rank_process import RankProcess
from dure.errors import DureError, ErrorRecord
from dure.whole_file import write_whole


def main() -> None:
    """Run this rank until the job ends. The job file is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's business
    end_with_guard()
    remember_parents()
    job_file = Path(sys.argv[1])
    job = msgspec.json.decode(job_file.read_bytes(), type=Job)
    mpi().Init_thread(mpi().THREAD_FUNNELED)
    rank = mpi().COMM_WORLD.rank
    try:
        _run(job, rank)
    except (EOFError, ConnectionError):  # the client is gone: nobody is left to tell, or to tidy up
        shutil.rmtree(job_file.parent, ignore_errors=True)
        _abort(job_file, rank, None)
    except DureError as error:
        _abort(job_file, rank, error.record())
    mpi().Finalize()


def _run(job: Job, rank: int) -> None:
    client = _channel_to_client(job) if rank == 0 else None
    process = RankProcess(job, client)
    process.comm.Barrier()
    hurry_connections(process.comm)
    shared_memory.unname()
    if client:
        Leader(process, client).lead()
    else:
        follow(process)
    process.close()


def _channel_to_client(job: Job) -> Channel:
    unix = socket.socket(socket.AF_UNIX)
    unix.connect(job.socket)
    return Channel(unix)


def _abort(job_file: Path, rank: int, error: ErrorRecord | None) -> NoReturn:
    if error is not None:
        write_whole(job_file.with_name(f"rank{rank}.error"), msgspec.json.encode(error))
    mpi().COMM_WORLD.Abort(1)
    os._exit(1)


if __name__ == "__main__":
    main()
