"""Watches the machines of a server: their health becomes metrics, and that of nodes events.

Knows the metrics' names. Refuses to act on them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dure.cluster.root.changes import Changes
from dure.cluster.root.membership import Cluster
from dure.cluster.root.survey import NodeReport, Nodes, root_report
from dure.errors import DureError
from dure.hardware.health import Health
from dure.places import cluster_directory, shard_directory

__all__ = ["ClusterWatch", "node_metrics"]

LOOK_EVERY_S = 15.0

_GAUGES: tuple[tuple[str, str, Callable[[Health], float | None]], ...] = (
    ("temperature_celsius", "Its processor's temperature", lambda now: now.temperature_c),
    ("throttled", "Whether it runs slower than it could", lambda now: bool(now.throttled)),
    ("clock_hertz", "Its clock", lambda now: now.clock_mhz and now.clock_mhz * 1e6),
    ("load", "Processes that want a core", lambda now: now.load),
    ("memory_available_bytes", "Memory that is free", lambda now: now.available_bytes),
    ("disk_free_bytes", "Room on its disk", lambda now: now.disk_free_bytes),
    ("disk_bytes", "The size of its disk", lambda now: now.disk_bytes or None),
)


class ClusterWatch:
    """Looks at this machine and, with a cluster, asks all nodes for their facts, in a thread, from `start`
    to `stop`. Changes of nodes become events.
    """

    def __init__(self, *, has_nodes: bool) -> None:
        self._has_nodes = has_nodes
        self._root: Sequence[NodeReport] = ()
        self._nodes: Sequence[NodeReport] = ()
        self._stopped = threading.Event()

    def reports(self) -> Sequence[NodeReport]:
        """Return the latest reports, this machine's first."""
        return [*self._root, *self._nodes]

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _look(self) -> None:
        changes = Changes()
        while True:
            with suppress(OSError):  # a sensor that has gone: its last figures stay
                self._root = [root_report(shard_directory())]
            if self._has_nodes:
                self._survey(changes)
            if self._stopped.wait(LOOK_EVERY_S):
                return

    def _survey(self, changes: Changes) -> None:
        try:
            cluster = Cluster(cluster_directory())
            self._nodes = Nodes(cluster).survey(cluster.members)
            for event, facts in changes.of(self._nodes, time.monotonic()):
                cluster.events.add(event, **facts)
        except (DureError, OSError):  # it is being changed: look again
            self._nodes = ()


def node_metrics(reports: Sequence[NodeReport]) -> Iterator[Metric]:
    """Yield the machines' health as metrics; without reports, families without samples."""
    up = GaugeMetricFamily("dure_node_up", "Whether the machine answers", labels=("node",))
    for report in reports:
        up.add_metric((report.member.name,), float(not report.problem))
    yield up
    healthy = [(report.member.name, report.health) for report in reports if report.health]
    for name, text, read in _GAUGES:
        family = GaugeMetricFamily(f"dure_node_{name}", text, labels=("node",))
        for node, now in healthy:
            if (value := read(now)) is not None:
                family.add_metric((node,), float(value))
        yield family
    power = GaugeMetricFamily(
        "dure_node_power_watts", "What it draws, as far as `of` says", labels=("node", "of")
    )
    for node, now in healthy:
        if now.power.watts is not None:
            power.add_metric((node, now.power.of), now.power.watts)
    yield power
    names = ("node", "device")
    errors = CounterMetricFamily("dure_node_link_errors", "Errors and drops", labels=names)
    received = CounterMetricFamily("dure_node_link_received_bytes", "Received", labels=names)
    sent = CounterMetricFamily("dure_node_link_sent_bytes", "Sent", labels=names)
    for node, now in healthy:
        for link in now.links:
            errors.add_metric((node, link.name), link.errors)
            received.add_metric((node, link.name), link.received_bytes)
            sent.add_metric((node, link.name), link.sent_bytes)
    yield from (errors, received, sent)
