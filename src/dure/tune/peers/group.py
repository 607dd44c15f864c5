"""The group of processes that learn together: torch's, joined as torchrun tells it by the environment.

What they agree on, and who tells a person what went wrong. Numbers travel through memory (gloo), also where
gradients travel between GPUs (NCCL): a process that ends is noticed by the others at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from dure.errors import DureError, EngineError, UsageError
from dure.processes import end_with_parent
from dure.tune.peers.environment import STOP, TOLD, is_ours, n_started

__all__ = ["LostPeerError", "Peers", "joined", "lost_peers"]

Value = TypeVar("Value")
_PATIENCE = timedelta(hours=2)  # with a process that lives: it may be writing a large checkpoint
_SAID = re.compile(r"gloo|nccl|closed by peer|reset by peer|broken pipe", re.IGNORECASE)


class LostPeerError(EngineError):
    """Another process of the run has ended."""


class Peers:
    """The processes of a run as one of them sees them. number: its own, from 0. n: of all."""

    def __init__(self, number: int = 0, n: int = 1, store: Any = None) -> None:
        self.number, self.n, self._store = number, n, store

    @property
    def is_first(self) -> bool:
        """Whether this process writes and tells what all have done."""
        return self.number == 0

    def total(self, *values: float) -> list[float]:
        """Return the sums of values over all processes, the same in each of them."""
        if self.n == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def told(self, value: Value) -> Value:
        """Return what the first process gives; what others give is not used."""
        if self.n == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.total(0.0)

    def is_teller(self, error: DureError) -> bool:
        """Return whether this process should tell an error: the first that has one.

        That another has ended is told by who has started them, if that was us: it knows why.
        """
        if self._store is None:
            return True
        if isinstance(error, LostPeerError) and is_ours():
            return False
        with suppress(RuntimeError):  # who kept the store may be gone
            told = self._store.compare_set(TOLD, "", str(self.number))
            return bool(told.decode() == str(self.number))
        return True


@contextmanager
def joined() -> Iterator[Peers]:
    """Join the processes that torchrun, or we, have started; yield what is alone if nobody has.

    Raises UsageError if they are on several machines, or more than GPUs.
    """
    n = n_started()
    if n == 1:
        yield Peers()
        return
    if is_ours():
        end_with_parent(STOP)
    local = int(os.environ["LOCAL_RANK"])
    _check_machine(n)
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(local)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store, number, n = next(distributed.rendezvous("env://", timeout=_PATIENCE))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
        store=store,
        rank=number,
        world_size=n,
        timeout=_PATIENCE,
    )
    yield Peers(number, n, store)
    distributed.destroy_process_group()  # not after an error: others may be in the middle of something


def _check_machine(n: int) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", n))
    if here != n:
        raise UsageError(
            f"torchrun started {n} processes on several machines",
            "use --nnodes 1: `dure tune` shares a run among the GPUs of one machine",
        )
    if torch.cuda.is_available() and torch.cuda.device_count() < n:
        raise UsageError(
            f"{n} processes for {torch.cuda.device_count()} GPUs", "start one process for each GPU"
        )


@contextmanager
def lost_peers() -> Iterator[None]:
    """Report that a process has ended with which this one was about to compute. Raises LostPeerError."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or _SAID.search(str(error))):
            raise
        raise LostPeerError(
            "another process of this run has ended",
            "look for its error above; the same command goes on from the last checkpoint",
        ) from error
