"""Who belongs to the cluster: what the root stores of its nodes and invitations.

Knows one directory: the authority, the root's own credentials, `cluster.json`, `events.jsonl`.
Refuses to know the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
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
    *("cluster.json", "events.jsonl", "speeds.json", ".lock"),
)
FORGET_INVITATIONS_S = 30 * 86400.0  # after they expired: until then it is said why a code fails


class NameTakenError(UsageError):
    """A machine wants to join under a name that a node has already."""


class Member(msgspec.Struct, frozen=True):
    """A node. host, port: of its agent. serial: of its certificate. joined: when, since 1970."""

    name: str
    host: str
    port: int
    serial: int
    joined: float


class _ClusterRecord(msgspec.Struct):
    name: str
    members: dict[str, Member] = {}
    invitations: list[Invitation] = []
    revoked: list[int] = []


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
        members = self._read().members
        if name not in members:
            names = ", ".join(sorted(members)) or "none yet"
            raise UsageError(f"no node is called {name!r}", f"there are {names}")
        return members[name]

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
            if name in state.members or name == ROOT_NAME:
                raise NameTakenError(
                    f"a node called {name} is there already",
                    f"join with --name OTHER, or first `dure cluster remove {name}` on the root",
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

    def check_free(self, name: str) -> None:
        """Raise UsageError if this can be no node's name, NameTakenError if it is one's."""
        check_name(name)
        if name in self._read().members or name == ROOT_NAME:
            raise NameTakenError(f"a node called {name} is there already", "choose another name")

    def rename(self, name: str, renamed: Member) -> None:
        """Store that a node has another name, and revoke the certificate that it had before."""
        with self._changing() as state:
            state.revoked.append(state.members[name].serial)
            write_whole(self.revocations, self.authority.revocations(state.revoked))
            members = [renamed if m.name == name else m for m in state.members.values()]
            state.members = {member.name: member for member in members}
        self.events.add("renamed", node=renamed.name, before=name)

    def delete(self) -> None:
        """Delete what is stored of the cluster, its keys first, and nothing else. Raises OSError."""
        for name in _FILES:
            (self.directory / name).unlink(missing_ok=True)
        shutil.rmtree(self.directory / "jobs", ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody keeps other things there
            self.directory.rmdir()

    def remove(self, name: str) -> Member:
        """Revoke a node's certificate and forget it. Raises UsageError if there is no such node."""
        member = self.member(name)
        with self._changing() as state:
            state.revoked.append(member.serial)
            write_whole(self.revocations, self.authority.revocations(state.revoked))
            del state.members[name]
        self.events.add("removed", node=name)
        return member

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
