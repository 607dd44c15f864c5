"""What rented pods cost, as figures for Prometheus, from the ledger of this machine, which is only read.

Knows the figures' names. Refuses to ask the provider: the guard does, every minute, and writes what it saw.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

from dure.pods.decide import deadline_of
from dure.pods.ledger import Entry
from dure.pods.provider import PodStatus

__all__ = ["pod_metrics"]

_PATIENCE_S = 0.2  # for a ledger that is being written

_GAUGES: tuple[tuple[str, str, Callable[[Entry], float]], ...] = (
    ("running", "Whether it runs", lambda pod: pod.status == PodStatus.RUNNING),
    ("hourly_usd", "Dollars an hour, now", lambda pod: pod.hourly.dollars),
    ("spent_usd", "Dollars so far", lambda pod: pod.spent.dollars),
    ("limit_usd", "Dollars at which it ends", lambda pod: pod.limits.max_spend.dollars),
    ("seen_timestamp_seconds", "When it was last looked at", lambda pod: pod.seen_at),
    ("end_timestamp_seconds", "When it ends at the latest", deadline_of),
)


def pod_metrics(directory: Path) -> Iterator[Metric]:
    """Yield the figures of all pods that may cost something; families without samples if there are none.

    directory: of the ledger, which need not exist.
    """
    pods = _living(directory / "ledger.sqlite3")
    for name, text, read in _GAUGES:
        family = GaugeMetricFamily(f"dure_pod_{name}", text, labels=("pod", "gpu"))
        for pod in pods:
            if name != "end_timestamp_seconds" or pod.status == PodStatus.RUNNING:
                family.add_metric((pod.name, pod.gpu), float(read(pod)))
        yield family


def _living(ledger: Path) -> Sequence[Entry]:
    """Return the pods of a ledger that are not over; none if it cannot be read now."""
    if not ledger.exists():
        return ()
    uri = f"{ledger.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S)) as db:
            rows = db.execute("SELECT entry FROM pods ORDER BY rowid").fetchall()
        pods = [msgspec.json.decode(row[0], type=Entry) for row in rows]
    except (sqlite3.Error, msgspec.MsgspecError):
        return ()
    return [pod for pod in pods if not pod.state.is_over]
