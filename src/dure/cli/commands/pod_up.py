"""`dure pod up`: shows the bill, asks, rents one pod, and checks what guards it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from dure.cli.commands.pod_inside import held_tunnel
from dure.cli.terminal.console import output, print_json
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.pod_account import PodAccount, opened
from dure.cli.terminal.pod_options import MaxDaily, MaxHourly, SshKey, Yes, ask, tell
from dure.cli.terminal.pod_tables import bill_data, bill_lines, end_text, pod_data
from dure.cli.terminal.quantities import seconds_of
from dure.errors import DureError, UsageError
from dure.places import pods_directory
from dure.pods.api_key import make_api_key
from dure.pods.ceilings import Ceilings, check_ceilings
from dure.pods.hub_token import token_for
from dure.pods.launch import Order, chosen_offer, launch
from dure.pods.ledger import Entry
from dure.pods.money import Bill, Disks, money_of
from dure.pods.provider import NetworkVolume, PodError, PodStatus
from dure.pods.restarting import guarded
from dure.pods.runpod_values import public_url
from dure.pods.ssh_access import SshAccess
from dure.pods.templates import PUBLIC_PORT, template_of
from dure.pods.timer import guard_is_armed
from dure.pods.volumes import Volumes

__all__ = ["never_unguarded", "up"]


def up(
    name: Annotated[str, typer.Option(help="What the pod is called here.")] = "pod",
    template: Annotated[str, typer.Option(help="What runs in it: serve or workbench.")] = "serve",
    model: Annotated[
        str, typer.Option(help="Model of Hugging Face that `serve` serves.", show_default=False)
    ] = "",
    engine: Annotated[str, typer.Option(help="Server: llama.cpp or vllm.")] = "llama.cpp",
    image: Annotated[
        str, typer.Option(help="Container image.", show_default="the template's")
    ] = "",
    gpu: Annotated[
        str, typer.Option(help="Part of a GPU's name.", show_default="the cheapest")
    ] = "",
    gpus: Annotated[int, typer.Option(help="Number of GPUs.", min=1)] = 1,
    memory: Annotated[int, typer.Option(help="Memory of all GPUs together, at least, in GB.")] = 0,
    cloud: Annotated[str, typer.Option(help="secure or community.")] = "secure",
    disk: Annotated[int, typer.Option(help="GB that a stop empties.", min=1)] = 20,
    volume: Annotated[
        int, typer.Option(help="GB that a stop keeps, at /workspace; 0 or 10 and more.", min=0)
    ] = 50,
    network_volume: Annotated[
        str,
        typer.Option(help="Network volume, by name or id, that is used instead and outlives it."),
    ] = "",
    max_price: Annotated[
        float, typer.Option(help="Most that it may cost an hour, in dollars.")
    ] = 1.0,
    max_spend: Annotated[
        float, typer.Option(help="Most that its life may cost, in dollars.")
    ] = 10.0,
    max_hours: Annotated[float, typer.Option(help="Hours after which it ends.")] = 8.0,
    idle: Annotated[str, typer.Option(help="Idle time after which it ends, or never.")] = "30m",
    heartbeat: Annotated[
        str, typer.Option(help="It ends if no guard at home was heard for so long, or never.")
    ] = "never",
    max_hourly: MaxHourly = 2.0,
    max_daily: MaxDaily = 20.0,
    ssh_key: SshKey = None,
    hf_token: Annotated[
        bool | None,
        typer.Option(
            "--hf-token/--no-hf-token",
            help="Hand your token of Hugging Face to the pod, by ssh alone.",
            show_default="if the model is gated",
        ),
    ] = None,
    wait: Annotated[
        str, typer.Option(help="Time to wait until it runs and its guard is checked.")
    ] = "15m",
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="Let whoever has its key ask it, by the provider's public proxy."
        ),
    ] = False,
    tunnel: Annotated[
        bool,
        typer.Option("--tunnel", help="Then hold a tunnel to its server until Ctrl-C; it runs on."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the bill, and stop.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Rent a pod: show its bill, ask, make it, check its guards, and write its entry for ssh.

    It is terminated, with its files, at the first of its limits. What lies on a network volume stays.

    Example: dure pod up --model Qwen/Qwen3-32B-GGUF:Q4_K_M --max-price 0.7 --idle 20m
    """
    where = cloud.upper()
    if where not in {"SECURE", "COMMUNITY"}:
        raise UsageError(f"--cloud {cloud}", "choose secure or community")
    if network_volume and where != "SECURE":
        raise UsageError("network volumes are in the secure cloud alone", "leave out --cloud")
    if 0 < volume < 10:
        raise UsageError(f"--volume {volume}", "give 0, or 10 GB and more")
    if not 0 < max_hours <= 24 * 30:
        raise UsageError(f"--max-hours {max_hours:g}", "give hours above 0, 720 at most")
    if (tunnel or public) and template != "serve":
        raise UsageError(f"a {template} serves nothing", "leave out --tunnel and --public")
    ceilings = Ceilings(
        money_of("--max-price", max_price),
        money_of("--max-hourly", max_hourly),
        money_of("--max-daily", max_daily),
    )
    spend, chosen = (
        money_of("--max-spend", max_spend),
        template_of(template, model=model, engine=engine, image=image, volume="/workspace"),
    )
    idle_s, heartbeat_s = _limit("--idle", idle), _limit("--heartbeat", heartbeat)
    token = token_for(model, hf_token) if model else None
    chosen = replace(chosen, awaits_token=token is not None)
    with opened(ssh_key) as here:
        mounted = _network(here, network_volume)
        offer = chosen_offer(
            here.lives.provider.gpus(where, gpus), where, gpu=gpu, memory=memory, gpus=gpus
        )
        price = offer.price(where)
        assert price is not None, "it was chosen by its price"
        disks = Disks(disk, 0 if mounted else volume, mounted.size if mounted else 0)
        bill = Bill(price * gpus, disks, int(max_hours * 3600), spend)
        order = Order(
            name, chosen, offer, gpus, where, bill, idle_s, heartbeat_s, "/workspace",
            mounted.id if mounted else "", mounted.data_center if mounted else "", ssh_key,
        )  # fmt: skip
        allow = partial(check_ceilings, bill, ceilings)
        allow(here.ledger.living(), here.ledger.spent_lately(here.lives.provider.now()))
        if dry_run or not as_json:
            _show(order, as_json=as_json)
        if dry_run:
            return
        if token:
            ask(f"hand your token of Hugging Face to {name}, by ssh?", yes=yes, as_json=as_json)
        ask(f"rent {offer.name} as {name}?", yes=yes, as_json=as_json)
        _include(here.ssh, yes=yes)
        order = _shown_to_the_world(order) if public else order
        key, before = here.ssh.public_key(), {e.label for e in here.ledger.all()}
        with never_unguarded(here, lambda e: e.label not in before and e.name == name):
            entry = launch(here.lives, order, key, allow)
            tell(f"{name} is made ({entry.pod_id}), and costs {entry.hourly} an hour")
            entry = guarded(here, entry, seconds_of("--wait", wait), token)
        _finish(here, entry, as_json=as_json)
        ssh = here.ssh
    if tunnel:
        raise typer.Exit(held_tunnel(ssh, entry, 0, as_json=as_json))


def _shown_to_the_world(order: Order) -> Order:
    """Return an order of a pod with a public address, and make the key that it wants."""
    template = replace(order.template, public_port=PUBLIC_PORT)
    return replace(order, template=template, key_file=make_api_key(pods_directory(), order.name))


def _limit(option: str, text: str) -> int:
    return 0 if text == "never" else math.ceil(seconds_of(option, text))


def _network(here: PodAccount, name_or_id: str) -> NetworkVolume | None:
    """Return a network volume; None if none is wanted. Raises UsageError."""
    if not name_or_id:
        return None
    return Volumes(here.lives.provider, here.ledger, here.lives.wait).chosen(name_or_id).volume


def _show(order: Order, *, as_json: bool) -> None:
    if as_json:
        print_json({"gpu": order.offer.id, "cloud": order.cloud, "bill": bill_data(order.bill)})
        return
    tell(f"{order.gpus} of {order.offer.name}, {order.offer.memory} GB each, {order.cloud.lower()}")
    for line in bill_lines(order.bill, order.network_volume):
        tell(f"  {line}")


def _include(ssh: SshAccess, *, yes: bool) -> None:
    """Have ~/.ssh/config include the pods' entries, if the user agrees."""
    if ssh.is_included:
        return
    question = (
        f"add one line to ~/.ssh/config, so that every ssh knows dure's pods ({ssh.include})?"
    )
    if yes or typer.confirm(question, err=True):
        ssh.include_entries()
        tell(f"~/.ssh/config has a new line: {ssh.include}")


@contextmanager
def never_unguarded(here: PodAccount, is_meant: Callable[[Entry], bool]) -> Iterator[None]:
    """End a pod that the block asked for if the block fails, or is interrupted, and no guard is at home.

    Nothing that was checked would end it later. is_meant: tells the pod from others of the ledger.
    """
    try:
        yield
    except BaseException as error:
        left = [e for e in here.ledger.living() if is_meant(e) and e.status != PodStatus.EXITED]
        if not left or guard_is_armed(here.ledger):
            raise
        tell(f"{left[0].name} has no guard that was checked, so it is ended")
        here.lives.end(left[0], "no guard of it could be checked")
        if not isinstance(error, DureError):
            raise
        raise PodError(
            f"{left[0].name} was terminated: {error.problem}",
            "have a guard at home: `dure pod guard --install`",
        ) from error


def _finish(here: PodAccount, entry: Entry, *, as_json: bool) -> None:
    home = guard_is_armed(here.ledger)
    if as_json:
        print_json(pod_data(entry, home_is_armed=home))
        return
    output.print(
        f"{entry.name}: {end_text(entry, home_is_armed=home)}", markup=False, soft_wrap=True
    )
    tell("its own guard is armed: checked over ssh")
    if not home:
        tell("no guard at home runs, which would count its money too: `dure pod guard --install`")
    tell(f"log in:   dure pod ssh {entry.name}   (or ssh dure-{entry.name})")
    if entry.server_port:
        tell(f"use it:   dure pod tunnel {entry.name}   (its OpenAI API, on this machine)")
        tell("          or behind a router, `dure route serve`, with these lines in its rules:")
        tell(f"              [route.upstreams.{entry.name}]")
        tell(f'              pod = "{entry.name}"')
    if entry.public_port:
        tell(f"public:   {public_url(entry.pod_id, entry.public_port)}/v1")
        tell(f"          its key is in {entry.key_file}")
    tell(f"end it:   dure pod rm {entry.name}")
