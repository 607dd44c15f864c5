"""The machines and the links between them as the page draws them: what each holds, how it is, who waits.

Pure: from reports, places of ranks and notes of steps to plain data. Refuses to measure.
"""

from __future__ import annotations

import itertools
import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dure.cluster.root.changes import HOT_C
from dure.cluster.root.speeds import LinkSpeed
from dure.cluster.root.survey import NodeReport
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.generate.request import ModelInfo, RankPlace
from dure.generate.step_notes import StepNote
from dure.serve.page.sentences import SaidSentence, said

__all__ = ["links_shown", "nodes_shown", "rank_names", "sync_of"]

_LOW_BYTES = 200e6
_MBIT = 1e6 / 8


def nodes_shown(
    info: ModelInfo | None,
    reports: Sequence[NodeReport],
    peak_bytes: Sequence[int],
    throttled: Mapping[str, float],
    sync: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Return this machine and every node. info: of the model, None while none is loaded.

    throttled: since when machines are, by name; seconds since 1970. sync: see `sync_of`; the last rank to
    come to a sum waits for nobody, so its time is the wire's, and what others have more is their wait.

    Ranks on one machine, as for a trial, are drawn as if each had its own.
    """
    places = info.places if info else ()
    by_name = {one.member.name: one for one in reports}
    names = list(dict.fromkeys([ROOT_NAME, *by_name, *map(node_of, places)]))
    found = []
    for name in names:
        ranks = [n for n, place in enumerate(places) if node_of(place) == name]
        apart = [[n] for n in ranks] or [[]]
        since = {"throttled_since": throttled.get(name)}
        found += [
            {
                **_node(name, own, by_name.get(name), places, peak_bytes),
                "wait_s_per_token": sync[own[0]] - min(sync) if sync and own else None,
                **since,
            }
            for own in apart
        ]
    return found


def node_of(place: RankPlace) -> str:
    """Return the name of the machine of a rank, as members are called."""
    return ROOT_NAME if place.node in ("", shown_name(ROOT_NAME)) else place.node


def _node(
    name: str,
    ranks: Sequence[int],
    report: NodeReport | None,
    places: Sequence[RankPlace],
    peak_bytes: Sequence[int],
) -> dict[str, Any]:
    whole = sum(place.weights_bytes for place in places) or 1
    health = report.health if report else None
    platform = report.platform if report else None
    peaks = [peak_bytes[n] for n in ranks if n < len(peak_bytes)]
    return {
        "name": rank_names(places)[ranks[0]] if ranks else _machine(name),
        "machine": _machine(name),
        "is_root": name == ROOT_NAME and (not ranks or 0 in ranks),
        "is_up": report is None or not report.problem,
        "problem": (report.problem or None) if report else None,
        "ranks": ranks,
        "share": sum(places[n].weights_bytes for n in ranks) / whole if ranks else None,
        "weights_bytes": sum(places[n].weights_bytes for n in ranks),
        "kv_bytes": sum(places[n].kv_bytes for n in ranks),
        "peak_bytes": sum(peaks) if peaks else None,
        "cpu": platform.processor if platform else None,
        "memory_bytes": platform.memory_bytes if platform else None,
        "available_bytes": health.available_bytes if health else None,
        "temperature_c": health.temperature_c if health else None,
        "throttled": bool(health.throttled) if health else None,
        "watts": health.power.watts if health else None,
        "watts_of": health.power.of if health else None,
        "watts_problem": health.power.problem if health else None,
        "clock_mhz": health.clock_mhz if health else None,
        "load": health.load if health else None,
        "disk_free_bytes": health.disk_free_bytes if health else None,
        "findings": _findings(report) if report else [],
    }


def _findings(report: NodeReport) -> list[dict[str, Any]]:
    """Return what is wrong with a machine, each with its cure."""
    found: list[SaidSentence] = []
    if report.problem:
        found.append(said("no_answer", {"reason": report.problem}))
    if (health := report.health) is not None:
        found += [said("throttled_now", {"why": why}) for why in health.throttled]
        if (warm := health.temperature_c) is not None and warm >= HOT_C:
            found.append(said("hot_now", {"temperature_c": round(warm)}))
        if health.available_bytes < _LOW_BYTES:
            found.append(said("little_memory", {}))
    return [msgspec.to_builtins(one) for one in found]


def sync_of(info: ModelInfo | None, notes: Sequence[StepNote]) -> list[float] | None:
    """Return each rank's mean seconds of a token in sums; None if that is not known."""
    n_ranks = len(info.places) if info else 0
    decode = [note for note in notes if note.is_decode and len(note.sync_s) == n_ranks]
    if n_ranks < 2 or not decode:
        return None
    return [statistics.fmean(note.sync_s[rank] for note in decode) for rank in range(n_ranks)]


def links_shown(
    info: ModelInfo | None,
    sync: Sequence[float] | None,
    link_of: Callable[[str], LinkSpeed | None],
    errors: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return the links between any two ranks: each sends its part of every sum to each other, directly.

    sync: see `sync_of`. link_of: what was measured between the root and a node. errors: of each machine's
    network devices. A rank that computes for longer has the other end of its link wait: `waits` says who.
    """
    places = info.places if info else ()
    names = rank_names(places)
    return [
        _link(pair, places, names, sync, link_of, errors)
        for pair in itertools.combinations(range(len(places)), 2)
    ]


def _link(
    pair: tuple[int, int],
    places: Sequence[RankPlace],
    names: Sequence[str],
    sync: Sequence[float] | None,
    link_of: Callable[[str], LinkSpeed | None],
    errors: Mapping[str, int],
) -> dict[str, Any]:
    """Return one link. All ranks end a sum at once, so what one is longer in it, it was there earlier.

    Nothing is measured between two nodes, nor what each of several links takes of a sum.
    """
    one, other = pair
    nodes = {node_of(places[one]), node_of(places[other])}
    name = next(iter(nodes - {ROOT_NAME}), None) if ROOT_NAME in nodes else None
    speed = link_of(name) if name else None
    late = None if sync is None else sync[one] - sync[other]
    return {
        "ranks": [one, other],
        "between": [names[one], names[other]],
        "mbit_per_s": speed.bytes_per_s / _MBIT if speed else None,
        "round_trip_us": speed.round_trip_s * 1e6 if speed else None,
        "wait_s_per_token": None if late is None else abs(late),
        "waits": None if not late else (one if late > 0 else other),
        "wire_s_per_token": None if sync is None or len(places) > 2 else min(sync),
        "errors": errors.get(name) if name else None,
    }


def rank_names(places: Sequence[RankPlace]) -> list[str]:
    """Return what to call each rank: its machine, and its number if the machine has several."""
    names = [_machine(node_of(place)) for place in places]
    return [f"{one}, rank {n}" if names.count(one) > 1 else one for n, one in enumerate(names)]


def _machine(name: str) -> str:
    return socket.gethostname() if name == ROOT_NAME else name
