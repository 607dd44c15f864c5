"""`dure cluster`: makes a cluster, invites machines, shows their state, removes them."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Annotated, Any

import msgspec
import typer
from rich.live import Live
from rich.table import Table

from dure.cli.terminal.cluster_tables import print_limits, speed_table, status_table
from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.this_cluster import this_cluster
from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.gpus import gpus_of
from dure.cluster.root.job_registry import JobRegistry
from dure.cluster.root.membership import Cluster
from dure.cluster.root.node_changes import dissolve as end_cluster
from dure.cluster.root.node_changes import rename_node
from dure.cluster.root.node_status import ClusterStatus, NodeStatus, cluster_status
from dure.cluster.root.sole_use import sole_use
from dure.cluster.root.speeds import (
    KnownSpeeds,
    kind_of,
    link_speed,
    measure_gpus,
    measure_machines,
    of_gpu,
)
from dure.cluster.root.survey import Nodes, root_report
from dure.cluster.trust.discovery import JOIN_SERVICE, announced
from dure.cluster.trust.https_server import listener
from dure.cluster.trust.identity import ROOT_NAME, check_name, shown_name
from dure.cluster.trust.invitation import Code
from dure.cluster.trust.joining import JOIN_PORT
from dure.errors import UsageError
from dure.hardware.probe import health
from dure.model.ggml import WRITABLE_TYPES
from dure.places import cluster_directory

__all__ = ["cluster"]

WATCH_EVERY_S = 2.0
cluster = typer.Typer(help="Run one model on several machines.", no_args_is_help=True)


@cluster.command()
def init(
    name: Annotated[str, typer.Option(help="Name of the cluster.")] = "home",
) -> None:
    """Make this machine the root of a new cluster, with the certificate authority its nodes trust.

    Example: dure cluster init --name attic
    """
    made = Cluster.create(cluster_directory(), name)
    errors.print(f"cluster {made.name} is stored in {made.directory}", markup=False)
    errors.print("next: `dure cluster invite` here, `dure join CODE` on a machine", markup=False)


@cluster.command()
def invite(
    machines: Annotated[int, typer.Option(help="Number of machines; each gets a code.")] = 1,
    minutes: Annotated[float, typer.Option(help="Minutes until the codes expire.")] = 60.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104  # whoever joins shows a code
    port: Annotated[int, typer.Option(help="Port to listen on.")] = JOIN_PORT,
) -> None:
    """Let machines join: show a code for each and wait until all have joined.

    A code is for one machine. Ctrl-C ends the wait; unused codes work again when this command runs
    again, until they expire.

    Example: dure cluster invite --machines 4
    """
    if not 1 <= machines <= 1000 or not 0 < minutes <= 60 * 24 * 30:
        raise UsageError(
            "--machines is 1 to 1000, and --minutes is above 0 and up to 43200 (30 days)"
        )
    root = this_cluster()
    with (
        listener(host, port) as listening,
        announced(
            JOIN_SERVICE, f"{root.name}-root", port, {"authority": _authority(root)}
        ) as is_announced,
    ):
        codes = [root.invite(minutes * 60) for _ in range(machines)]
        for code in codes:
            output.print(f"dure join {code}{_port(port)}")
        _explain(port, minutes, machines, is_announced)
        _wait(root, listening, machines, minutes * 60)


def _authority(root: Cluster) -> str:
    """Return the root's authority as its codes contain it."""
    return Code.new(root.authority.fingerprint).authority


def _port(port: int) -> str:
    return "" if port == JOIN_PORT else f" --root {socket.gethostname()}:{port}"


def _explain(port: int, minutes: float, machines: int, is_announced: bool) -> None:
    sys.stdout.flush()
    what = "it on the machine that joins" if machines == 1 else "one on each machine that joins"
    each, here = f"type {what}, within {minutes:g} minutes", _own_address()
    root = f"--root {here}" if port == JOIN_PORT else f"--root {here}:{port}"
    if is_announced:
        errors.print(f"{each}; if this root is not found: {root}", markup=False)
    else:
        errors.print(f"{each}, with {root}: mDNS does not work here", markup=False)


def _own_address() -> str:
    """Return this machine's first address that others can reach, or HOST."""
    links = health(cluster_directory()).links
    addresses = [address for link in links if link.name != "lo" for address in link.addresses]
    return next((address for address in addresses if "." in address), "HOST")


def _wait(root: Cluster, listening: socket.socket, machines: int, seconds: float) -> None:
    came = threading.Semaphore(0)

    def joined(name: str) -> None:
        errors.print(f"{name} has joined: start `dure node` on it", markup=False)
        came.release()

    from dure.cluster.root.join_server import running_join_server

    end = time.monotonic() + seconds
    with running_join_server(root, listening, joined):
        for _ in range(machines):
            while not came.acquire(timeout=0.2):
                if time.monotonic() > end:
                    raise UsageError(
                        "no machine joined in time", "`dure cluster invite` makes a new code"
                    )
        time.sleep(0.2)  # the last answer is on its way


@cluster.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 2 seconds.")] = False,
    as_json: Json = False,
) -> None:
    """Show every node: whether it answers, who uses it, its hardware, temperature and load.

    Example: dure cluster status --watch
    """
    root = this_cluster()
    nodes = Nodes(root)
    if watch and as_json:
        raise UsageError("--watch draws a table", "leave out --json, or run the command repeatedly")
    if watch:
        _watch(lambda: status_table(root.name, *_surveyed(root, nodes)))
        return
    here, now = _surveyed(root, nodes)
    if as_json:
        print_json(msgspec.to_builtins(now))
    elif not now.nodes:
        errors.print(f"cluster {root.name} has no nodes yet: `dure cluster invite`", markup=False)
    else:
        output.print(status_table(root.name, here, now))
        for one in now.nodes:
            if one.problem:
                errors.print(one.problem, markup=False, soft_wrap=True)
        for job in {job.id: job for one in now.nodes for job in one.jobs}.values():
            output.print(printable(job.told()), soft_wrap=True)
        for name, reason in now.left_out.items():
            errors.print(f"{name} did not take part: {reason}", markup=False, soft_wrap=True)
        print_limits([here, *now.nodes])


def _surveyed(root: Cluster, nodes: Nodes) -> tuple[NodeStatus, ClusterStatus]:
    """Return how the root is, and the cluster."""
    known, members = KnownSpeeds(root.directory), root.members
    speeds = {name: known.machine(name).types for name in (ROOT_NAME, *(m.name for m in members))}
    registered = JobRegistry(root.directory).others()
    reports, events = nodes.survey(members), root.events.read()
    return (
        NodeStatus.of(root_report(root.directory), registered),
        cluster_status(root.name, reports, registered, events, speeds),
    )


def _watch(draw: Callable[[], Table]) -> None:
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, end)
    with Live(draw(), console=output, auto_refresh=False) as live:
        while not stop.wait(WATCH_EVERY_S):
            live.update(draw(), refresh=True)


@cluster.command()
def bench(
    types: Annotated[
        str, typer.Option("--types", help="Types of weights, by their GGUF names.")
    ] = "Q4_0,Q4_K,Q8_0,F16",
    as_json: Json = False,
) -> None:
    """Measure and save every machine's speed with weights of each type, and every link's.

    The saved speeds decide the shares with `--cluster`; a doubtful one is measured again.
    GPUs that llama.cpp was built for are measured too.
    Measure while nothing else runs: other commands on the cluster are refused meanwhile.

    Example: dure cluster bench --types Q4_K
    """
    root = this_cluster()
    names = [name.strip().upper() for name in types.split(",") if name.strip()]
    unknown = [name for name in names if name not in WRITABLE_TYPES]
    if unknown or not names:
        raise UsageError(f"--types {types}", f"give some of {', '.join(WRITABLE_TYPES)}")
    nodes, known, members = Nodes(root), KnownSpeeds(root.directory), root.members
    reports = [root_report(root.directory), *nodes.survey(members)]
    kinds = {report.member.name: kind_of(report.platform) for report in reports}
    gpus = gpus_of(nodes, reports[1:])
    with sole_use(root, JobIdentity.new("cluster bench", ",".join(names)), reports):
        for name in names:
            with errors.status(f"measuring {name}"):
                measure_machines(nodes, known, members, name, list(kinds), kinds)
                measure_gpus(nodes, known, members, name, gpus)
        for member in members:
            with errors.status(f"measuring the link to {member.name}"):
                known.keep(member.name, link=link_speed(nodes, member))
    machines = [ROOT_NAME, *(member.name for member in members)]
    names += [of_gpu(name) for name in names] if gpus else []
    rows = [known.machine(machine, names) for machine in machines]
    if as_json:
        print_json(msgspec.to_builtins(rows))
    else:
        output.print(speed_table(rows, names))


@cluster.command()
def remove(
    node: Annotated[str, typer.Argument(help="Name of the node.", show_default=False)],
) -> None:
    """Remove a node and revoke its certificate. It may join again with a new code.

    Example: dure cluster remove pi-4
    """
    member = this_cluster().remove(check_name(node))
    errors.print(
        f"{member.name} is removed; `dure node leave` on it deletes what it stored",
        markup=False,
    )


@cluster.command()
def rename(
    node: Annotated[str, typer.Argument(help="Name of the node.", show_default=False)],
    new: Annotated[str, typer.Argument(help="Its new name.", show_default=False)],
) -> None:
    """Rename a node. It gets a new certificate; shards and measured speeds stay.

    Example: dure cluster rename raspberrypi pi-4
    """
    root = this_cluster()
    rename_node(root, Nodes(root), check_name(node), check_name(new))
    errors.print(f"{node} is called {new} now", markup=False)


@cluster.command()
def dissolve(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Dissolve without asking.")] = False,
) -> None:
    """End the cluster: its nodes leave it, and its keys are deleted here. Models and shards stay here.

    A node deletes what it stored. One that does not answer keeps that, but nobody can use it.

    Example: dure cluster dissolve
    """
    root = this_cluster()
    name, n = root.name, len(root.members)
    nodes = f"{n} node{'' if n == 1 else 's'}"
    if not yes and not sys.stdin.isatty():
        raise UsageError(f"dissolving the cluster {name} needs a yes", "say --yes")
    if not yes and not typer.confirm(f"Dissolve the cluster {name} with {nodes}?", err=True):
        return
    with errors.status("the nodes delete what they stored"):
        untold = end_cluster(root, Nodes(root))
    errors.print(f"the cluster {name} is dissolved", markup=False)
    for node, why in untold.items():
        text = f"{node} was not told ({why}): `dure node leave` on it deletes what it stored"
        errors.print(text, markup=False, soft_wrap=True)


@cluster.command()
def events(
    last: Annotated[int, typer.Option("--last", "-n", help="Number of events; 0 shows all.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the cluster's events: joins, refusals, removals, starts.

    Example: dure cluster events -n 10
    """
    found = list(this_cluster().events.read())[-max(0, last) :]
    if as_json:
        print_json(found)
        return
    for event in found:
        when = datetime.fromtimestamp(event.get("time", 0)).strftime("%Y-%m-%d %H:%M:%S")
        rest = " ".join(
            f"{key}={_told(value)}" for key, value in event.items() if key not in {"time", "event"}
        )
        output.print(printable(f"{when} {event.get('event')} {rest}"), soft_wrap=True)


def _told(value: Any) -> str:
    """Write a fact of an event as a person reads it: no quotes, no braces, machines by their names."""
    if isinstance(value, dict):
        return ",".join(f"{_told(key)}:{_told(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ",".join(map(_told, value))
    return f"{value:.3g}" if isinstance(value, float) else shown_name(str(value))
