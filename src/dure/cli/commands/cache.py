"""`dure cache`: lists, checks and deletes shards, and what `eval`, `quantize` and `tune` keep."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from dure.cli.terminal.console import errors, output, print_json, printable, progress_bar
from dure.cli.terminal.parameters import Json
from dure.cluster.root.shard_caches import HERE, ShardCaches, ShardListing, ShardState, StoredShard
from dure.convert.quantize.search import kept_of_searches
from dure.errors import UsageError
from dure.evaluate.store import kept_evaluations
from dure.kept_work import KeptWork, delete_work
from dure.places import cache_directory
from dure.sizes import bytes_text
from dure.tune.estimate.kept import kept_times

__all__ = ["cache"]

DAY_S = 86400.0
SHARDS = "shards"
cache = typer.Typer(
    help="List, check and delete what is cached: shards, and what `eval`, `quantize` and `tune` need not "
    "compute again.",
    no_args_is_help=True,
)
OnNodes = Annotated[
    bool, typer.Option("--cluster", help="Include the nodes of this root's cluster.")
]


@cache.command("ls")
def ls(cluster: OnNodes = False, as_json: Json = False) -> None:
    """List what is cached, the least recently used first.

    Example: dure cache ls --cluster
    """
    shards = _listed(ShardCaches.of_this_machine(with_cluster=cluster)).by_age()
    work = sorted(_work(), key=lambda one: one.used)
    if as_json:
        print_json([*map(_shard_facts, shards), *map(_work_facts, work)])
    elif not shards and not work:
        errors.print(f"nothing is cached in {cache_directory()}", markup=False)
    else:
        output.print(_table(shards, work))


@cache.command()
def prune(
    days: Annotated[
        float, typer.Option(help="Delete what was not used for this many days; 0 deletes all.")
    ] = 30.0,
    cluster: OnNodes = False,
    as_json: Json = False,
) -> None:
    """Delete what was not used for a while. What is needed again is made again.

    A running model keeps its shard in memory, so it may be deleted too.

    Example: dure cache prune --days 7 --cluster
    """
    if days < 0:
        raise UsageError(f"--days {days:g}", "give 0 or a number above")
    before = time.time() - days * DAY_S
    caches = ShardCaches.of_this_machine(with_cluster=cluster)
    shards = _listed(caches).unused_since(before)
    work = [one for one in _work() if one.used <= before]
    caches.delete(shards)
    delete_work(work)
    if as_json:
        print_json([*map(_shard_facts, shards), *map(_work_facts, work)])
    sizes = [(SHARDS, one.size_bytes) for one in shards]
    sizes += [(one.kind, one.size_bytes) for one in work]
    if sizes:
        for kind, (n, size_bytes) in _counted(sizes).items():
            errors.print(f"{n} {kind} deleted, {bytes_text(size_bytes)} freed", markup=False)
    else:
        errors.print(f"nothing was unused for {days:g} days", markup=False)


@cache.command()
def check(cluster: OnNodes = False, as_json: Json = False) -> None:
    """Read every shard and compare it with its SHA-256. Exit with status 1 if one is damaged.

    The next start that needs a damaged shard makes or sends it again. Its disk may be failing.

    Example: dure cache check --cluster
    """
    caches = ShardCaches.of_this_machine(with_cluster=cluster)
    shards, states = _listed(caches).shards, dict[StoredShard, ShardState]()
    with progress_bar("reading shards", sum(one.size_bytes for one in shards)) as progress:
        for one in shards:
            states[one] = caches.check(one)
            progress(one.size_bytes)
    if as_json:
        print_json([{**asdict(one), "state": state} for one, state in states.items()])
    for one, state in states.items():
        if state != ShardState.SOUND:
            errors.print(f"{one.node}: {one.name} is {state}", style="yellow", markup=False)
    n_sound = sum(state == ShardState.SOUND for state in states.values())
    errors.print(f"{n_sound} of {len(states)} shards are sound", markup=False)
    if n_sound < len(states):
        errors.print("the next start that needs the others makes or sends them again", markup=False)
        raise typer.Exit(1)


def _work() -> list[KeptWork]:
    return [*kept_evaluations(), *kept_of_searches(), *kept_times()]


def _shard_facts(shard: StoredShard) -> dict[str, Any]:
    return {"kind": SHARDS, **asdict(shard)}


def _work_facts(work: KeptWork) -> dict[str, Any]:
    name = str(work.path.relative_to(cache_directory()))
    facts = {"kind": work.kind, "node": HERE, "name": name, "size_bytes": work.size_bytes}
    return {**facts, "whole": True, "used": work.used}


def _counted(sizes: Iterable[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Return how many there are of each kind, and their bytes together."""
    by_kind: dict[str, list[int]] = defaultdict(list)
    for kind, size_bytes in sizes:
        by_kind[kind].append(size_bytes)
    return {kind: (len(found), sum(found)) for kind, found in by_kind.items()}


def _table(shards: Sequence[StoredShard], work: Sequence[KeptWork]) -> Table:
    """Return a line for each shard, and for each kind of work."""
    table = Table("machine", box=None, pad_edge=False)
    for heading in ("what", "size", "last used"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for one in shards:
        when = _day(one.used) if one.whole else "not complete"
        size = bytes_text(one.size_bytes)
        table.add_row(printable(one.node), printable(one.name), size, when)
    last_used = {one.kind: one.used for one in work}  # the least recently used come first
    for kind, (n, size_bytes) in _counted((one.kind, one.size_bytes) for one in work).items():
        table.add_row(HERE, f"{n} {kind}", bytes_text(size_bytes), _day(last_used[kind]))
    return table


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")


def _listed(caches: ShardCaches) -> ShardListing:
    """Return the shards; report a node that cannot be asked and leave it out."""
    listing = caches.listing()
    for problem in listing.problems:
        errors.print(str(problem), markup=False, soft_wrap=True)
    return listing
