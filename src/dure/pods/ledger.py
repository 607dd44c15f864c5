"""The ledger: every pod and network volume that dure made, what happened to it, and its money, in SQLite.

A pod is written down before it is asked for, under a name that no other pod has; so whatever becomes of
the answer, the pod is found again. Only what stands here is ever touched. Holds no secret.
Times are the provider's, in seconds since 1970.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from dure.errors import ResourceError, UsageError
from dure.pods.money import HOUR_S, NOTHING, Disks, Money

__all__ = ["Entry", "Event", "Ledger", "PodLimits", "PodState", "VolumeEntry", "Wanted", "accrued"]

_DAY_H = 24
_TABLES = """
CREATE TABLE IF NOT EXISTS pods (label TEXT PRIMARY KEY, name TEXT, state TEXT, entry BLOB);
CREATE TABLE IF NOT EXISTS volumes (label TEXT PRIMARY KEY, name TEXT, state TEXT, entry BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS one_volume_of_a_name
    ON volumes (name) WHERE state NOT IN ('gone', 'refused');
CREATE TABLE IF NOT EXISTS events (at REAL, label TEXT, kind TEXT, text TEXT);
CREATE TABLE IF NOT EXISTS spending (label TEXT, hour INTEGER, micros INTEGER, PRIMARY KEY (label, hour));
CREATE TABLE IF NOT EXISTS rounds (guard TEXT PRIMARY KEY, at REAL);
CREATE UNIQUE INDEX IF NOT EXISTS one_of_a_name ON pods (name) WHERE state NOT IN ('gone', 'refused');
"""


class PodState(StrEnum):
    """What is known of a pod.

    INTENDED: it may have been asked for, and was not seen. LIVE: it was seen. REFUSED: the provider made
    none. GONE: it was read back that there is none any more.
    """

    INTENDED = "intended"
    LIVE = "live"
    REFUSED = "refused"
    GONE = "gone"

    @property
    def is_over(self) -> bool:
        """Whether it costs nothing any more."""
        return self in {PodState.REFUSED, PodState.GONE}


class Wanted(StrEnum):
    """What a pod should be; the guard repeats an end until it is read back."""

    UP = "up"
    STOPPED = "stopped"
    GONE = "gone"


class PodLimits(msgspec.Struct, frozen=True):
    """Where a pod ends. max_seconds: of one run. max_spend: of its whole life, disks included.

    idle_s: 0 for never. hourly: the price that was shown; a dearer pod is ended.
    """

    max_seconds: int
    max_spend: Money
    idle_s: int
    hourly: Money


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of the ledger.

    label: its name at the provider, which no other pod has. running_since: of the present run. hourly: the
    price that was read last. active_at: when it was last seen to work. armed_at: when the guard in the pod
    was last read to be armed; dies_at is what it said then. door_*: of sshd, as last tried. ssh_key: the
    user's own, if not dure's. awaits_token: a token of Hugging Face is handed to it after each start.
    network_volume: the id of the one that it mounts. public_port: what the provider shows to the world,
    0 for nothing; key_file: where its key is kept.
    """

    name: str
    label: str
    template: str
    gpu: str
    gpus: int
    cloud: str
    disks: Disks
    volume_path: str
    server_port: int
    limits: PodLimits
    made_at: float
    state: PodState = PodState.INTENDED
    wanted: Wanted = Wanted.UP
    pod_id: str = ""
    status: str = ""
    running_since: float = 0.0
    seen_at: float = 0.0
    hourly: Money = NOTHING
    spent: Money = NOTHING
    active_at: float = 0.0
    armed_at: float = 0.0
    dies_at: float = 0.0
    door_host: str = ""
    door_port: int = 0
    door_user: str = "root"
    ssh_key: str = ""
    awaits_token: bool = False
    network_volume: str = ""
    public_port: int = 0
    key_file: str = ""
    note: str = ""


class VolumeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A network volume of the ledger. label: its name at the provider. size: in GB.

    gone_at: when it was read back that there is none.
    """

    name: str
    label: str
    size: int
    data_center: str
    made_at: float = 0.0
    state: PodState = PodState.INTENDED
    volume_id: str = ""
    gone_at: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happened to a pod."""

    at: float
    label: str
    kind: str
    text: str


def accrued(entry: Entry, hourly: Money, at: float) -> Entry:
    """Return an entry with the money from its last sighting until now.

    The dearer of both prices counts, as the change between them may have come at once.
    """
    if at <= entry.seen_at:
        return msgspec.structs.replace(entry, hourly=hourly)
    cost = max(hourly, entry.hourly).over(at - entry.seen_at)
    return msgspec.structs.replace(entry, spent=entry.spent + cost, hourly=hourly, seen_at=at)


class Ledger:
    """The file in a directory; made if there is none. is_writable: False on a full disk, for guards."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger.sqlite3"
        self.is_writable = True
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._open("rwc")
            self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_TABLES}")
            self.path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            if not self.path.exists():
                raise _fault(self.path, error) from error
            self._open_as_it_is(error)

    def _open(self, mode: str) -> None:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        self._db = sqlite3.connect(
            uri, uri=True, timeout=20, isolation_level=None, check_same_thread=False
        )

    def _open_as_it_is(self, reason: Exception) -> None:
        """Read a ledger that cannot be written: pods must end although the disk is full."""
        self.is_writable = False
        for mode in (
            "ro",
            "ro&immutable=1",
        ):  # the second needs no file beside it, which a full disk lacks
            try:
                self._open(mode)
                self._db.execute("SELECT count(*) FROM pods")
                return
            except sqlite3.Error:
                continue
        raise _fault(self.path, reason) from reason

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------ pods

    def intend(
        self,
        entry: Entry,
        allow: Callable[[list[Entry], Money], None] = lambda _living, _lately: None,
    ) -> None:
        """Write down a pod that is about to be asked for.

        allow: gets the other living pods and what was spent lately, and raises what forbids this one; of
        two that ask at once, the second sees the first. Raises UsageError too if one of its name lives,
        ResourceError if it cannot be written.
        """
        try:
            with self._writing() as db:
                allow(self.living(), self.spent_lately(entry.made_at))
                row = (entry.label, entry.name, entry.state, msgspec.json.encode(entry))
                db.execute("INSERT INTO pods VALUES (?, ?, ?, ?)", row)
                _tell(db, Event(entry.made_at, entry.label, "intended", entry.gpu))
        except sqlite3.IntegrityError:
            raise UsageError(
                f"a pod named {entry.name} lives already",
                f"choose another --name, or `dure pod rm {entry.name}` first",
            ) from None

    def update(
        self,
        label: str,
        change: Callable[[Entry], Entry],
        at: float,
        kind: str = "",
        text: str = "",
    ) -> Entry:
        """Change an entry, whoever else does so too, and note why. Return it as it is then.

        Raises ResourceError if it cannot be written.
        """
        with self._writing() as db:
            before = self._one(label)
            after = change(before)
            db.execute(
                "UPDATE pods SET name=?, state=?, entry=? WHERE label=?",
                (after.name, after.state, msgspec.json.encode(after), label),
            )
            if cost := (after.spent - before.spent).micros:
                db.execute(
                    "INSERT INTO spending VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET micros = micros + excluded.micros",
                    (label, int(at // HOUR_S), cost),
                )
            if kind:
                _tell(db, Event(at, label, kind, text))
        return after

    def living(self) -> list[Entry]:
        """Return what may cost something, the oldest first."""
        return [entry for entry in self.all() if not entry.state.is_over]

    def all(self) -> list[Entry]:
        """Return every pod that was ever asked for, the oldest first."""
        rows = self._db.execute("SELECT entry FROM pods ORDER BY rowid")
        return [msgspec.json.decode(row[0], type=Entry) for row in rows]

    def named(self, name: str) -> Entry:
        """Return the living pod of a name. Raises UsageError."""
        living = self.living()
        for entry in living:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in living) or "none"
        raise UsageError(f"there is no pod named {name}", f"choose of these: {names}")

    def _one(self, label: str) -> Entry:
        row = self._db.execute("SELECT entry FROM pods WHERE label=?", (label,)).fetchone()
        assert row is not None, "entries are never deleted"
        return msgspec.json.decode(row[0], type=Entry)

    # ------------------------------------------------------------ network volumes

    def intend_volume(self, entry: VolumeEntry) -> None:
        """Write down a network volume that is about to be asked for.

        Raises UsageError if one of its name lives, ResourceError if it cannot be written.
        """
        try:
            with self._writing() as db:
                row = (entry.label, entry.name, entry.state, msgspec.json.encode(entry))
                db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?)", row)
                _tell(db, Event(entry.made_at, entry.label, "intended", f"{entry.size} GB"))
        except sqlite3.IntegrityError:
            raise UsageError(
                f"a network volume named {entry.name} lives already",
                f"use it, choose another name, or `dure pod volume rm {entry.name}` first",
            ) from None

    def update_volume(
        self,
        label: str,
        change: Callable[[VolumeEntry], VolumeEntry],
        at: float,
        kind: str,
        text: str = "",
    ) -> VolumeEntry:
        """Change the entry of a volume, and note why. Raises ResourceError if it cannot be written."""
        with self._writing() as db:
            row = db.execute("SELECT entry FROM volumes WHERE label=?", (label,)).fetchone()
            after = change(msgspec.json.decode(row[0], type=VolumeEntry))
            db.execute(
                "UPDATE volumes SET state=?, entry=? WHERE label=?",
                (after.state, msgspec.json.encode(after), label),
            )
            _tell(db, Event(at, label, kind, text))
        return after

    def volumes(self) -> list[VolumeEntry]:
        """Return every network volume that was ever asked for, the oldest first."""
        rows = self._db.execute("SELECT entry FROM volumes ORDER BY rowid")
        return [msgspec.json.decode(row[0], type=VolumeEntry) for row in rows]

    # ------------------------------------------------------------ money, events, rounds

    def spent_lately(self, at: float) -> Money:
        """Return the money of all pods in the last 24 hours, whole hours counted."""
        since = int(at // HOUR_S) - _DAY_H
        row = self._db.execute("SELECT sum(micros) FROM spending WHERE hour >= ?", (since,))
        return Money(row.fetchone()[0] or 0)

    def events(self, label: str) -> list[Event]:
        """Return what happened to a pod."""
        rows = self._db.execute(
            "SELECT at, label, kind, text FROM events WHERE label=? ORDER BY rowid", (label,)
        )
        return [Event(*row) for row in rows]

    def note_round(self, guard: str, at: float) -> None:
        """Note that a guard has looked at every pod. at: this machine's time."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO rounds VALUES (?, ?)", (guard, at))

    def last_round(self, guard: str) -> float:
        """Return when a guard last looked, 0 if never."""
        row = self._db.execute("SELECT at FROM rounds WHERE guard=?", (guard,)).fetchone()
        return float(row[0]) if row else 0.0

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write together or not at all. Raises ResourceError."""
        if not self.is_writable:
            raise _fault(self.path, OSError("it is open for reading only"))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.rollback()
                raise
            self._db.commit()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise _fault(self.path, error) from error


def _tell(db: sqlite3.Connection, event: Event) -> None:
    row = (event.at, event.label, event.kind, event.text)
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", row)


def _fault(path: Path, error: Exception) -> ResourceError:
    return ResourceError(
        f"the ledger of pods in {path} cannot be used: {error}",
        "make room on its disk; see https://console.runpod.io/pods for what runs",
    )
