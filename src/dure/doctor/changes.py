"""Changes settings of machines so that every change can be undone: what was is written down first.

Knows one file. A process that is killed between two lines leaves a change that `undo` takes back: a setting
that was not changed yet is left alone. Refuses to know which values are good.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dure.doctor.finding import SettingValue
from dure.errors import BusyError, DureError, ResourceError
from dure.hardware.settings import Settings, is_set
from dure.whole_file import write_whole

__all__ = ["HERE", "ChangeJournal", "ChangedSetting", "MachineChange", "Undone", "apply", "undo"]

HERE = ""  # the name of this machine in the file


class ChangedSetting(msgspec.Struct, frozen=True):
    """A setting: what it was, what it should be, and what it was then; None if nobody has seen that."""

    setting: str
    before: str
    wanted: str
    after: str | None = None


class MachineChange(msgspec.Struct, frozen=True):
    """What was changed for one finding. machine: its name, `HERE` for this one. time: since 1970."""

    check: str
    what: str
    settings: list[ChangedSetting]
    time: float
    machine: str = HERE


class _ChangesRecord(msgspec.Struct):
    changes: list[MachineChange] = []


@dataclass(frozen=True)
class Undone:
    """What became of a change. left_alone: settings that somebody else has changed since."""

    change: MachineChange
    restored: tuple[str, ...]
    left_alone: tuple[str, ...]


class ChangeJournal:
    """Keep the changes that can be undone, oldest first, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let one process at a time change machines. Raises BusyError, ResourceError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._path.with_suffix(".lock").open("w")
        except OSError as error:
            raise self._unusable("written", error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BusyError("another doctor is changing settings now") from None
            yield

    def read(self) -> list[MachineChange]:
        """Return the changes, oldest first. Raises ResourceError."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_ChangesRecord).changes
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            raise self._unusable("read", error) from error

    def write(self, changes: Sequence[MachineChange]) -> None:
        """Replace all changes. Raises ResourceError."""
        data = msgspec.json.format(msgspec.json.encode(_ChangesRecord(list(changes))))
        try:
            write_whole(self._path, data)
        except OSError as error:
            raise self._unusable("written", error) from error

    def _unusable(self, done: str, error: Exception) -> ResourceError:
        reason = getattr(error, "strerror", None) or error
        return ResourceError(
            f"{self._path} cannot be {done} ({reason})", "make room or mend it, or delete it"
        )


def apply(
    settings: Settings,
    journal: ChangeJournal,
    check: str,
    what: str,
    wanted: Sequence[SettingValue],
    machine: str = HERE,
) -> MachineChange:
    """Change settings for a finding; if one cannot be changed, all are as before. Raises DureError."""
    known = [ChangedSetting(one.setting, settings.read(one.setting), one.value) for one in wanted]
    change = MachineChange(check, what, known, time.time(), machine)
    earlier = journal.read()
    journal.write([*earlier, change])
    try:
        changed = [_changed(settings, one) for one in known]
    except DureError:
        undo({machine: settings}.__getitem__, journal, change)
        raise
    change = msgspec.structs.replace(change, settings=changed)
    journal.write([*earlier, change])
    return change


def _changed(settings: Settings, one: ChangedSetting) -> ChangedSetting:
    settings.write(one.setting, one.wanted)
    return msgspec.structs.replace(one, after=settings.read(one.setting))


def undo(
    settings_of: Callable[[str], Settings], journal: ChangeJournal, change: MachineChange
) -> Undone:
    """Take one change back, and forget it; what somebody else has changed since stays. Raises DureError.

    settings_of: returns those of a machine.
    """
    settings, restored, left_alone = settings_of(change.machine), list[str](), list[str]()
    for one in reversed(change.settings):
        now = settings.read(one.setting)
        if now == one.before:
            continue
        if now == one.after or is_set(now, one.wanted):
            settings.write(one.setting, one.before)
            restored.append(one.setting)
        else:
            left_alone.append(one.setting)
    journal.write([other for other in journal.read() if other != change])
    return Undone(change, tuple(restored), tuple(left_alone))
