"""Makes one pod, and never a second: written down, asked for once, found again if the answer is lost.

Its price is read back, and a dearer pod is ended at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from dure.errors import UsageError
from dure.pods.decide import Act, what_to_do
from dure.pods.ledger import Entry, PodLimits, PodState, Wanted
from dure.pods.life import PodLives
from dure.pods.money import Bill, Money
from dure.pods.names import checked_name, new_label
from dure.pods.provider import GpuOffer, LostAnswerError, Pod, PodError, PodSpec
from dure.pods.templates import Template, environment_of, start_args

__all__ = ["Order", "chosen_offer", "launch"]

_FIND_S = 5.0
_FINDS = 6


@dataclass(frozen=True)
class Order:
    """A pod that somebody wants. heartbeat_s: 0 if it need not hear of home.

    key_file: with the key of its public address, if it has one.
    """

    name: str
    template: Template
    offer: GpuOffer
    gpus: int
    cloud: str
    bill: Bill
    idle_s: int
    heartbeat_s: int = 0
    volume_path: str = "/workspace"
    network_volume: str = ""
    data_center: str = ""
    ssh_key: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        checked_name("--name", self.name)

    @property
    def limits(self) -> PodLimits:
        """Where its guards end it."""
        bill = self.bill
        return PodLimits(bill.max_seconds, bill.max_spend, self.idle_s, bill.hourly)

    def entry(self, label: str, at: float) -> Entry:
        """Return what is written down before it is asked for."""
        return Entry(
            name=self.name,
            label=label,
            template=self.template.name,
            gpu=self.offer.id,
            gpus=self.gpus,
            cloud=self.cloud,
            disks=self.bill.disks,
            volume_path=self.volume_path,
            server_port=self.template.port,
            limits=self.limits,
            made_at=at,
            seen_at=at,
            hourly=self.bill.hourly,
            ssh_key=str(self.ssh_key or ""),
            awaits_token=self.template.awaits_token,
            network_volume=self.network_volume,
            public_port=self.template.public_port,
            key_file=str(self.key_file or ""),
        )

    def spec(self, label: str, public_key: str, api: str) -> PodSpec:
        """Return what the provider is asked for."""
        return PodSpec(
            name=label,
            image=self.template.image,
            args=start_args(is_public=bool(self.template.public_port)),
            env=environment_of(
                self.template, self.limits, self.bill.runs_s, self.heartbeat_s, public_key, api
            ),
            gpu=self.offer.id,
            gpus=self.gpus,
            cloud=self.cloud,
            disks=self.bill.disks,
            volume_path=self.volume_path,
            network_volume=self.network_volume,
            data_center=self.data_center,
            ports=("22/tcp", *self._public_ports),
        )

    @property
    def _public_ports(self) -> tuple[str, ...]:
        port = self.template.public_port
        return (f"{port}/http",) if port else ()


def chosen_offer(
    offers: list[GpuOffer], cloud: str, *, gpu: str = "", memory: int = 0, gpus: int = 1
) -> GpuOffer:
    """Return the cheapest offer that is to be had. gpu: a part of its name. memory: GB, of all GPUs.

    Raises UsageError if there is none.
    """
    fit = [
        offer
        for offer in offers
        if offer.price(cloud) is not None
        and offer.availability != "NONE"
        and gpu.lower() in f"{offer.id} {offer.name}".lower()
        and offer.memory * gpus >= memory
        and offer.most.get(cloud, gpus) >= gpus
    ]
    if not fit:
        wanted = f"{gpus} of {gpu or 'any GPU'} with {memory} GB in the {cloud.lower()} cloud"
        raise UsageError(f"nobody offers {wanted}", "see what there is with `dure pod gpus`")
    return min(fit, key=lambda offer: (offer.price(cloud), -offer.memory))


def launch(
    lives: PodLives,
    order: Order,
    public_key: str,
    allow: Callable[[list[Entry], Money], None] = lambda _living, _lately: None,
) -> Entry:
    """Make the pod of an order, and return its entry as it was read back.

    allow: as of `Ledger.intend`. Raises PodError if there is none, or none that costs what was shown;
    LostAnswerError if there may be one that is not listed yet: then the guard ends it when it comes.
    """
    provider, label = lives.provider, new_label(order.name)
    provider.pods()  # the key is accepted, and the provider's time is known
    entry = order.entry(label, provider.now())
    lives.ledger.intend(entry, allow)
    try:
        pod = _created(lives, entry, order.spec(label, public_key, provider.endpoint))
    except (KeyboardInterrupt, SystemExit):
        _give_up(lives, entry, "it was interrupted")
        raise
    entry = lives.see(entry, pod)
    verdict = what_to_do(pod, entry, provider.now())
    if verdict.act is Act.TERMINATE:
        lives.end(entry, verdict.reason)
        raise PodError(f"{order.name} was terminated: {verdict.reason}", "see `dure pod gpus`")
    return entry


def _created(lives: PodLives, entry: Entry, spec: PodSpec) -> Pod:
    """Ask for a pod, once. Raises PodError, LostAnswerError."""
    try:
        return lives.provider.create(spec)
    except LostAnswerError as error:
        return _found(lives, entry, error)
    except PodError as error:
        lives.ledger.update(
            entry.label,
            lambda e: replace(e, state=PodState.REFUSED),
            lives.provider.now(),
            "refused",
            error.problem,
        )
        raise


def _found(lives: PodLives, entry: Entry, lost: LostAnswerError) -> Pod:
    """Return the pod of a request whose answer was lost. Raises LostAnswerError if it is not listed."""
    for _ in range(_FINDS):
        try:
            pod = next((p for p in lives.provider.pods() if p.name == entry.label), None)
        except PodError:
            pod = None
        if pod is not None:
            return pod
        lives.wait(_FIND_S)
    _give_up(lives, entry, "its answer was lost")
    raise LostAnswerError(
        f"{lost.problem}; no pod named {entry.label} is listed so far",
        "nothing is asked for twice: if it comes, the guard ends it (`dure pod guard --once`)",
    ) from lost


def _give_up(lives: PodLives, entry: Entry, why: str) -> None:
    """Have the guard end a pod if it comes."""
    lives.ledger.update(
        entry.label, lambda e: replace(e, wanted=Wanted.GONE, note=why), entry.made_at, "lost", why
    )
