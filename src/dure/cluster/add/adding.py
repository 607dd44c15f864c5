"""Machines become nodes over ssh: each is looked at, gets the root's dure, joins, and starts its node.

Knows the order of things, and what each way to fail means; `preparing` decides what is run on a machine.
Refuses to know how a person is told, and to keep anything: whoever runs it again goes on where it ended.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Protocol

from dure.cluster.add.inspecting import Facts, inspected, looking
from dure.cluster.add.preparing import (
    Action,
    Sends,
    Step,
    Wishes,
    planned,
    root_for,
    service_script,
)
from dure.cluster.add.ssh import BROKEN, Answer, Connection, Destination, LoginError, as_typed
from dure.cluster.root.join_server import running_join_server
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.cluster.trust.https_server import listener
from dure.errors import ClusterError, DureError, UsageError
from dure.hardware.health import Platform

__all__ = [
    "Failure",
    "Outcome",
    "Progress",
    "State",
    "StepError",
    "add",
    "destinations",
    "rehearse",
]

AT_ONCE = 32
CODE_S = 900.0
START_S, ANSWER_S = 15.0, 90.0  # a board reads all of Python from its card at the first start
LAST_LINES = 12
_AGAIN = "run the same command again: it goes on"
_INSTALL_CURE = (
    "mend what its lines say, and run the same command again; --from says another package"
)


class State(StrEnum):
    """How it ended. joined: all is there, but `dure node` is not started, as was wished."""

    ANSWERS = "answers"
    JOINED = "joined"
    FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """Why a machine did not get further. lines: the last that it said."""

    step: Step
    reason: str
    cure: str
    lines: tuple[str, ...] = ()


class StepError(ClusterError):
    """A step that failed on a machine."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.step}: {failure.reason}: {failure.cure}")
        self.failure = failure


@dataclass(frozen=True)
class Outcome:
    """How one machine ended. node: its name in the cluster. done: the steps that changed something."""

    host: str
    state: State
    node: str = ""
    done: tuple[Step, ...] = ()
    platform: Platform | None = None
    failure: Failure | None = None


class Progress(Protocol):
    """Is told how it goes; from several threads."""

    def began(self, host: str, step: Step) -> None:
        """A step begins."""

    def said(self, host: str, line: str) -> None:
        """A step's command wrote a line."""

    def ended(self, outcome: Outcome) -> None:
        """A machine is done with."""


def destinations(hosts: Sequence[str], wishes: Wishes) -> list[Destination]:
    """The hosts, each once. Raises UsageError."""
    found = [Destination.parse(host) for host in dict.fromkeys(hosts)]
    if wishes.name and len(found) != 1:
        raise UsageError(
            f"--name {wishes.name} is for one host: leave it out, or add one at a time"
        )
    return found


# ---------------------------------------------------------------- doing it


def add(
    cluster: Cluster, hosts: Sequence[Destination], wishes: Wishes, progress: Progress
) -> list[Outcome]:
    """Make nodes of all these machines at once; the door is open meanwhile.

    Raises ResourceError where the door's port is taken. What fails on a machine is in its outcome.
    """
    with (
        listener("0.0.0.0", wishes.port) as listening,  # noqa: S104  # who joins shows a code
        running_join_server(cluster, listening),
        _at_once(hosts) as (directory, connections, threads),
    ):
        packed = wishes.package.packed(directory) if wishes.package.path is not None else None

        def one(connection: Connection) -> Outcome:
            return _Adding(cluster, wishes, connection, progress, packed).outcome()

        return list(threads.map(one, connections))


def rehearse(
    cluster: Cluster, hosts: Sequence[Destination], wishes: Wishes, progress: Progress
) -> list[tuple[Outcome | None, list[str]]]:
    """Look at the machines, change nothing: how each would end already, else what would be run here."""
    with _at_once(hosts) as (_, connections, threads):

        def one(connection: Connection) -> tuple[Outcome | None, list[str]]:
            return _Adding(cluster, wishes, connection, progress, None).rehearsed()

        return list(threads.map(one, connections))


@contextmanager
def _at_once(
    hosts: Sequence[Destination],
) -> Iterator[tuple[Path, list[Connection], ThreadPoolExecutor]]:
    """A directory that nobody else may enter, a connection for each host, not open yet, and threads."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="dure-")))
        threads = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        connections = [Connection(host, directory / str(n)) for n, host in enumerate(hosts)]
        for connection in connections:
            stack.callback(connection.close)  # before threads are waited for: so Ctrl-C ends them
        yield directory, connections, threads


def _last(answer: Answer) -> str:
    """What a command that failed said at the end."""
    said = [line for line in answer.lines if line.strip()]
    return said[-1].removeprefix("dure: ") if said else f"exit status {answer.status}"


def _listens(member: Member) -> bool:
    """Whether the agent's port is open: quicker to know than who answers there."""
    try:
        socket.create_connection((member.host, member.port), 1.0).close()
    except OSError:
        return False
    return True


class _Adding:
    """One machine on its way."""

    def __init__(
        self,
        cluster: Cluster,
        wishes: Wishes,
        connection: Connection,
        progress: Progress,
        packed: Path | None,
    ) -> None:
        self._cluster, self._wishes, self._connection = cluster, wishes, connection
        self._progress, self._packed = progress, packed
        self._host, self._versions = connection.destination.text, versions()
        self._step, self._done, self._node = Step.LOG_IN, list[Step](), ""

    def outcome(self) -> Outcome:
        """Do all that is to be done; a failure is an outcome too."""
        try:
            ended = self._whole()
        except DureError as error:
            ended = self._failed(error)
        finally:
            self._connection.close()
        self._progress.ended(ended)
        return ended

    def rehearsed(self) -> tuple[Outcome | None, list[str]]:
        """How it would end without doing anything, else what would be done."""
        try:
            facts, member, ready = self._looked()
            if ready is not None:
                return ready, []
            actions = planned(facts, self._wishes, self._versions, member=member is not None)
            return None, [self._typed(action) for action in actions]
        except DureError as error:
            return self._failed(error), []
        finally:
            self._connection.close()

    def _typed(self, action: Action) -> str:
        typed = as_typed(self._connection.destination, action.script)
        if action.sends == Sends.PACKAGE:
            assert self._wishes.package.path is not None
            if self._wishes.package.path.is_dir():
                return f"{typed}  # reads an archive of {self._wishes.package.path}"
            return f"{typed} <{quote(str(self._wishes.package.path))}"
        return f"{typed}  # reads a new code" if action.sends == Sends.CODE else typed

    def _whole(self) -> Outcome:
        facts, member, ready = self._looked()
        if ready is not None:
            return ready
        actions = planned(facts, self._wishes, self._versions, member=member is not None)
        last = {action.step: action for action in actions}
        for action in actions:
            self._act(action, facts)
            if action is last[action.step]:
                self._done.append(action.step)
        if not self._wishes.service:
            return Outcome(self._host, State.JOINED, self._node, tuple(self._done))
        self._begin(Step.ANSWER)
        return self._answers(self._answered())

    def _looked(self) -> tuple[Facts, Member | None, Outcome | None]:
        """What the machine is, who it is in this cluster, and how it ends where nothing is to be done."""
        self._begin(Step.LOG_IN)
        self._connection.open()
        self._begin(Step.CHECK)
        said = self._connection.run(looking(self._wishes.user))
        self._check(said, f"`{self._ssh('uname')}` must work")
        facts = inspected(said.lines)
        if trouble := facts.trouble():
            raise StepError(Failure(Step.CHECK, *trouble))
        if ":" in facts.reached_from and not self._wishes.root:
            reason = "ssh reaches it over IPv6, and a cluster's machines talk over IPv4"
            raise StepError(Failure(Step.CHECK, reason, "--root says this machine's IPv4 address"))
        member = facts.member_of(self._cluster)
        if member is None and facts.node_name and not facts.is_of(self._cluster):
            reason = f"it is {facts.node_name} of another cluster, {facts.node_cluster}"
            cure = f"where that is over, `{self._ssh(f'rm -r {quote(facts.node_directory)}')}`"
            raise StepError(Failure(Step.CHECK, reason, cure))
        self._node = member.name if member else ""
        return facts, member, self._ready(member)

    def _ready(self, member: Member | None) -> Outcome | None:
        if member is None or self._wishes.reinstall:
            return None
        report = self._asked()
        is_same = report.platform is not None and report.platform.versions == self._versions
        return self._answers(report) if is_same else None

    def _act(self, action: Action, facts: Facts) -> None:
        self._begin(action.step)
        sends: bytes | Path | None = self._packed if action.sends == Sends.PACKAGE else None
        if action.sends == Sends.CODE:
            sends = f"{self._cluster.invite(CODE_S)}\n".encode()
        answer = self._connection.run(action.script, sends, self._said)
        if answer.status and not self._connection.closed.is_set():
            if answer.status == BROKEN:
                lines = answer.lines[-LAST_LINES:]
                raise StepError(Failure(action.step, "the line to it broke", _AGAIN, lines))
            if action.step == Step.JOIN:
                raise StepError(self._not_joined(answer, facts))
            if action.step == Step.SERVICE:
                raise StepError(self._no_service(answer, action, facts))
        self._check(answer, _INSTALL_CURE)
        if action.step == Step.JOIN:
            self._node = self._joined(facts)

    def _joined(self, facts: Facts) -> str:
        """The name under which it joined."""
        again = inspected(self._connection.run(looking(self._wishes.user)).lines)
        member = again.member_of(self._cluster)
        if member is None:
            reason = "it says that it joined, but its certificate is not this cluster's"
            cure = f"look at {facts.node_directory} on it"
            raise StepError(Failure(Step.JOIN, reason, cure))
        return member.name

    def _asked(self) -> NodeReport:
        return Nodes(self._cluster).survey([self._cluster.member(self._node)])[0]

    def _answered(self) -> NodeReport:
        began = time.monotonic()
        while not _listens(self._cluster.member(self._node)):
            if time.monotonic() > began + START_S or self._connection.closed.wait(0.2):
                break
        while (report := self._asked()).problem:
            if time.monotonic() > began + ANSWER_S or self._connection.closed.wait(1.0):
                log = self._connection.run("journalctl -u dure-node -n 12 --no-pager -o cat")
                cure = (
                    f"does its firewall let this root reach port {report.member.port}? What it says: "
                    f"`{self._ssh('journalctl -u dure-node -n 50')}`"
                )
                raise StepError(Failure(Step.ANSWER, report.problem, cure, log.lines[-LAST_LINES:]))
        return report

    def _answers(self, report: NodeReport) -> Outcome:
        return Outcome(
            self._host, State.ANSWERS, report.member.name, tuple(self._done), report.platform
        )

    # ------------------------------------------------------------ telling

    def _begin(self, step: Step) -> None:
        if self._step != step or step == Step.LOG_IN:
            self._progress.began(self._host, step)
        self._step = step

    def _said(self, line: str) -> None:
        self._progress.said(self._host, line)

    def _check(self, answer: Answer, cure: str) -> None:
        """Raises StepError where a command failed."""
        if answer.status == 0:
            return
        reason = _last(answer)
        if self._connection.closed.is_set():
            reason, cure = "it was stopped", _AGAIN
        raise StepError(Failure(self._step, reason, cure, answer.lines[-LAST_LINES:]))

    def _failed(self, error: DureError) -> Outcome:
        if isinstance(error, StepError):
            failure = error.failure
        elif isinstance(error, LoginError):
            failure = Failure(self._step, error.reason, error.cure, error.lines[-LAST_LINES:])
        else:
            failure = Failure(self._step, str(error), "")
        return Outcome(self._host, State.FAILED, self._node, tuple(self._done), failure=failure)

    def _not_joined(self, answer: Answer, facts: Facts) -> Failure:
        lines = answer.lines[-LAST_LINES:]
        reason = _last(answer)
        if "does not answer" in reason:
            return Failure(
                Step.JOIN,
                f"it does not reach this root at {root_for(facts, self._wishes)}",
                "let it through this machine's firewall, or say another address of it with --root HOST",
                lines,
            )
        if "is there already" in reason:
            cure = (
                "add it alone with --name OTHER, or remove the other one with `dure cluster remove`"
            )
            reason = reason.partition(" refuses: ")[2].partition(":")[0]
            return Failure(Step.JOIN, reason, cure, lines)
        return Failure(Step.JOIN, reason, "`dure cluster events` tells what was refused", lines)

    def _no_service(self, answer: Answer, action: Action, facts: Facts) -> Failure:
        text = "\n".join(answer.lines)
        by_hand = action.script.replace("sudo -n ", "sudo ", 1)
        typed = as_typed(self._connection.destination, by_hand, terminal=True)
        lines = answer.lines[-LAST_LINES:]
        if "sudo:" in text and any(word in text for word in ("password", "terminal", "tty")):
            return Failure(Step.SERVICE, "sudo wants a password there", f"`{typed}`", lines)
        if "sudo" in text and "not found" in text:
            as_root = service_script(facts).removeprefix("sudo -n ")
            return Failure(Step.SERVICE, "it has no sudo", f"as root on it: `{as_root}`", lines)
        return Failure(
            Step.SERVICE, _last(answer), f"`{typed}` once it is mended; or --no-service", lines
        )

    def _ssh(self, script: str) -> str:
        return as_typed(self._connection.destination, script)
