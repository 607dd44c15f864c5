"""The ranks that follow rank 0: each takes part in every step, and reports."""

from __future__ import annotations

import os
import time
from typing import Any

from dure.engine.compute.native import mpi
from dure.engine.ranks import messages as msg
from dure.engine.ranks.parent import LOOK_FOR_STARTER_S, end_if_alone
from dure.engine.ranks.rank_process import RankProcess
from dure.engine.ranks.reports import CLOCK_ASKS, TAG_CLOCK, TAG_REPORT, TAG_STEP, pack_report

__all__ = ["follow"]

SPIN_S = 0.003  # after a step, the next one is probably near
NAP_SHARE = 0.05  # then naps between looks grow with the wait: a step is this much of it late
LONGEST_NAP_S = 0.02


def follow(process: RankProcess) -> None:
    """Take part in every step that rank 0 sends, until it says stop."""
    comm = process.comm
    while True:
        record, embeddings = msg.unpack(_receive(comm))
        match record:
            case msg.RankStep():
                best = process.step(record, embeddings)
                comm.Send(pack_report(process.stats, best), 0, TAG_REPORT)
            case msg.GetLogits():
                comm.Send(process.logits(record.row), 0, TAG_REPORT)
            case msg.Save() | msg.Load() | msg.Keep() | msg.Drop():
                comm.send(process.change_files(record), 0, TAG_REPORT)
            case msg.SetThreads():
                process.set_threads(record)
            case msg.Trace():
                comm.send(process.trace(record), 0, TAG_REPORT)
                _tell_clock(comm)
            case msg.Probe():
                comm.send(process.probe(record), 0, TAG_REPORT)
            case msg.GetFacts():
                comm.send(process.facts(), 0, TAG_REPORT)
            case msg.Stop():
                return


def _receive(comm: Any) -> bytearray:
    """The next message of rank 0. Spins for a moment, then looks ever more rarely: idling is cheap."""
    status = mpi().Status()
    start = time.perf_counter()
    look_at = start + LOOK_FOR_STARTER_S
    while (message := comm.Improbe(0, TAG_STEP, status)) is None:
        now = time.perf_counter()
        if now - start > SPIN_S:
            time.sleep(min((now - start) * NAP_SHARE, LONGEST_NAP_S))
        else:
            os.sched_yield()  # the client may wait for this core
        if now > look_at:
            look_at = now + LOOK_FOR_STARTER_S
            end_if_alone()
    data = bytearray(status.Get_count())
    message.Recv(data)
    return data


def _tell_clock(comm: Any) -> None:
    """Answer rank 0, which compares clocks."""
    for _ in range(CLOCK_ASKS):
        comm.recv(source=0, tag=TAG_CLOCK)
        comm.send(time.monotonic(), 0, TAG_CLOCK)
