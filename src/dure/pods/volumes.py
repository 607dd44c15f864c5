"""Network volumes: made once, found by name or id, and deleted only if the ledger has made them.

No guard ends one, as it holds files that nothing else has; it is billed until it is deleted. So its price
is told wherever pods are listed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from dure.errors import UsageError
from dure.pods.ledger import Ledger, PodState, VolumeEntry
from dure.pods.life import pauses
from dure.pods.money import NOTHING, Disks, Money
from dure.pods.names import checked_name, new_label
from dure.pods.provider import LostAnswerError, NetworkVolume, PodError, PodProvider

__all__ = ["SeenVolume", "Volumes", "month_of", "volume_cost"]

_READ_BACK_S = 60.0
_FINDS_S = 30.0
_CENTERS = "https://docs.runpod.io/references/data-centers"


def month_of(size: int) -> Money:
    """Return what some GB cost a month, whether a pod uses them or not."""
    return Disks(0, 0, size).network_month


def volume_cost(entry: VolumeEntry, now: float) -> Money:
    """Return what a volume has cost, from when it was asked for until it was read back as gone."""
    if entry.state is PodState.REFUSED:
        return NOTHING
    return Disks(0, 0, entry.size).network_hourly.over((entry.gone_at or now) - entry.made_at)


@dataclass(frozen=True)
class SeenVolume:
    """A volume of the account. entry: None if the ledger has not made it."""

    volume: NetworkVolume
    entry: VolumeEntry | None

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.entry.name if self.entry else self.volume.name


class Volumes:
    """The network volumes of an account. wait: how a pause is made."""

    def __init__(
        self, provider: PodProvider, ledger: Ledger, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._provider, self._ledger, self._wait = provider, ledger, wait

    def seen(self) -> list[SeenVolume]:
        """List all of the account, and write down what became of ours. Raises PodError."""
        listed = self._provider.network_volumes()
        by_label = {volume.name: volume for volume in listed}
        ours: dict[str, VolumeEntry] = {}
        for entry in self._ledger.volumes():
            volume = by_label.get(entry.label)
            if volume is not None and (entry.state, entry.volume_id) != (PodState.LIVE, volume.id):
                entry = self._found(entry, volume)  # noqa: PLW2901  # as it is now
            if volume is not None:
                ours[volume.id] = entry
        return [SeenVolume(volume, ours.get(volume.id)) for volume in listed]

    def chosen(self, name_or_id: str) -> SeenVolume:
        """Return the volume of a name or an id. Raises UsageError if there is none, or several."""
        every = self.seen()
        for found in (
            [seen for seen in every if seen.volume.id == name_or_id],
            [seen for seen in every if seen.entry and seen.entry.name == name_or_id],
            [seen for seen in every if seen.volume.name == name_or_id],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                ids = ", ".join(seen.volume.id for seen in found)
                raise UsageError(
                    f"several network volumes are named {name_or_id}", f"give an id: {ids}"
                )
        names = ", ".join(f"{seen.name} ({seen.volume.id})" for seen in every) or "none"
        raise UsageError(
            f"there is no network volume {name_or_id}",
            f"choose of these: {names}; or `dure pod volume create {name_or_id}`",
        )

    def create(self, name: str, size: int, data_center: str) -> VolumeEntry:
        """Make a volume, once. size: GB.

        Raises UsageError if one of its name lives, PodError if there is none, LostAnswerError if there may
        be one that is not listed yet.
        """
        entry = self.planned(name, size, data_center)
        self._provider.network_volumes()  # the key is accepted, and the provider's time is known
        entry = replace(entry, made_at=self._provider.now())
        self._ledger.intend_volume(entry)
        try:
            made = self._provider.create_network_volume(entry.label, size, data_center)
        except LostAnswerError as error:
            made = self._listed(entry, error)
        except PodError as error:
            self._change(entry, PodState.REFUSED, error.problem)
            if error.status in {400, 422}:
                raise PodError(
                    error.problem,
                    f"choose another --data-center of {_CENTERS}, or a smaller --size",
                    status=error.status,
                ) from error
            raise
        return self._found(entry, made)

    @staticmethod
    def planned(name: str, size: int, data_center: str) -> VolumeEntry:
        """Return the entry of a volume that somebody wants. Raises UsageError."""
        if not 10 <= size <= 4096:
            raise UsageError(f"--size {size}", "give 10 to 4096 GB")
        return VolumeEntry(
            name=checked_name("", name), label=new_label(name), size=size, data_center=data_center
        )

    def deletable(self, name: str) -> VolumeEntry:
        """Return a volume that may be deleted.

        Raises UsageError if the ledger has not made it, or a pod uses it.
        """
        self.seen()
        living = [entry for entry in self._ledger.volumes() if not entry.state.is_over]
        found = [e for e in living if name in {e.name, e.volume_id}]
        if not found:
            names = ", ".join(entry.name for entry in living) or "none"
            raise UsageError(
                f"dure has made no network volume {name} here",
                f"choose of these: {names}; others are deleted at https://console.runpod.io/user/storage",
            )
        users = [
            e.name for e in self._ledger.living() if e.network_volume == found[0].volume_id != ""
        ]
        if users:
            raise UsageError(
                f"{name} is used by {', '.join(users)}", f"end that first: `dure pod rm {users[0]}`"
            )
        return found[0]

    def delete(self, entry: VolumeEntry) -> VolumeEntry:
        """Delete a volume, and read back until it is gone. Raises PodError if it is still there."""
        if not entry.volume_id:
            raise PodError(
                f"{entry.name} was asked for, and is not listed yet",
                "look again: `dure pod volume ls`",
            )
        self._provider.delete_network_volume(entry.volume_id)
        for pause_s in pauses(_READ_BACK_S):
            if all(v.id != entry.volume_id for v in self._provider.network_volumes()):
                return self._change(entry, PodState.GONE, "")
            self._wait(pause_s)
        raise PodError(
            f"{entry.name} ({entry.volume_id}) was told to go, and is still there: it costs "
            f"{month_of(entry.size)} a month",
            "try again, and see https://console.runpod.io/user/storage",
        )

    def _listed(self, entry: VolumeEntry, lost: LostAnswerError) -> NetworkVolume:
        """Return the volume of a request whose answer was lost. Raises LostAnswerError."""
        for pause_s in pauses(_FINDS_S):
            try:
                for volume in self._provider.network_volumes():
                    if volume.name == entry.label:
                        return volume
            except PodError:
                pass  # asked again below
            self._wait(pause_s)
        raise LostAnswerError(
            f"{lost.problem}; no volume named {entry.label} is listed so far",
            "nothing is asked for twice: see `dure pod volume ls` later, and delete it if it comes",
        ) from lost

    def _found(self, entry: VolumeEntry, volume: NetworkVolume) -> VolumeEntry:
        return self._ledger.update_volume(
            entry.label,
            lambda e: replace(
                e, state=PodState.LIVE, volume_id=volume.id, size=volume.size, gone_at=0.0
            ),
            self._provider.now(),
            "volume",
            volume.id,
        )

    def _change(self, entry: VolumeEntry, state: PodState, text: str) -> VolumeEntry:
        at = self._provider.now()
        return self._ledger.update_volume(
            entry.label, lambda e: replace(e, state=state, gone_at=at), at, state, text
        )
