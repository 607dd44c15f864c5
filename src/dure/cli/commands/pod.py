"""`dure pod`: rents GPUs, shows what they cost, and ends them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from dure.cli.commands.pod_guard import doctor, guard
from dure.cli.commands.pod_inside import logs, ssh, sync, tunnel
from dure.cli.commands.pod_up import never_unguarded, up
from dure.cli.commands.pod_volume import (
    seen_volumes,
    volume,
    volume_costs,
    volume_data,
    volume_text,
)
from dure.cli.terminal.console import (
    output,
    print_json,
    print_warning,
    printable,
    write,
)
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.pod_account import PodAccount, opened
from dure.cli.terminal.pod_options import MaxDaily, MaxHourly, PodName, Yes, ask, tell
from dure.cli.terminal.pod_tables import (
    end_text,
    offer_data,
    offers_table,
    pod_data,
    pods_table,
)
from dure.errors import UsageError
from dure.pods.adopting import carried
from dure.pods.ceilings import Ceilings
from dure.pods.dstack import as_yaml, dstack_configuration
from dure.pods.hub_token import found_token
from dure.pods.money import Money, money_of
from dure.pods.provider import PodError
from dure.pods.restarting import Restart, guarded
from dure.pods.timer import guard_is_armed
from dure.pods.volumes import SeenVolume

__all__ = ["pod"]

pod = typer.Typer(
    help="Rent a GPU that nobody can forget: its price is shown before, and guards end it.",
    no_args_is_help=True,
)
pod.command()(up)
pod.add_typer(volume, name="volume")


@pod.command()
def gpus(
    max_price: Annotated[
        float | None,
        typer.Option(help="Most that one may cost an hour, in dollars.", show_default="no limit"),
    ] = None,
    memory: Annotated[int, typer.Option(help="Memory at least, in GB.")] = 0,
    as_json: Json = False,
) -> None:
    """List the GPUs that can be rented, the cheapest first.

    Example: dure pod gpus --max-price 0.7
    """
    most = None if max_price is None else money_of("--max-price", max_price)
    with opened() as here:
        found = [
            (min(prices), offer)
            for offer in here.lives.provider.gpus()
            if (prices := [p for p in (offer.secure, offer.community) if p])
            and offer.memory >= memory
        ]
    offers = [
        offer for price, offer in sorted(found, key=lambda f: f[0]) if not most or price <= most
    ]
    if as_json:
        print_json([offer_data(offer) for offer in offers])
    else:
        output.print(offers_table(offers))


@pod.command()
def ls(
    all_: Annotated[bool, typer.Option("--all", help="Show those that are gone too.")] = False,
    as_json: Json = False,
) -> None:
    """List everything that costs money: pods, stopped ones too, and network volumes.

    Example: dure pod ls
    """
    with opened() as here:
        listed = here.lives.provider.pods()
        for entry in here.ledger.living():
            if found := next((p for p in listed if p.name == entry.label), None):
                here.lives.see(entry, found)
        entries = here.ledger.all() if all_ else here.ledger.living()
        home, ours = guard_is_armed(here.ledger), {entry.label for entry in here.ledger.all()}
        volumes, now = _network_volumes(here), here.lives.provider.now()
    others = [p.name for p in listed if p.name not in ours and not p.status.is_over]
    if as_json:
        pods = [pod_data(entry, home_is_armed=home) for entry in entries]
        seen_data = None if volumes is None else [volume_data(seen, now) for seen in volumes]
        print_json({"pods": pods, "network_volumes": seen_data, "others": others})
        return
    if entries:
        output.print(pods_table(entries, home_is_armed=home))
    else:
        tell("no pod of dure's costs anything")
    for seen in volumes or ():
        output.print(printable(volume_text(seen)), markup=False, soft_wrap=True)
    if others:
        tell(printable(f"running in this account, and not made here: {', '.join(others)}"))


def _network_volumes(here: PodAccount) -> list[SeenVolume] | None:
    """Return what network volumes there are; None, which is told, if that cannot be read."""
    try:
        return seen_volumes(here)
    except PodError as error:
        print_warning(f"network volumes, which cost money too, cannot be listed: {error}")
        return None


@pod.command()
def show(name: PodName, as_json: Json = False) -> None:
    """Show a pod: its state, its guards, its money, and what happened to it.

    Example: dure pod show pod
    """
    with opened() as here:
        entry = here.named(name)
        home, events = guard_is_armed(here.ledger), here.ledger.events(entry.label)
        found = here.lives.provider.pod(entry.pod_id) if entry.pod_id else None
    data = pod_data(entry, home_is_armed=home)
    data |= {
        "locked": bool(found and found.locked),
        "actions": list(found.actions if found else ()),
    }
    if as_json:
        told = [{"at": e.at, "kind": e.kind, "text": e.text} for e in events]
        print_json({**data, "events": told})
        return
    for key, value in data.items():
        output.print(f"{key:14} {printable(str(value))}", markup=False, soft_wrap=True)
    output.print(end_text(entry, home_is_armed=home), markup=False, soft_wrap=True)
    for event in events:
        at = time.strftime("%d %b %H:%M:%S", time.localtime(event.at))
        output.print(printable(f"{at}  {event.kind} {event.text}"), markup=False, soft_wrap=True)


@pod.command()
def stop(name: PodName, as_json: Json = False) -> None:
    """Stop a pod, and wait until it is so. Its volume is kept, and costs twice as much then.

    Example: dure pod stop pod
    """
    with opened() as here:
        entry = here.lives.stop(here.named(name))
        home = guard_is_armed(here.ledger)
    if as_json:
        print_json(pod_data(entry, home_is_armed=home))
        return
    if entry.disks.volume:
        month, most = entry.disks.stopped_month, entry.limits.max_spend
        tell(f"{name} is stopped; its volume costs {month} a month, until {most} in all")
        tell(f"`dure pod rm {name}` ends that too")
    else:
        tell(f"{name} is stopped, and costs nothing until `dure pod start {name}`")
    if entry.disks.network:
        tell(f"its network volume costs {entry.disks.network_month} a month, as ever")


@pod.command()
def start(
    name: PodName,
    max_spend: Annotated[
        float | None,
        typer.Option(help="Most that its life may cost, in dollars.", show_default="as before"),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Hours after which it ends.", show_default="as before")
    ] = None,
    max_hourly: MaxHourly = 2.0,
    max_daily: MaxDaily = 20.0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Start a stopped pod, with a new deadline, and write its new port for ssh.

    Example: dure pod start pod --max-spend 5
    """
    with opened() as here:
        entry = here.named(name)
        limits, token = entry.limits, found_token() if entry.awaits_token else None
        if max_spend is not None:
            limits = replace(limits, max_spend=money_of("--max-spend", max_spend))
        if max_hours is not None:
            limits = replace(limits, max_seconds=int(max_hours * 3600))
        ceilings = Ceilings(
            limits.hourly, money_of("--max-hourly", max_hourly), money_of("--max-daily", max_daily)
        )
        restart = Restart(entry, limits, ceilings)
        restart.allowed(here, entry)
        bill, label = restart.bill, entry.label
        ask(
            f"start {name}, for {bill.hourly} an hour and {bill.at_most} at most?",
            yes=yes,
            as_json=as_json,
        )
        with never_unguarded(here, lambda e: e.label == label):
            entry = guarded(here, restart.start(here), token=token)
        home = guard_is_armed(here.ledger)
    if as_json:
        print_json(pod_data(entry, home_is_armed=home))
    else:
        output.print(f"{name}: {end_text(entry, home_is_armed=home)}", markup=False, soft_wrap=True)


@pod.command()
def rm(name: PodName, yes: Yes = False, as_json: Json = False) -> None:
    """Terminate a pod, and wait until it is gone. Its files are deleted, but for a network volume.

    Example: dure pod rm pod
    """
    with opened() as here:
        entry = here.named(name)
        if not entry.state.is_over:
            lost = (
                f", with the {entry.disks.volume} GB at {entry.volume_path}"
                if entry.disks.volume
                else ""
            )
            ask(f"terminate {name}{lost}?", yes=yes, as_json=as_json)
            entry = here.lives.end(entry, "its owner ended it")
        if entry.key_file:
            Path(entry.key_file).unlink(missing_ok=True)
        here.ssh.write_entries(here.ledger.living())
    if as_json:
        print_json(pod_data(entry, home_is_armed=False))
    else:
        tell(f"{name} is gone; it cost {entry.spent}")


@pod.command()
def cost(as_json: Json = False) -> None:
    """Show what each pod and network volume has cost, as dure counts it, and what was billed for pods.

    Example: dure pod cost
    """
    with opened() as here:
        rows = [
            (entry, here.lives.provider.billed(entry.pod_id))
            for entry in here.ledger.all()
            if entry.pod_id
        ]
        volumes = volume_costs(here)
        lately = here.ledger.spent_lately(here.lives.provider.now())
    total = sum((max(entry.spent, billed) for entry, billed in rows), Money())
    total = sum((money for _, money in volumes), total)
    if as_json:
        pods = [
            {
                "name": e.name,
                "label": e.label,
                "state": e.state,
                "spent": e.spent.dollars,
                "billed": b.dollars,
            }
            for e, b in rows
        ]
        kept = [{"name": e.name, "state": e.state, "spent": m.dollars} for e, m in volumes]
        print_json(
            {
                "pods": pods,
                "network_volumes": kept,
                "last_24_hours": lately.dollars,
                "total": total.dollars,
            }
        )
        return
    for entry, billed in rows:
        text = f"{entry.name:20} {entry.state:8} {entry.spent} counted, {billed} billed so far"
        output.print(printable(text), markup=False, soft_wrap=True)
    for volume_entry, money in volumes:
        text = f"{volume_entry.name:20} {volume_entry.state:8} {money} counted, a network volume"
        output.print(printable(text), markup=False, soft_wrap=True)
    output.print(f"pods in the last 24 hours {lately}, everything so far {total}", markup=False)


for _guarding in (guard, doctor):
    pod.command()(_guarding)


@pod.command()
def export(
    name: PodName,
    dstack: Annotated[bool, typer.Option("--dstack", help="Write a file for dstack.")] = False,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Write its entry, for another machine's guard.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a pod for other programs: as a configuration for dstack, or for another machine's guard.

    Example: dure pod export pod --dstack >pod.dstack.yml
    """
    if dstack == ledger:
        raise UsageError("it is not said for whom", "add --dstack or --ledger")
    if ledger:
        with opened() as here:
            entry = here.named(name)
        tell(f"adopt it with `dure pod guard --adopt {entry.label}`, and again after new limits")
        write(carried(entry))
        return
    with opened() as here:
        entry, found = here.lives.look(here.ledger.named(name))
        if found is None:
            raise PodError(f"{name} is gone", "see `dure pod ls --all`")
        offers = here.lives.provider.gpus()
    memory = next((offer.memory for offer in offers if offer.id == entry.gpu), 0)
    configuration = dstack_configuration(entry, found, memory)
    if as_json:
        print_json(configuration)
    else:
        write(as_yaml(configuration))


@pod.command()
def emulator(
    port: Annotated[int, typer.Option(help="Port to listen on.", show_default="a free one")] = 0,
    real: Annotated[
        bool, typer.Option("--real", help="Run pods' start commands here, each with an sshd.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a provider on this machine, to try everything without money, until Ctrl-C.

    It prints the variables that the other commands need. It is RunPod's API, with its faults.

    Example: dure pod emulator --real
    """
    from dure.pods.emulator.__main__ import emulate

    emulate(port, real=real, as_json=as_json)


pod.command(context_settings={"ignore_unknown_options": True})(ssh)
for _one in (logs, sync, tunnel):
    pod.command()(_one)
