"""Machines become nodes over ssh: many at once, each by its own `HostAdder`.

Knows threads and the join server that runs meanwhile. Refuses to know how a person is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dure.cluster.add.host_adder import HostAdder
from dure.cluster.add.outcome import AddProgress, Outcome
from dure.cluster.add.preparing import AddOptions
from dure.cluster.add.ssh import Destination, SshConnection
from dure.cluster.root.join_server import running_join_server
from dure.cluster.root.membership import Cluster
from dure.cluster.trust.https_server import listener
from dure.errors import UsageError

__all__ = ["add", "destinations", "rehearse"]

AT_ONCE = 32


def destinations(hosts: Sequence[str], options: AddOptions) -> list[Destination]:
    """Read the hosts, each once. Raises UsageError."""
    parsed = [Destination.parse(host) for host in dict.fromkeys(hosts)]
    if options.name and len(parsed) != 1:
        raise UsageError(
            f"--name {options.name} is for one host", "leave it out, or add one at a time"
        )
    return parsed


def add(
    cluster: Cluster, hosts: Sequence[Destination], options: AddOptions, progress: AddProgress
) -> list[Outcome]:
    """Make nodes of all these machines at once; the join server runs meanwhile.

    Raises ResourceError if its port is taken. What fails on a machine is in its outcome.
    """
    with (
        listener("0.0.0.0", options.port) as listening,  # noqa: S104  # who joins shows a code
        running_join_server(cluster, listening),
        _connections(hosts) as (directory, connections, threads),
    ):
        packed = options.package.packed(directory) if options.package.path is not None else None

        def outcome(connection: SshConnection) -> Outcome:
            return HostAdder(cluster, options, connection, progress, packed).outcome()

        return list(threads.map(outcome, connections))


def rehearse(
    cluster: Cluster, hosts: Sequence[Destination], options: AddOptions, progress: AddProgress
) -> list[tuple[Outcome | None, list[str]]]:
    """Inspect the machines, change nothing: return how each would end, or else what would be run."""
    with _connections(hosts) as (_, connections, threads):

        def rehearsed(connection: SshConnection) -> tuple[Outcome | None, list[str]]:
            return HostAdder(cluster, options, connection, progress, None).rehearsed()

        return list(threads.map(rehearsed, connections))


@contextmanager
def _connections(
    hosts: Sequence[Destination],
) -> Iterator[tuple[Path, list[SshConnection], ThreadPoolExecutor]]:
    """Yield a private directory, a connection for each host, not open yet, and threads."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="dure-")))
        threads = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        connections = [SshConnection(host, directory / str(n)) for n, host in enumerate(hosts)]
        for connection in connections:
            stack.callback(connection.close)  # before threads are waited for: so Ctrl-C ends them
        yield directory, connections, threads
