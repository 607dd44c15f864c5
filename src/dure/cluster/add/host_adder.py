"""One machine on its way to be a node, over one ssh connection: check, install, join, start, answer.

Knows the order of the steps. `preparing` decides what is run on the machine, `failures` what a failure
means. Refuses to store anything: whoever runs it again goes on where it ended.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from shlex import quote

from dure.cluster.add import failures
from dure.cluster.add.failures import StepError
from dure.cluster.add.inspecting import HostFacts, host_facts, inspection_script
from dure.cluster.add.outcome import AddProgress, Outcome, OutcomeState
from dure.cluster.add.preparing import (
    AddOptions,
    AddScript,
    AddStep,
    ScriptInput,
    planned,
    root_for,
)
from dure.cluster.add.ssh import BROKEN, SshConnection, SshReply, as_typed
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.errors import DureError

__all__ = ["HostAdder"]

CODE_S = 900.0  # how long the machine's code is good
START_S, ANSWER_S = 15.0, 90.0  # a board reads all of Python from its card at the first start


class HostAdder:
    """Make a node of one machine, or find out what that would take. Use it once.

    packed: the package that is sent to it, None if nothing is sent.
    """

    def __init__(
        self,
        cluster: Cluster,
        options: AddOptions,
        connection: SshConnection,
        progress: AddProgress,
        packed: Path | None,
    ) -> None:
        self._cluster, self._options, self._connection = cluster, options, connection
        self._progress, self._packed = progress, packed
        self._destination = connection.destination
        self._host, self._versions = connection.destination.text, versions()
        self._step, self._done, self._node = AddStep.LOG_IN, list[AddStep](), ""

    def outcome(self) -> Outcome:
        """Do all that is to be done; a failure is an outcome too."""
        try:
            ended = self._added()
        except DureError as error:
            ended = self._failed(error)
        finally:
            self._connection.close()
        self._progress.ended(ended)
        return ended

    def rehearsed(self) -> tuple[Outcome | None, list[str]]:
        """Return how it would end without doing anything, or else what would be done."""
        try:
            facts, member, ready = self._inspected()
            if ready is not None:
                return ready, []
            scripts = planned(facts, self._options, self._versions, member=member is not None)
            return None, [self._typed(script) for script in scripts]
        except DureError as error:
            return self._failed(error), []
        finally:
            self._connection.close()

    def _typed(self, script: AddScript) -> str:
        typed, package = as_typed(self._destination, script.script), self._options.package
        if script.sends == ScriptInput.PACKAGE:
            assert package.path is not None
            if package.path.is_dir():
                return f"{typed}  # reads an archive of {package.path}"
            return f"{typed} <{quote(str(package.path))}"
        return f"{typed}  # reads a new code" if script.sends == ScriptInput.CODE else typed

    def _added(self) -> Outcome:
        facts, member, ready = self._inspected()
        if ready is not None:
            return ready
        scripts = planned(facts, self._options, self._versions, member=member is not None)
        last = {script.step: script for script in scripts}
        for script in scripts:
            self._run(script, facts)
            if script is last[script.step]:
                self._done.append(script.step)
        if not self._options.service:
            return Outcome(self._host, OutcomeState.JOINED, self._node, tuple(self._done))
        self._begin(AddStep.ANSWER)
        return self._answering(self._answer())

    # ------------------------------------------------------------ checking

    def _inspected(self) -> tuple[HostFacts, Member | None, Outcome | None]:
        """Return what the machine is, which member it is, and how it ended if nothing is to be done."""
        self._begin(AddStep.LOG_IN)
        self._connection.open()
        self._begin(AddStep.CHECK)
        reply = self._inspect()
        self._check(reply, failures.login_check_cure(self._destination))
        facts = host_facts(reply.lines)
        if error := failures.unfit(facts, root_is_named=bool(self._options.root)):
            raise error
        member = facts.member_of(self._cluster)
        if member is None and facts.node_name and not facts.is_of(self._cluster):
            raise failures.node_of_others(facts, self._destination)
        self._node = member.name if member else ""
        return facts, member, self._ready(member)

    def _inspect(self) -> SshReply:
        return self._connection.run(inspection_script(self._options.user))

    def _ready(self, member: Member | None) -> Outcome | None:
        """Return the outcome of a machine that is a node already and has the root's versions."""
        if member is None or self._options.reinstall:
            return None
        report = self._surveyed()
        is_same = report.platform is not None and report.platform.versions == self._versions
        return self._answering(report) if is_same else None

    # ------------------------------------------------------------ changing

    def _run(self, script: AddScript, facts: HostFacts) -> None:
        self._begin(script.step)
        reply = self._connection.run(script.for_program, self._input_of(script), self._printed)
        if reply.status and not self._connection.closed.is_set():
            if reply.status == BROKEN:
                raise failures.broken_login(reply, script.step)
            if script.step == AddStep.JOIN:
                raise failures.join_error(reply, root_for(facts, self._options))
            if script.step == AddStep.SERVICE:
                raise failures.service_error(reply, script, facts, self._destination)
        self._check(reply)
        if script.step == AddStep.JOIN:
            self._node = self._joined_as(facts)

    def _input_of(self, script: AddScript) -> bytes | Path | None:
        if script.sends == ScriptInput.CODE:
            return f"{self._cluster.invite(CODE_S)}\n".encode()
        return self._packed if script.sends == ScriptInput.PACKAGE else None

    def _joined_as(self, facts: HostFacts) -> str:
        """Return the name under which it joined."""
        member = host_facts(self._inspect().lines).member_of(self._cluster)
        if member is None:
            raise StepError(
                "it says that it joined, but its certificate is not this cluster's",
                f"look at {facts.node_directory} on it",
                step=AddStep.JOIN,
            )
        return member.name

    # ------------------------------------------------------------ its answer

    def _surveyed(self) -> NodeReport:
        return Nodes(self._cluster).survey([self._cluster.member(self._node)])[0]

    def _answer(self) -> NodeReport:
        """Wait until the node answers. Raises StepError if it does not in time."""
        began = time.monotonic()
        while not _listens(self._cluster.member(self._node)):
            if time.monotonic() > began + START_S or self._connection.closed.wait(0.2):
                break
        while (report := self._surveyed()).problem:
            if time.monotonic() > began + ANSWER_S or self._connection.closed.wait(1.0):
                log = self._connection.run("journalctl -u dure-node -n 12 --no-pager -o cat")
                raise failures.silent_node(report, log, self._destination)
        return report

    def _answering(self, report: NodeReport) -> Outcome:
        name, done = report.member.name, tuple(self._done)
        return Outcome(self._host, OutcomeState.ANSWERS, name, done, report.platform)

    # ------------------------------------------------------------ reporting

    def _begin(self, step: AddStep) -> None:
        if self._step != step or step == AddStep.LOG_IN:
            self._progress.began(self._host, step)
        self._step = step

    def _printed(self, line: str) -> None:
        self._progress.printed(self._host, line)

    def _check(self, reply: SshReply, cure: str = failures.INSTALL_CURE) -> None:
        """Raise StepError if a command failed."""
        if reply.status == 0:
            return
        if self._connection.closed.is_set():
            raise failures.stopped(reply, self._step)
        raise failures.command_error(reply, self._step, cure)

    def _failed(self, error: DureError) -> Outcome:
        failure = failures.as_step_error(error, self._step)
        done = tuple(self._done)
        return Outcome(self._host, OutcomeState.FAILED, self._node, done, failure=failure)


def _listens(member: Member) -> bool:
    """Return if the agent's port is open: quicker to know than who answers there."""
    try:
        socket.create_connection((member.host, member.port), 1.0).close()
    except OSError:
        return False
    return True
