"""`dure cache`: the shards that this machine and its nodes keep, and making room."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from dure.cli.terminal.console import (
    bytes_text,
    errors,
    output,
    print_json,
    printable,
    progress_bar,
)
from dure.cli.terminal.parameters import Json
from dure.cluster.node.shards import ShardStore
from dure.cluster.root.membership import Cluster
from dure.cluster.root.survey import Nodes
from dure.errors import ClusterError, ResourceError, UsageError
from dure.model.shard import delete_shard, is_whole
from dure.places import cluster_directory, node_directory, shard_directory

__all__ = ["cache"]

DAY_S = 86400.0
SOUND = "sound"
CHECK_S = 1800.0  # for a node to read a shard: a slow card, and much on it
HERE, NODE = "here", "here, as a node"
cache = typer.Typer(
    help="The shards that are kept, so that the next start is quick.", no_args_is_help=True
)
OnNodes = Annotated[
    bool, typer.Option("--cluster", help="Also those on the nodes of this root's cluster.")
]


@dataclass(frozen=True)
class _Kept:
    """A shard. node: where, HERE or NODE for this machine. used: when last, since 1970."""

    node: str
    name: str
    size_bytes: int
    whole: bool
    used: float


@cache.command("ls")
def ls(cluster: OnNodes = False, as_json: Json = False) -> None:
    """List shards, those that were used longest ago first.

    Example: dure cache ls --cluster
    """
    kept = sorted(_kept(cluster), key=lambda one: one.used)
    if as_json:
        print_json([asdict(one) for one in kept])
    elif not kept:
        errors.print(f"no shard is kept in {shard_directory()}", markup=False)
    else:
        output.print(_table(kept))


@cache.command()
def prune(
    days: Annotated[
        float, typer.Option(help="Those that were not used for so many days; 0 is all.")
    ] = 30.0,
    cluster: OnNodes = False,
    as_json: Json = False,
) -> None:
    """Delete shards that were not used for a while; the next start that needs one makes it again.

    A shard that runs now is in memory, and may be deleted.

    Example: dure cache prune --days 7 --cluster
    """
    if days < 0:
        raise UsageError(f"--days {days:g}: give a number from 0")
    before = time.time() - days * DAY_S
    old = [one for one in _kept(cluster) if one.used <= before]
    for node in {one.node for one in old}:
        _delete(node, [one.name for one in old if one.node == node])
    if as_json:
        print_json([asdict(one) for one in old])
    freed = bytes_text(sum(one.size_bytes for one in old))
    errors.print(f"{len(old)} shards deleted, {freed} free again", markup=False)


@cache.command()
def check(cluster: OnNodes = False, as_json: Json = False) -> None:
    """Read every shard and compare it with its SHA-256. The exit status is 1 where one is damaged.

    What is damaged is made or sent again at the next start that needs it; that disk may be failing.

    Example: dure cache check --cluster
    """
    kept = list(_kept(cluster))
    states = {}
    with progress_bar("reading shards", sum(one.size_bytes for one in kept)) as progress:
        for one in kept:
            states[one] = _state(one)
            progress(one.size_bytes)
    if as_json:
        print_json([{**asdict(one), "state": state} for one, state in states.items()])
    for one, state in states.items():
        if state != SOUND:
            errors.print(f"{one.node}: {one.name} is {state}", style="yellow", markup=False)
    n_sound = sum(state == SOUND for state in states.values())
    errors.print(f"{n_sound} of {len(states)} shards are sound", markup=False)
    if n_sound < len(states):
        errors.print("the next start that needs the others makes or sends them again", markup=False)
        raise typer.Exit(1)


def _state(one: _Kept) -> str:
    """What a shard is; one that somebody wrote to is found damaged when it is listed."""
    if not one.whole:
        return "not complete, or damaged"
    return SOUND if _is_sound(one) else "damaged"


def _is_sound(one: _Kept) -> bool:
    """Whether a shard is what it was; one that is not will be made again."""
    if one.node == NODE:
        return _node_store().is_sound(one.name)
    if one.node == HERE:
        if is_sound := is_whole(shard_directory() / f"{one.name}.gguf", verify=True):
            return is_sound
        _delete_here([one.name])
        return False
    root, nodes = _cluster()
    with contextlib.closing(nodes.line(root.member(one.node), CHECK_S)) as line:
        return bool(line.ask("POST", f"/shards/{one.name}/check")["sound"])


def _table(kept: list[_Kept]) -> Table:
    table = Table("machine", box=None, pad_edge=False)
    for heading in ("shard", "size", "last used"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for one in kept:
        when = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            printable(one.node),
            printable(one.name),
            bytes_text(one.size_bytes),
            when if one.whole else "not complete",
        )
    return table


def _kept(cluster: bool) -> Iterator[_Kept]:
    for path in shard_directory().glob("*.gguf"):
        with contextlib.suppress(OSError):  # it is being deleted
            status = path.stat()
            used = max(status.st_atime, status.st_mtime)
            yield _Kept(HERE, path.stem, status.st_size, path.with_suffix(".json").exists(), used)
    for held in _node_store().all():
        yield _Kept(NODE, held.name, held.size_bytes, held.whole, held.used)
    if cluster:
        yield from _on_nodes()


def _node_store() -> ShardStore:
    """What this machine keeps for the cluster that it is a node of."""
    return ShardStore(node_directory() / "shards")


def _on_nodes() -> Iterator[_Kept]:
    """What the nodes keep; one that does not answer is told of and passed over."""
    root, nodes = _cluster()
    for member in root.members:
        with contextlib.closing(nodes.line(member)) as line:
            try:
                told = line.ask("GET", "/shards")["shards"]
            except ClusterError as error:
                errors.print(str(error), markup=False, soft_wrap=True)
                continue
        for one in told:
            yield _Kept(member.name, one["name"], one["size_bytes"], one["whole"], one["used"])


def _delete(node: str, names: list[str]) -> None:
    if node == HERE:
        _delete_here(names)
        return
    if node == NODE:
        for name in names:
            _node_store().delete(name)
        return
    root, nodes = _cluster()
    with contextlib.closing(nodes.line(root.member(node))) as line:
        for name in names:
            line.ask("DELETE", f"/shards/{name}")


def _delete_here(names: list[str]) -> None:
    for name in names:
        try:
            delete_shard(shard_directory() / f"{name}.gguf")
        except OSError as error:
            raise ResourceError(f"{error.filename} cannot be deleted: {error.strerror}") from error


def _cluster() -> tuple[Cluster, Nodes]:
    root = Cluster(cluster_directory())
    return root, Nodes(root)
