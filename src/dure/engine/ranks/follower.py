"""The ranks that follow rank 0: each takes part in every step, and reports.

Knows how a follower waits. Refuses to know the client, and what other ranks report.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from dure.engine.compute.native import mpi
from dure.engine.ranks import messages as msg
from dure.engine.ranks.parent import CHECK_PARENT_S, end_if_orphaned
from dure.engine.ranks.rank_process import RankProcess
from dure.engine.ranks.reports import CLOCK_ASKS, TAG_CLOCK, TAG_REPORT, TAG_STEP, pack_report

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

__all__ = ["follow"]

SPIN_S = 0.003  # after a step, the next one is probably near
NAP_SHARE = 0.05  # then naps between polls grow with the wait: a step is this much of it late
LONGEST_NAP_S = 0.02


def follow(process: RankProcess) -> None:
    """Take part in every step that rank 0 sends, until it says stop."""
    comm = process.comm
    while True:
        record, embeddings = msg.unpack(_receive(comm))
        match record:
            case msg.RankStep():
                rows = process.step(record, embeddings)
                comm.Send(pack_report(process.stats, rows), 0, TAG_REPORT)
            case msg.GetLogits():
                comm.Send(process.logits(record.row), 0, TAG_REPORT)
            case msg.LoadAdapter():
                comm.send(process.load_adapter(record), 0, TAG_REPORT)
            case msg.SetThreads():
                process.set_threads(record)
            case msg.StopRanks():
                return
            case _:
                comm.send(_answer(process, record), 0, TAG_REPORT)
                if isinstance(record, msg.SetTrace):
                    _report_clock(comm)


def _answer(
    process: RankProcess,
    record: msg.SaveSequence
    | msg.LoadSequence
    | msg.KeepSequences
    | msg.DropSequence
    | msg.DropAdapter
    | msg.SetTrace
    | msg.ProbeRanks
    | msg.GetFacts
    | msg.GatherInputs,
) -> object:
    """Return what rank 0 gathers for this request."""
    match record:
        case msg.SaveSequence():
            return process.save(record)
        case msg.LoadSequence():
            return process.load(record)
        case msg.KeepSequences():
            return process.keep_only(record)
        case msg.DropSequence() | msg.DropAdapter():
            process.drop(record)
            return None
        case msg.SetTrace():
            return process.set_trace(record)
        case msg.ProbeRanks():
            return process.probe(record)
        case msg.GetFacts():
            return process.facts()
        case msg.GatherInputs():
            return process.gather_inputs(record)


def _receive(comm: Intracomm) -> bytearray:
    """Return rank 0's next message. Spins for a moment, then polls ever more rarely: idling is cheap."""
    status = mpi().Status()
    start = time.perf_counter()
    check_at = start + CHECK_PARENT_S
    while (message := comm.Improbe(0, TAG_STEP, status)) is None:
        now = time.perf_counter()
        if now - start > SPIN_S:
            time.sleep(min((now - start) * NAP_SHARE, LONGEST_NAP_S))
        else:
            os.sched_yield()  # the client may wait for this core
        if now > check_at:
            check_at = now + CHECK_PARENT_S
            end_if_orphaned()
    data = bytearray(status.Get_count())
    message.Recv(data)
    return data


def _report_clock(comm: Intracomm) -> None:
    """Answer rank 0, which compares clocks."""
    for _ in range(CLOCK_ASKS):
        comm.recv(source=0, tag=TAG_CLOCK)
        comm.send(time.monotonic(), 0, TAG_CLOCK)
