"""`dure cache`: lists, checks and deletes the shards cached here and on the nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from dure.cli.terminal.console import errors, output, print_json, printable, progress_bar
from dure.cli.terminal.parameters import Json
from dure.cluster.root.shard_caches import ShardCaches, ShardListing, ShardState, StoredShard
from dure.errors import UsageError
from dure.places import shard_directory
from dure.sizes import bytes_text

__all__ = ["cache"]

DAY_S = 86400.0
cache = typer.Typer(
    help="List, check and delete cached shards, which make the next start quick.",
    no_args_is_help=True,
)
OnNodes = Annotated[
    bool, typer.Option("--cluster", help="Include the nodes of this root's cluster.")
]


@cache.command("ls")
def ls(cluster: OnNodes = False, as_json: Json = False) -> None:
    """List shards, the least recently used first.

    Example: dure cache ls --cluster
    """
    shards = _listed(ShardCaches.of_this_machine(with_cluster=cluster)).by_age()
    if as_json:
        print_json([asdict(one) for one in shards])
    elif not shards:
        errors.print(f"no shard is cached in {shard_directory()}", markup=False)
    else:
        output.print(_table(shards))


@cache.command()
def prune(
    days: Annotated[
        float, typer.Option(help="Delete shards unused for this many days; 0 deletes all.")
    ] = 30.0,
    cluster: OnNodes = False,
    as_json: Json = False,
) -> None:
    """Delete shards that were not used for a while. The next start that needs one makes it again.

    A running model keeps its shard in memory, so it may be deleted too.

    Example: dure cache prune --days 7 --cluster
    """
    if days < 0:
        raise UsageError(f"--days {days:g}", "give 0 or a number above")
    caches = ShardCaches.of_this_machine(with_cluster=cluster)
    old = _listed(caches).unused_since(time.time() - days * DAY_S)
    caches.delete(old)
    if as_json:
        print_json([asdict(one) for one in old])
    if old:
        freed = bytes_text(sum(one.size_bytes for one in old))
        errors.print(f"{len(old)} shards deleted, {freed} freed", markup=False)
    else:
        errors.print(f"no shard was unused for {days:g} days", markup=False)


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


def _table(shards: Sequence[StoredShard]) -> Table:
    table = Table("machine", box=None, pad_edge=False)
    for heading in ("shard", "size", "last used"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for one in shards:
        when = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            printable(one.node),
            printable(one.name),
            bytes_text(one.size_bytes),
            when if one.whole else "not complete",
        )
    return table


def _listed(caches: ShardCaches) -> ShardListing:
    """Return the shards; report a node that cannot be asked and leave it out."""
    listing = caches.listing()
    for problem in listing.problems:
        errors.print(str(problem), markup=False, soft_wrap=True)
    return listing
