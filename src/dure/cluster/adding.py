"""Machines become nodes over ssh: each is looked at, gets the root's dure, joins, and starts its node.

Knows the steps, in their order, and what each runs on the machine; `planned` says it as values.
Refuses to know how a person is told, and to keep anything: whoever runs it again goes on where it ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from shlex import quote, split
from tempfile import TemporaryDirectory
from typing import Protocol

from dure.cluster.agent import versions
from dure.cluster.door import open_door
from dure.cluster.inspecting import PACKAGES, Facts, inspected, looking
from dure.cluster.joining import JOIN_PORT
from dure.cluster.membership import Cluster, Member
from dure.cluster.package import Package
from dure.cluster.ssh import Answer, Connection, Destination, LoginError, as_typed
from dure.cluster.survey import NodeReport, Nodes
from dure.errors import ClusterError, DureError, UsageError
from dure.hardware.health import Platform

__all__ = [
    "Action",
    "Failure",
    "Outcome",
    "Progress",
    "State",
    "Step",
    "StepError",
    "Wishes",
    "add",
    "destinations",
    "planned",
    "rehearse",
]

AT_ONCE = 32
CODE_S = 900.0
ANSWER_S = 90.0  # a board reads all of Python from its card at the first start
LAST_LINES = 12
_SERVICE_OPTIONS = ("--quota", "--interface")  # of `dure node install`
# llama.cpp's AMX kernels crash when some compilers build them: docs/decisions/0003-no-amx.md
CMAKE_ARGS = "-DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"
COMPILER_BYTES = 1_000_000_000  # what one compiler of llama.cpp may want of memory


class Step(StrEnum):
    """What is done to a machine, in this order."""

    LOG_IN = "log in"
    CHECK = "check"
    INSTALL = "install"
    JOIN = "join"
    SERVICE = "service"
    ANSWER = "answer"


class State(StrEnum):
    """How it ended. joined: all is there, but `dure node` is not started, as was wished."""

    ANSWERS = "answers"
    JOINED = "joined"
    FAILED = "failed"


@dataclass(frozen=True)
class Wishes:
    """What the machines are to become.

    package: what they install. name: of a single machine; "" is its host name. user: whose rights the node
    has where one logs in as root. root: this machine's address as they see it, HOST or HOST:PORT; "" is
    the one from which ssh reaches them. port: of this root's door.
    """

    package: Package
    name: str = ""
    user: str = "dure"
    root: str = ""
    port: int = JOIN_PORT
    service: bool = True
    reinstall: bool = False


class Sends(StrEnum):
    """What a script reads."""

    NOTHING = ""
    PACKAGE = "package"
    CODE = "code"


@dataclass(frozen=True)
class Action:
    """One script that runs on a machine."""

    step: Step
    script: str
    sends: Sends = Sends.NOTHING


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


# ---------------------------------------------------------------- what is to be done


def planned(facts: Facts, wishes: Wishes, wanted: dict[str, str], *, member: bool) -> list[Action]:
    """What a machine still lacks. wanted: the root's versions. member: it belongs to this cluster."""
    actions = []
    if wishes.reinstall or facts.versions != wanted:
        actions += _installing(facts, wishes, wanted)
    if not member:
        actions.append(Action(Step.JOIN, _join_script(facts, wishes), Sends.CODE))
    if wishes.service:
        actions.append(Action(Step.SERVICE, _service_script(facts)))
    return actions


def _installing(facts: Facts, wishes: Wishes, wanted: dict[str, str]) -> list[Action]:
    package, words, actions = wishes.package, wishes.package.words, []
    if facts.is_root and not facts.user_exists:
        home = quote(facts.user_home)
        made = f"useradd --system --create-home --home-dir {home} --shell /usr/sbin/nologin"
        actions.append(Action(Step.INSTALL, f"{made} {quote(facts.user)}"))
    if package.path is not None:
        brought = f"{facts.base}/brought"
        is_archive = package.path.is_dir()
        words = f"{brought}/dure" if is_archive else f"{brought}/{package.file_name}"
        taken = "tar xzf -" if is_archive else f"cat >{quote(package.file_name)}"
        room = quote(brought)
        script = f"umask 022; rm -rf {room} && mkdir -p {room} && cd {room} && {taken}"
        actions.append(Action(Step.INSTALL, script, Sends.PACKAGE))
    script = _install_script(facts, words, wanted, clear=wishes.reinstall)
    return [*actions, Action(Step.INSTALL, script)]


_IS_SAME = """import sys
from importlib.metadata import version
wanted = WANTED
found = {name: version(name) for name in wanted}
sys.exit(f"it got {found}, and the root has {wanted}" if found != wanted else 0)"""


def _install_script(facts: Facts, words: str, wanted: dict[str, str], *, clear: bool) -> str:
    """Compiles below `base`, for /tmp is small memory on many boards, and one at a time."""
    base, jobs = facts.base, max(1, min(facts.cores, facts.memory_bytes // COMPILER_BYTES))
    packages = {PACKAGES[name]: version for name, version in wanted.items()}
    is_same = _IS_SAME.replace("WANTED", repr(packages))
    return f"""set -e
umask 022
mkdir -p {quote(base)}
cd {quote(base)}
if command -v flock >/dev/null; then exec 9>lock; flock 9; fi
rm -rf build && mkdir build
export TMPDIR={quote(base)}/build PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export CMAKE_ARGS={quote(CMAKE_ARGS)} CMAKE_BUILD_PARALLEL_LEVEL={jobs}
{facts.python} -m venv {"--clear " if clear else ""}venv
venv/bin/python -m pip install --progress-bar off {quote(words)}
venv/bin/python -c {quote(is_same)}
rm -rf build brought"""


def _join_script(facts: Facts, wishes: Wishes) -> str:
    name = f" --name {quote(wishes.name)}" if wishes.name else ""
    anew = " --force" if facts.node_name else ""
    join = f"{_dure(facts)} join - --root {quote(_root_for(facts, wishes))}{name}{anew}"
    home = f"env HOME={quote(facts.user_home)} "
    as_user = f"runuser -u {quote(facts.user)} -- {home}" if facts.is_root else ""
    return f"cd / && {as_user}{join}"


def _root_for(facts: Facts, wishes: Wishes) -> str:
    if wishes.root:
        return wishes.root
    return f"{facts.reached_from}:{wishes.port}"


def _service_script(facts: Facts) -> str:
    sudo = "" if facts.is_root else "sudo -n "
    return f"{sudo}{_dure(facts)} node install --user {quote(facts.user)}{_kept(facts.unit)}"


def _kept(unit: str) -> str:
    """The options of a service that is there already, as a person chose them."""
    words = split(unit)
    given = [pair for pair in pairwise(words) if pair[0] in _SERVICE_OPTIONS]
    return "".join(f" {option} {quote(value)}" for option, value in given)


def _dure(facts: Facts) -> str:
    return f"env DURE_NODE_DIR={quote(facts.node_directory)} {quote(facts.base + '/venv/bin/dure')}"


# ---------------------------------------------------------------- doing it


def add(
    cluster: Cluster, hosts: Sequence[Destination], wishes: Wishes, progress: Progress
) -> list[Outcome]:
    """Make nodes of all these machines at once; the door is open meanwhile.

    Raises ResourceError where the door's port is taken. What fails on a machine is in its outcome.
    """
    with (
        open_door(cluster, "0.0.0.0", wishes.port),  # noqa: S104  # who joins shows a code
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
        for (
            connection
        ) in connections:  # closed before the threads are waited for: so Ctrl-C ends them
            stack.callback(connection.close)
        yield directory, connections, threads


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
            path = quote(str(self._wishes.package.path))
            is_tree = self._wishes.package.path.is_dir()
            return f"tar czf - {path} | {typed}" if is_tree else f"{typed} <{path}"
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
            report = self._asked()
            if report.platform is None or report.platform.versions != self._versions:
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
        if action.step == Step.SERVICE and answer.status:
            raise StepError(self._no_service(answer, action, facts))
        self._check(answer, self._cure(action.step, facts))
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
        give_up = time.monotonic() + ANSWER_S
        while (report := self._asked()).problem:
            if time.monotonic() > give_up or self._connection.closed.wait(1.0):
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
        said = [line for line in answer.lines if line.strip()]
        reason = said[-1].removeprefix("dure: ") if said else f"exit status {answer.status}"
        if self._connection.closed.is_set():
            reason, cure = "it was stopped", "the same command goes on"
        raise StepError(Failure(self._step, reason, cure, tuple(said[-LAST_LINES:])))

    def _failed(self, error: DureError) -> Outcome:
        if isinstance(error, StepError):
            failure = error.failure
        elif isinstance(error, LoginError):
            failure = Failure(self._step, error.reason, error.cure, error.lines[-LAST_LINES:])
        else:
            failure = Failure(self._step, str(error), "")
        return Outcome(self._host, State.FAILED, self._node, tuple(self._done), failure=failure)

    def _cure(self, step: Step, facts: Facts) -> str:
        if step == Step.INSTALL:
            return "mend what its lines say, and run the same command again; --from says another package"
        seen = _root_for(facts, self._wishes)
        return (
            f"it must reach this root at {seen}, through both firewalls; --root HOST says another "
            "address, --name OTHER another name"
        )

    def _no_service(self, answer: Answer, action: Action, facts: Facts) -> Failure:
        text = "\n".join(answer.lines)
        by_hand = action.script.replace("sudo -n ", "sudo ", 1)
        typed = as_typed(self._connection.destination, by_hand, terminal=True)
        lines = answer.lines[-LAST_LINES:]
        if "sudo:" in text and ("password" in text or "terminal" in text):
            return Failure(Step.SERVICE, "sudo wants a password there", f"`{typed}`", lines)
        if "sudo" in text and "not found" in text:
            as_root = _service_script(facts).removeprefix("sudo -n ")
            return Failure(Step.SERVICE, "it has no sudo", f"as root on it: `{as_root}`", lines)
        reason = lines[-1].removeprefix("dure: ") if lines else f"exit status {answer.status}"
        return Failure(Step.SERVICE, reason, f"`{typed}` once it is mended; or --no-service", lines)

    def _ssh(self, script: str) -> str:
        return as_typed(self._connection.destination, script)
