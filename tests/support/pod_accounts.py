"""Rents pods of the emulator: an account over HTTP, a ledger in a folder, and a clock that waits move.

Nothing here takes time: who waits moves the emulator's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dure.pods.emulator.account import Account, EmulatedPod, EmulatorClock, PodMachine
from dure.pods.emulator.server import EmulatorServer
from dure.pods.guard import GuardRound, guard_round
from dure.pods.keys import AccountKey
from dure.pods.launch import Order, chosen_offer, launch
from dure.pods.ledger import Entry, Ledger
from dure.pods.life import PodLives
from dure.pods.money import Bill, Disks, Money
from dure.pods.runpod import RunPod
from dure.pods.templates import template_of

__all__ = ["PUBLIC_KEY", "Renting", "renting", "wait_until"]

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA dure"
HOUR_S = 3600
_GIVE_UP_S = 60


@dataclass
class Renting:
    """Somebody who rents. waited: every pause that was made, in seconds."""

    server: EmulatorServer
    ledger: Ledger
    provider: RunPod
    waited: list[float]

    @property
    def account(self) -> Account:
        return self.server.account

    @property
    def clock(self) -> EmulatorClock:
        return self.account.clock

    def lives(self) -> PodLives:
        return PodLives(self.provider, self.ledger, self.wait, read_back_s=3)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.clock.forward(seconds)

    def order(
        self,
        name: str = "try",
        *,
        hours: float = 8,
        spend: str = "10",
        idle_s: int = 0,
        disks: Disks | None = None,
        gpu: str = "4090",
    ) -> Order:
        """What somebody wants: an RTX 4090 in the secure cloud, unless told otherwise."""
        offer = chosen_offer(self.provider.gpus(), "SECURE", gpu=gpu)
        price = offer.price("SECURE")
        assert price is not None
        bill = Bill(price, disks or Disks(20, 100), int(hours * HOUR_S), Money.of(spend))
        template = template_of("workbench", volume="/workspace")
        return Order(name, template, offer, 1, "SECURE", bill, idle_s)

    def up(self, order: Order | None = None) -> Entry:
        return launch(self.lives(), order or self.order(), PUBLIC_KEY)

    def guard(self, ask: Callable[[Entry], None] = lambda _entry: None) -> GuardRound:
        return guard_round(self.lives(), ask)

    def pod(self, entry: Entry) -> EmulatedPod:
        """The pod of an entry, as the provider has it."""
        return next(pod for pod in self.account.pods.values() if pod.name == entry.label)

    def again(self, entry: Entry) -> Entry:
        """The entry as the ledger has it now."""
        return next(one for one in self.ledger.all() if one.label == entry.label)


def wait_until(is_so: Callable[[], bool], patient_s: float = _GIVE_UP_S) -> None:
    """Wait for what other processes do."""
    give_up = time.monotonic() + patient_s
    while not is_so():
        assert time.monotonic() < give_up, "it never was so"
        time.sleep(0.05)


@contextmanager
def renting(
    folder: Path, machine: Callable[[], PodMachine] | None = None, boot_s: float = 0.0
) -> Iterator[Renting]:
    """Open an account and a ledger."""
    waited: list[float] = []
    account = Account(EmulatorClock(), machine, boot_s)
    with EmulatorServer(account) as server:
        ledger = Ledger(folder / "pods")
        key = AccountKey(account.key, "a test")
        made = Renting(server, ledger, RunPod(key, server.url), waited)
        made.provider = RunPod(key, server.url, made.wait)
        yield made
        made.provider.close()
        ledger.close()
