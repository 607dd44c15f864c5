"""What each way to fail means when a machine becomes a node, and the cure. Pure.

Knows what dure, sudo and ssh say when they fail: dure's own error comes as a record (`dure join --json`),
the others' as text. Refuses to know the order of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

import msgspec

from dure.cluster.add.inspecting import HostFacts
from dure.cluster.add.preparing import AddScript, AddStep, service_script
from dure.cluster.add.ssh import Destination, LoginError, SshReply, as_typed
from dure.cluster.root.membership import NameTakenError
from dure.cluster.root.survey import NodeReport
from dure.cluster.trust.connection import RequestRefusedError, UnreachableError
from dure.errors import ClusterError, DureError, ErrorRecord, revived

__all__ = [
    "INSTALL_CURE",
    "StepError",
    "as_step_error",
    "broken_login",
    "command_error",
    "join_error",
    "login_check_cure",
    "node_of_others",
    "service_error",
    "silent_node",
    "stopped",
    "unfit",
]

N_LAST_LINES = 12
_AGAIN = "run the same command again: it goes on"
INSTALL_CURE = (
    "mend what its lines say, and run the same command again; --from says another package"
)


class StepError(ClusterError):
    """A step failed on a machine. lines: the last that the machine printed."""

    def __init__(
        self, problem: str, cure: str = "", *, step: AddStep, lines: Sequence[str] = ()
    ) -> None:
        last = tuple(lines)[-N_LAST_LINES:]
        super().__init__(problem, cure, step=step.value, lines=list(last))
        self.step, self.lines = step, last


def as_step_error(error: DureError, step: AddStep) -> StepError:
    """Return an error as one of the step in which it was raised."""
    if isinstance(error, StepError):
        return error
    lines = error.lines if isinstance(error, LoginError) else ()
    return StepError(error.problem, error.cure, step=step, lines=lines)


# ---------------------------------------------------------------- any command


def command_error(reply: SshReply, step: AddStep, cure: str) -> StepError:
    """Return the error of a command that failed."""
    return StepError(_last_line(reply), cure, step=step, lines=reply.lines)


def broken_login(reply: SshReply, step: AddStep) -> StepError:
    """Return the error of a command whose ssh connection broke."""
    return StepError("the line to it broke", _AGAIN, step=step, lines=reply.lines)


def stopped(reply: SshReply, step: AddStep) -> StepError:
    """Return the error of a command that ended because this program was stopped."""
    return StepError("it was stopped", _AGAIN, step=step, lines=reply.lines)


def _last_line(reply: SshReply) -> str:
    """Return what a command that failed said at the end."""
    lines = [line for line in reply.lines if line.strip()]
    return lines[-1].removeprefix("dure: ") if lines else f"exit status {reply.status}"


# ---------------------------------------------------------------- checking the machine


def login_check_cure(destination: Destination) -> str:
    """Return the cure if a machine's shell cannot be used at all."""
    return f"`{as_typed(destination, 'uname')}` must work"


def unfit(facts: HostFacts, *, root_is_named: bool) -> StepError | None:
    """Return why a machine cannot become a node, None if it can. root_is_named: by --root."""
    if (error := facts.why_unfit()) is not None:
        return as_step_error(error, AddStep.CHECK)
    if ":" in facts.reached_from and not root_is_named:
        return StepError(
            "ssh reaches it over IPv6, and a cluster's machines talk over IPv4",
            "--root says this machine's IPv4 address",
            step=AddStep.CHECK,
        )
    return None


def node_of_others(facts: HostFacts, destination: Destination) -> StepError:
    """Return the error of a machine that is a node of another cluster."""
    remove = as_typed(destination, f"rm -r {quote(facts.node_directory)}")
    return StepError(
        f"it is {facts.node_name} of another cluster, {facts.node_cluster}",
        f"if it has left that cluster, `{remove}`",
        step=AddStep.CHECK,
    )


# ---------------------------------------------------------------- joining


def join_error(reply: SshReply, root: str) -> StepError:
    """Return the error of a machine that did not join. root: the address that it was given."""
    error, lines = _error_in(reply.lines)
    if isinstance(error, UnreachableError):
        return StepError(
            f"it does not reach this root at {root}",
            "let it through this machine's firewall, or say another address of it with --root HOST",
            step=AddStep.JOIN,
            lines=lines,
        )
    if isinstance(error, RequestRefusedError) and error.kind == NameTakenError.__name__:
        return StepError(
            error.reason,
            "add it alone with --name OTHER, or remove the other one with `dure cluster remove`",
            step=AddStep.JOIN,
            lines=lines,
        )
    cure = "`dure cluster events` tells what was refused"
    return command_error(SshReply(reply.status, lines), AddStep.JOIN, cure)


def _error_in(lines: Sequence[str]) -> tuple[DureError | None, tuple[str, ...]]:
    """Return the error that `dure join --json` printed as a record, if it did, and the other lines."""
    for n, line in enumerate(lines):
        try:
            error = revived(msgspec.json.decode(line, type=ErrorRecord))
        except (msgspec.MsgspecError, TypeError):  # other words, or facts of another version
            continue
        return error, (*lines[:n], *lines[n + 1 :])
    return None, tuple(lines)


# ---------------------------------------------------------------- service and answer


def service_error(
    reply: SshReply, script: AddScript, facts: HostFacts, destination: Destination
) -> StepError:
    """Return the error of a machine on which the service was not installed."""
    text = "\n".join(reply.lines)
    by_hand = script.script.replace("sudo -n ", "sudo ", 1)
    typed = as_typed(destination, by_hand, terminal=True)
    problem, cure = _last_line(reply), f"`{typed}` once it is mended; or --no-service"
    if "sudo:" in text and any(word in text for word in ("password", "terminal", "tty")):
        problem, cure = "sudo wants a password there", f"`{typed}`"
    elif "sudo" in text and "not found" in text:
        as_root = service_script(facts).removeprefix("sudo -n ")
        problem, cure = "it has no sudo", f"as root on it: `{as_root}`"
    return StepError(problem, cure, step=AddStep.SERVICE, lines=reply.lines)


def silent_node(report: NodeReport, log: SshReply, destination: Destination) -> StepError:
    """Return the error of a node that was started and does not answer. log: what its service printed."""
    shows_log = as_typed(destination, "journalctl -u dure-node -n 50")
    return StepError(
        report.problem,
        f"does its firewall let this root reach port {report.member.port}? What it says: `{shows_log}`",
        step=AddStep.ANSWER,
        lines=log.lines,
    )
