"""One random life of an account: pods are rented, stopped, started and forgotten while everything fails.

After every round of the guard at home the account itself is asked what may not be: it knows what is paid.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dure.errors import DureError
from dure.pods.decide import ROUND_S, Act
from dure.pods.emulator.account import EmulatedPod
from dure.pods.emulator.faults import ApiRefusal, Fault
from dure.pods.guard import GuardRound
from dure.pods.ledger import Entry, PodState, Wanted
from dure.pods.money import Money
from tests.support.pod_accounts import PUBLIC_KEY, renting

__all__ = ["Campaign"]

STEPS = 40
HOUR_S = 3600
STRANGER = {"name": "a stranger's", "image": "x", "gpu": {"id": "NVIDIA L40S"}, "disk": 20}


class Campaign:
    """A run of a seed. broken: what was found that may not be. ups: how often a pod was asked for."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.broken: list[str] = []
        self.ups = self.rounds = self.failed_rounds = 0
        with renting(folder) as self.home:
            self.home.account.create(STRANGER)
            for _ in range(STEPS):
                self._step()
            self._settle()

    def _step(self) -> None:
        acts: list[tuple[int, Callable[[], None]]] = [
            (4, self._up),
            (1, self._die_during_up),
            (2, self._stop),
            (2, self._start),
            (1, self._end),
            (2, self._act_by_hand),
            (2, self._work),
            (1, self._sleep),
            (6, self._fail),
            (20, self._round),
        ]
        weights, chosen = zip(*acts, strict=True)
        try:
            self.random.choices(chosen, weights)[0]()
        except DureError:
            return  # told to whoever asked

    # ------------------------------------------------------------ what people do

    def _up(self) -> None:
        self.ups += 1
        limits = {"hours": self.random.uniform(0.1, 0.6), "idle_s": self.random.choice([0, 600])}
        spend = self.random.choice(["0.2", "0.5", "10"])
        order = self.home.order(f"pod-{self.ups}", spend=spend, **limits)  # type: ignore[arg-type]
        self.home.up(order)

    def _die_during_up(self) -> None:
        """The command was killed after it had asked."""
        self.ups += 1
        order, home = self.home.order(f"pod-{self.ups}", hours=0.3), self.home
        home.provider.pods()
        label = f"dure-{order.name}-{self.random.randrange(16**6):06x}"
        home.ledger.intend(order.entry(label, home.provider.now()))
        home.provider.create(order.spec(label, PUBLIC_KEY, home.server.url))

    def _stop(self) -> None:
        if entries := self.home.ledger.living():
            self.home.lives().stop(self.random.choice(entries))

    def _start(self) -> None:
        if entries := self.home.ledger.living():
            lives = self.home.lives()
            lives.until_running(lives.start(self.random.choice(entries)), 30)

    def _end(self) -> None:
        if entries := self.home.ledger.living():
            self.home.lives().end(self.random.choice(entries), "enough")

    def _act_by_hand(self) -> None:
        """Somebody clicks at the provider's site."""
        if pods := [p for p in self.home.account.pods.values() if p.name.startswith("dure-")]:
            pod = self.random.choice(pods)
            if pod.status == "TERMINATED":
                return
            if self.random.random() < 0.3:
                pod.locked = not pod.locked
            elif pod.actions:
                with suppress(ApiRefusal):
                    self.home.account.act(pod.id, self.random.choice(pod.actions))

    def _work(self) -> None:
        for pod in self.home.account.pods.values():
            pod.gpu_percent = self.random.choice([0.0, 90.0])

    def _sleep(self) -> None:
        """The machine at home sleeps."""
        self.home.clock.forward(self.random.uniform(0.1, 3) * HOUR_S)

    def _fail(self) -> None:
        fault = self.random.choice(list(Fault))
        self.home.account.faults.set({fault: self.random.randint(1, 4)})

    # ------------------------------------------------------------ what may not be

    def _round(self) -> None:
        self.home.clock.forward(ROUND_S)
        self.rounds += 1
        try:
            done = self.home.guard()
        except DureError:
            self.failed_rounds += 1
            return
        self.failed_rounds += not done.is_well
        self._check(done)

    def _check(self, done: GuardRound) -> None:
        account = self.home.account
        entries = {entry.label: entry for entry in self.home.ledger.all()}
        excused = {o.name for o in done.outcomes if o.problem or o.act in {Act.CONFIRM, Act.FORGET}}
        for pod in account.billing():
            entry = entries.get(pod.name)
            if entry is None or entry.name in excused or entry.state is PodState.INTENDED:
                continue  # told, or left out of the listing
            self._check_pod(pod, entry, done.at)
        names = Counter(pod.name for pod in account.pods.values())
        self.broken += [f"{count} pods are {name}" for name, count in names.items() if count > 1]
        if len(account.pods) - 1 > self.ups:
            self._break(f"{len(account.pods) - 1} pods of {self.ups} requests")
        if next(iter(account.pods.values())).status != "RUNNING":
            self._break("the stranger's pod was touched")

    def _check_pod(self, pod: EmulatedPod, entry: Entry, now: float) -> None:
        """Look at a pod that is paid for, after a round that has seen it."""
        limits, billed = entry.limits, self.home.account.billed(pod.id)
        for may_not_be, what in (
            (now >= pod.started_at + limits.max_seconds, "is overdue"),
            (pod.status == "RUNNING" and pod.hourly > limits.hourly, "is dearer than shown"),
            (entry.wanted is Wanted.GONE, "should be gone"),
            (entry.state.is_over, f"reads {entry.state}"),
            (billed > entry.spent + Money.of("0.02"), f"costs {billed}, counted {entry.spent}"),
            (billed > limits.max_spend and not pod.locked, f"costs {billed} of {limits.max_spend}"),
        ):
            if may_not_be:
                self._break(f"{pod.name} is paid for, and {what}")

    def _break(self, what: str) -> None:
        self.broken.append(what)

    def _settle(self) -> None:
        """Everything works again, and an hour passes: nothing may be left but what is stopped."""
        self.home.account.faults.clear()
        for pod in self.home.account.pods.values():
            pod.locked = False
        for _ in range(45):
            self._round()
        left = [pod.name for pod in self.home.account.billing()]
        if left != ["a stranger's"]:
            self._break(f"after all limits these are paid for: {left}")
        for entry in self.home.ledger.living():
            if entry.state is not PodState.LIVE or entry.status != "EXITED":
                self._break(f"{entry.name} reads {entry.state} {entry.status}")
