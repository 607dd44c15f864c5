"""Who belongs to the cluster: what the root stores of its nodes and invitations.

Knows one directory: the authority, the root's own credentials, `cluster.json`, `events.jsonl`.
Refuses to know the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from dure.cluster.root.events import EventLog
from dure.cluster.trust.identity import (
    ROOT_NAME,
    Authority,
    Credentials,
    check_name,
    new_request,
)
from dure.cluster.trust.invitation import Code, Invitation, redeem
from dure.errors import ClusterError, UsageError
from dure.processes import Moment
from dure.whole_file import write_whole

__all__ = ["Cluster", "Member", "NameTakenError"]

_FILES = (
    *("authority.key.pem", "key.pem", "certificate.pem", "authority.pem", "revoked.pem"),
    *("cluster.json", "events.jsonl", "speeds.json", "corrections.json", ".lock"),
)
FORGET_INVITATIONS_S = 30 * 86400.0  # after they expired: until then it is said why a code fails


class NameTakenError(UsageError):
    """A machine wants to join under a name that a node has already."""


class Renaming(msgspec.Struct, frozen=True):
    """The name that a node is being given. serial: of its certificate for it, which the node may have."""

    name: str
    serial: int


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node. host, port: of its agent. serial: of its certificate. joined: when, since 1970.

    renaming: was begun, and is not known to be done.
    """

    name: str
    host: str
    port: int
    serial: int
    joined: float
    renaming: Renaming | None = None

    @property
    def renamed(self) -> Member:
        """What the node is once its renaming is done."""
        assert self.renaming is not None, "it was begun"
        name, serial = self.renaming.name, self.renaming.serial
        return msgspec.structs.replace(self, name=name, serial=serial, renaming=None)

    @property
    def serials(self) -> list[int]:
        """Those of all certificates that the node may have."""
        return [self.serial, *([self.renaming.serial] if self.renaming else [])]


class _ClusterRecord(msgspec.Struct):
    name: str
    members: dict[str, Member] = {}
    invitations: list[Invitation] = []
    revoked: list[int] = []

    def member(self, name: str) -> Member:
        """Return the node of this name. Raises UsageError that names the nodes there are."""
        if name not in self.members:
            names = ", ".join(sorted(self.members)) or "none yet"
            raise UsageError(f"no node is called {name!r}", f"there are {names}")
        return self.members[name]

    def check_free(self, name: str, cure: str, *, but: str = "") -> None:
        """Raise UsageError if this can be no node's name, NameTakenError if it is one's, or will be.

        but: a node that may be renamed to it already.
        """
        check_name(name)
        coming = {m.renaming.name for m in self.members.values() if m.renaming and m.name != but}
        if name in {ROOT_NAME, *self.members, *coming}:
            raise NameTakenError(f"a node called {name} is there already", cure)


class Cluster:
    """Store who belongs to one cluster. Raises ClusterError if there is none in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events = EventLog(directory / "events.jsonl")
        self.authority = Authority(directory)
        self.credentials = Credentials(directory)
        self._read()

    @classmethod
    def create(cls, directory: Path, name: str) -> Cluster:
        """Make a cluster. Raises UsageError if the directory holds one already."""
        check_name(name)
        if (directory / "cluster.json").exists():
            raise UsageError(
                f"{directory} holds a cluster already",
                "`dure cluster status` shows it; another one needs another directory "
                "(DURE_CLUSTER_DIR)",
            )
        authority = Authority.create(directory, name)
        key, request = new_request(ROOT_NAME)
        certificate, _ = authority.sign(request, ROOT_NAME, asks=True)
        Credentials(directory).write(key, certificate, authority.pem)
        write_whole(directory / "revoked.pem", authority.revocations([]))
        write_whole(directory / "cluster.json", _encoded(_ClusterRecord(name)))
        cluster = cls(directory)
        cluster.events.add("cluster_created", name=name)
        return cluster

    # ------------------------------------------------------------ reading

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._read().name

    @property
    def members(self) -> list[Member]:
        """The nodes, in the order in which they joined."""
        return list(self._read().members.values())

    def member(self, name: str) -> Member:
        """Return the node of this name. Raises UsageError that names the nodes there are."""
        return self._read().member(name)

    @property
    def revocations(self) -> Path:
        """The file with the signed list of revoked certificates (PEM)."""
        return self.directory / "revoked.pem"

    # ------------------------------------------------------------ changing

    def invite(self, valid_s: float) -> Code:
        """Make a code, good for one machine and valid_s seconds."""
        code, now = Code.new(self.authority.fingerprint), Moment.now()
        with self._changing() as state:
            state.invitations = [
                i for i in state.invitations if not i.end.after(FORGET_INVITATIONS_S).has_come(now)
            ]
            state.invitations.append(Invitation.until(now.after(valid_s), code.digest))
        self.events.add("invited", valid_s=valid_s)
        return code

    def join(self, secret: str, name: str, request: bytes, host: str, port: int) -> bytes:
        """Take in a machine that shows a code's secret; return its certificate (PEM).

        Raises CodeRefusedError if the code is not good, NameTakenError if the name is taken, UsageError if
        name or request are bad. Nothing has changed then.
        """
        check_name(name)
        now = Moment.now()
        with self._changing() as state:
            redeem(state.invitations, secret, name, now)
            state.check_free(
                name, f"join with --name OTHER, or first `dure cluster remove {name}` on the root"
            )
            certificate, serial = self.authority.sign(request, name)
            state.members[name] = Member(name, host, port, serial, now.time)
        self.events.add("joined", node=name, host=host, port=port)
        return certificate

    def move(self, name: str, host: str, port: int) -> None:
        """Store that a node answers at another address now."""
        with self._changing() as state:
            member = state.members.get(name)
            if member is not None:
                state.members[name] = msgspec.structs.replace(member, host=host, port=port)
        self.events.add("moved", node=name, host=host, port=port)

    def begin_rename(self, name: str, new: str, request: bytes) -> bytes:
        """Store that a node is being renamed; return its certificate for the new name (PEM).

        Raises UsageError if there is no such node, or the name or the request are bad, NameTakenError if
        the name is taken. Nothing has changed then.
        """
        with self._changing() as state:
            member = state.member(name)
            state.check_free(new, "choose another name", but=name)
            certificate, serial = self.authority.sign(request, new)
            if member.renaming:
                self._revoke(state, [member.renaming.serial])
            renaming = Renaming(new, serial)
            state.members[name] = msgspec.structs.replace(member, renaming=renaming)
        return certificate

    def finish_rename(self, name: str) -> None:
        """Store that a node has the name that it was being given, and revoke the certificate of before.

        Raises UsageError if there is no such node any more.
        """
        with self._changing() as state:
            member = state.member(name)
            self._revoke(state, [member.serial])
            members = [m.renamed if m.name == name else m for m in state.members.values()]
            state.members = {one.name: one for one in members}
        self.events.add("renamed", node=member.renamed.name, before=name)

    def delete(self) -> None:
        """Delete what is stored of the cluster, its keys first, and nothing else. Raises OSError."""
        for name in _FILES:
            (self.directory / name).unlink(missing_ok=True)
        shutil.rmtree(self.directory / "jobs", ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody keeps other things there
            self.directory.rmdir()

    def remove(self, name: str) -> Member:
        """Revoke a node's certificate and forget it. Raises UsageError if there is no such node."""
        with self._changing() as state:
            member = state.member(name)
            self._revoke(state, member.serials)
            del state.members[name]
        self.events.add("removed", node=name)
        return member

    def _revoke(self, state: _ClusterRecord, serials: Iterable[int]) -> None:
        state.revoked.extend(serials)
        write_whole(self.revocations, self.authority.revocations(state.revoked))

    # ------------------------------------------------------------ the file

    def _read(self) -> _ClusterRecord:
        try:
            return msgspec.json.decode(
                (self.directory / "cluster.json").read_bytes(), type=_ClusterRecord
            )
        except (OSError, msgspec.MsgspecError) as error:
            raise ClusterError(
                f"{self.directory / 'cluster.json'} cannot be read ({error})",
                "bring it back from a copy, or begin anew with `dure cluster init` in another "
                "directory (DURE_CLUSTER_DIR)",
            ) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_ClusterRecord]:
        """Yield the record, and write it if the block ends well; one process at a time."""
        with (self.directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            yield state
            write_whole(self.directory / "cluster.json", _encoded(state))


def _encoded(state: _ClusterRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state))
