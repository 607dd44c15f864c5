"""What the page of one server knows: its requests, its journal, its history, its machines.

Puts their figures into one state. Refuses to know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds, LinkSpeed
from dure.cluster.root.survey import NodeReport
from dure.errors import DureError, NotReadyError
from dure.generate.request import EngineStats, ModelInfo
from dure.http.sse import sse
from dure.places import cluster_directory
from dure.serve.engine import Engine
from dure.serve.page.history import EVERY_S, LOOKS, History, rates
from dure.serve.page.journal import Journal
from dure.serve.page.kept_points import KeptPoints
from dure.serve.page.live_requests import LiveRequests
from dure.serve.page.machines import links_shown, nodes_shown, sync_of
from dure.serve.page.sentences import SaidSentence
from dure.serve.page.work import Works

__all__ = ["PageWatch"]

log = logging.getLogger(__name__)

_KEPT_EVERY = 5  # minutes
_LOOK_EVERY_S = 5.0
_WORK_EVERY_S = 1.0
_NOTES = 64  # that waits are the mean of
_STALE_S = 5.0
_MOST_EVENTS = 200  # of the cluster's log, the newest
_VERSION = version("dure")
_SHARED_S = 0.2  # for which a state is new


@dataclass
class _Rates:
    """Tokens a second, counted anew every second; the pages share it."""

    before: EngineStats
    at: float = field(default_factory=time.monotonic)
    prompt: float = 0.0
    generated: float = 0.0


class PageWatch:
    """What is shown of a server. reports: of its machines. name: of its model. kept: its last day, if a
    later server is to have it.

    is_stopping: the server ends; pages are let go.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        reports: Callable[[], Sequence[NodeReport]],
        journal: Journal,
        *,
        has_nodes: bool,
        kept: KeptPoints | None = None,
    ) -> None:
        self.engine, self._name, self._reports, self._has_nodes = engine, name, reports, has_nodes
        self.requests, self.journal, self.history = LiveRequests(), journal, History()
        self._kept = kept
        self.works = Works(self._worked)
        self._work: list[dict[str, Any]] = []
        self._begun = time.monotonic()
        self._links: dict[str, LinkSpeed] = {}
        self._rates: _Rates | None = None
        self._n_watchers = self._events_end = 0
        self._is_watched = asyncio.Event()
        self.is_stopping = False
        self._made, self._made_at = b"", -_SHARED_S

    # ---------------------------------------------------------------- over time

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Keep history and journal until the block ends."""
        if self._kept is not None:
            self.history = History(await asyncio.to_thread(self._kept.read))
        lasting = (self._keep_history(), self._look(), self._look_at_work())
        tasks = [asyncio.create_task(one) for one in lasting]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.works.close()
            self._end_history()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what only watchers see: the steps of the engine, and the events of the cluster."""
        self._n_watchers += 1
        self._is_watched.set()
        try:
            with self.engine.steps.watching():
                yield
        finally:
            self._n_watchers -= 1
            if not self._n_watchers:
                self._is_watched.clear()

    async def _keep_history(self) -> None:
        n_added = 0
        while True:
            try:
                for _ in range(LOOKS):
                    await asyncio.sleep(EVERY_S / LOOKS)
                    self.history.look(self._reports())
                self.history.add(self.engine.stats, self._reports())
            except Exception:
                log.exception("a bug of ours: the page's history misses a point")
            n_added += 1
            if self._kept is not None and n_added % _KEPT_EVERY == 0:
                await asyncio.to_thread(self._kept.write, self.history.points)

    def _end_history(self) -> None:
        """Add what there is of the last minute, and keep it all."""
        self.history.look(self._reports())
        self.history.add(self.engine.stats, self._reports())
        if self._kept is not None:
            self._kept.write(self.history.points)

    async def _look(self) -> None:
        while self._has_nodes:
            await self._is_watched.wait()
            try:
                await asyncio.to_thread(self._read_cluster)
            except (DureError, OSError):
                pass  # the cluster is being changed: the next look finds it
            except Exception:
                log.exception("a bug of ours: the page misses what the cluster's log has")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look_at_work(self) -> None:
        while True:
            try:
                self._work = await asyncio.to_thread(self.works.shown) if self._n_watchers else []
            except Exception:
                log.exception("a bug of ours: the page misses what is worked on")
            await asyncio.sleep(_WORK_EVERY_S)

    def _read_cluster(self) -> None:
        cluster = Cluster(cluster_directory())
        known = KnownSpeeds(cluster.directory)
        links = {member.name: known.link(member.name) for member in cluster.members}
        self._links = {name: link for name, link in links.items() if link is not None}
        events, self._events_end = cluster.events.read_from(self._events_end)
        self.journal.add_cluster_events(events[-_MOST_EVENTS:])

    def _worked(self, what: SaidSentence, failed: bool) -> None:
        self.journal.add("model", "error" if failed else "info", what)

    # ---------------------------------------------------------------- now

    def state_event(self) -> bytes:
        """Return the state as an event of the feed; several pages share one that is just made."""
        now = time.monotonic()
        if now - self._made_at > _SHARED_S:
            self._made, self._made_at = sse(self.state(), "state"), now
        return self._made

    def state(self) -> dict[str, Any]:
        """Return everything but steps and journal, as the page reads it."""
        notes = self.engine.steps.since(self.engine.steps.n_seen - _NOTES)
        info, stats, reports = self._info(), self.engine.stats, self._reports()
        throttled = self.history.throttled_since(reports)
        sync = sync_of(info, notes)
        errors = {
            one.member.name: sum(link.errors for link in one.health.links)
            for one in reports
            if one.health is not None
        }
        return {
            "at": time.time(),
            "server": self._server(info),
            "stats": self._stats(stats),
            "requests": [one.shown() for one in self.requests],
            "keys": [
                {
                    "name": one.name,
                    "running": one.running,
                    "waiting": one.waiting,
                    "weight": one.weight,
                    "priority": one.priority,
                }
                for one in stats.owners
                if one.running or one.waiting
            ],
            "nodes": nodes_shown(info, reports, stats.peak_bytes, throttled, sync),
            "links": links_shown(info, sync, self._links.get, errors),
            "wire_s_per_token": min(sync) if sync else None,
            "work": self._work,
        }

    def served_path(self) -> Path | None:
        """Return the file of the model that runs, None before one was loaded."""
        info = self._info()
        return None if info is None else Path(info.path)

    def _info(self) -> ModelInfo | None:
        try:
            return self.engine.info
        except NotReadyError:
            return None

    def _server(self, info: ModelInfo | None) -> dict[str, Any]:
        known = (
            {}
            if info is None
            else {
                "architecture": info.architecture,
                "file_type": info.file_type,
                "n_params": info.n_params,
                "weights_bytes": info.weights_bytes,
                "n_ctx": info.n_ctx,
                "n_sequences": info.n_sequences,
                "n_ranks": info.n_ranks,
                "threads": info.threads,
                "transport": info.transport,
            }
        )
        return {
            "model": self._name,
            "version": _VERSION,
            "state": self.engine.state,
            "doing": self.engine.doing,
            "progress": self.engine.progress,
            "reason": self.engine.reason if self.engine.state == "failed" else "",
            "up_s": time.monotonic() - self._begun,
            **known,
        }

    def _stats(self, stats: EngineStats) -> dict[str, Any]:
        now = self._rates or _Rates(stats)
        seconds = time.monotonic() - now.at
        if seconds > _STALE_S:  # nobody has looked
            self._rates, now, seconds = None, _Rates(stats), 0.0
        if self._rates is None:
            self._rates = now
        elif seconds >= 1.0:
            prompt, generated = rates(now.before, stats, seconds)
            self._rates = now = _Rates(stats, prompt=prompt, generated=generated)
        return {
            "running": stats.running,
            "waiting": stats.waiting,
            "kv_used": stats.kv_used,
            "kv_kept": stats.kv_kept,
            "kv_total": stats.kv_total,
            "prompt_per_s": now.prompt,
            "generated_per_s": now.generated,
            "joules_per_token": self.history.joules_per_token,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "cache_hits": stats.cache_hits,
            "cache_queries": stats.cache_queries,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
        }
