"""`dure pod volume`: network volumes, which outlive pods and are billed until they are deleted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dure.cli.terminal.console import output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.pod_account import PodAccount, opened
from dure.cli.terminal.pod_options import Yes, ask, tell
from dure.pods.ledger import VolumeEntry
from dure.pods.money import Money
from dure.pods.volumes import SeenVolume, Volumes, month_of, volume_cost

__all__ = ["seen_volumes", "volume", "volume_costs", "volume_data", "volume_text"]

volume = typer.Typer(
    help="Network volumes: storage that outlives pods, billed until you delete it.",
    no_args_is_help=True,
)
_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The network volume.", show_default=False)
]


@volume.command()
def create(
    name: _Name,
    data_center: Annotated[
        str, typer.Option(help="Where it lies; only pods there can use it.", show_default=False)
    ],
    size: Annotated[int, typer.Option(help="GB. It can grow later, and never shrink.")] = 50,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a network volume: show its bill, ask, and write it down. No guard ever deletes it.

    Example: dure pod volume create models --size 50 --data-center EU-RO-1
    """
    Volumes.planned(name, size, data_center)
    month = month_of(size)
    if not as_json:
        tell(
            f"{size} GB in {data_center}: {month} a month until you delete it, with or without a pod"
        )
    ask(f"make {name}, for {month} a month?", yes=yes, as_json=as_json)
    with opened() as here:
        made = _volumes(here).create(name, size, data_center)
        now = here.lives.provider.now()
    if as_json:
        print_json(_entry_data(made, now))
        return
    tell(
        f"{name} is made ({made.volume_id}), and costs {month} a month until `dure pod volume rm {name}`"
    )
    tell(f"use it:   dure pod up --network-volume {name}")


@volume.command()
def ls(as_json: Json = False) -> None:
    """List the network volumes of the account, and what each costs a month.

    Example: dure pod volume ls
    """
    with opened() as here:
        every, now = _volumes(here).seen(), here.lives.provider.now()
    if as_json:
        print_json([volume_data(seen, now) for seen in every])
        return
    for seen in every:
        output.print(printable(volume_text(seen)), markup=False, soft_wrap=True)
    total = month_of(sum(seen.volume.size for seen in every))
    tell(f"{total} a month in all" if every else "there is no network volume")


@volume.command()
def rm(name: _Name, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a network volume that dure has made, with all of its files, and wait until it is gone.

    Example: dure pod volume rm models
    """
    with opened() as here:
        volumes = _volumes(here)
        entry = volumes.deletable(name)
        ask(f"delete {entry.name} with all of its files?", yes=yes, as_json=as_json)
        gone, now = volumes.delete(entry), here.lives.provider.now()
    if as_json:
        print_json(_entry_data(gone, now))
    else:
        tell(f"{gone.name} is gone; it cost {volume_cost(gone, now)}")


def seen_volumes(here: PodAccount) -> list[SeenVolume]:
    """List the network volumes of the account. Raises PodError."""
    return _volumes(here).seen()


def volume_costs(here: PodAccount) -> list[tuple[VolumeEntry, Money]]:
    """Return what each network volume of the ledger has cost."""
    now = here.lives.provider.now()
    return [(e, volume_cost(e, now)) for e in here.ledger.volumes() if e.volume_id]


def volume_text(seen: SeenVolume) -> str:
    """Return a volume and its price in one line."""
    found = seen.volume
    who = "" if seen.entry else ", not made here"
    return (
        f"network volume {seen.name} ({found.id}): {found.size} GB in {found.data_center}, "
        f"{month_of(found.size)} a month{who}"
    )


def volume_data(seen: SeenVolume, now: float) -> dict[str, Any]:
    """Return a volume as data; money in dollars. spent: None for one that dure has not made."""
    found = seen.volume
    return {
        "name": seen.name,
        "id": found.id,
        "size_gb": found.size,
        "data_center": found.data_center,
        "type": found.kind,
        "monthly": month_of(found.size).dollars,
        "made_here": seen.entry is not None,
        "spent": volume_cost(seen.entry, now).dollars if seen.entry else None,
    }


def _entry_data(entry: VolumeEntry, now: float) -> dict[str, Any]:
    return {
        "name": entry.name,
        "id": entry.volume_id,
        "size_gb": entry.size,
        "data_center": entry.data_center,
        "state": entry.state,
        "monthly": month_of(entry.size).dollars,
        "spent": volume_cost(entry, now).dollars,
    }


def _volumes(here: PodAccount) -> Volumes:
    return Volumes(here.lives.provider, here.ledger, here.lives.wait)
