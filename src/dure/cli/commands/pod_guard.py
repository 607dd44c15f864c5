"""`dure pod guard` and `doctor`: what ends pods at home, and whether every guard is well."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, output, print_error, print_json, printable
from dure.cli.terminal.parameters import Json, ServiceUser
from dure.cli.terminal.pod_account import opened
from dure.cli.terminal.pod_options import tell
from dure.cli.terminal.pod_tables import end_text, pod_data, round_data
from dure.errors import DureError, ResourceError, UsageError
from dure.pods.adopting import adopt
from dure.pods.decide import ROUND_S
from dure.pods.examining import examined
from dure.pods.guard import GuardRound, guard_round
from dure.pods.provider import PodError
from dure.pods.timer import TIMER, guard_is_armed, install_guard, uninstall_guard
from dure.systemd import service_for

__all__ = ["doctor", "guard"]


def guard(
    once: Annotated[bool, typer.Option("--once", help="Make one round, and end.")] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Have systemd make a round every minute.")
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Remove that again.")] = False,
    adopt_label: Annotated[
        str,
        typer.Option(
            "--adopt",
            metavar="LABEL",
            help="Guard a pod that another machine made too: its entry is read from stdin.",
            show_default=False,
        ),
    ] = "",
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    user: ServiceUser = None,
    as_json: Json = False,
) -> None:
    """End pods at their limits: compare what the provider lists with the ledger, every minute.

    Run it on a machine that is always on, and rent pods there: it knows what that machine has made.
    A pod that was made elsewhere is adopted by its label, never found: `dure pod export NAME --ledger`.

    Example: dure pod guard --install
    """
    if adopt_label:
        _adopt(adopt_label, as_json=as_json)
        return
    if install or uninstall:
        timer = service_for(TIMER, user)
        if uninstall:
            uninstall_guard(timer)
        else:
            install_guard(timer)
        if as_json:
            print_json({"unit": str(timer.path), "armed": not uninstall})
        elif uninstall:
            tell(f"{timer.path} is removed")
        else:
            tell(f"{timer.path} makes a round every minute; the first one was checked")
        return
    while True:
        try:
            with opened() as here:
                done = guard_round(here.lives, here.ssh.report, comes_again=again or not once)
            _report(done, as_json=as_json, once=once)
            is_well = done.is_well
        except (PodError, ResourceError) as error:  # the next round may reach the provider
            if once:
                raise
            print_error(error)
        if once:
            raise typer.Exit(0 if is_well else 1)
        time.sleep(ROUND_S)


def _adopt(label: str, *, as_json: bool) -> None:
    with opened() as here:
        entry = adopt(here.lives, sys.stdin.read(), label)
        home = guard_is_armed(here.ledger)
    if as_json:
        print_json(pod_data(entry, home_is_armed=home))
        return
    output.print(
        f"{entry.name}: {end_text(entry, home_is_armed=home)}", markup=False, soft_wrap=True
    )
    if not home:
        tell("no guard makes rounds on this machine yet: `dure pod guard --install`")


def _report(done: GuardRound, *, as_json: bool, once: bool) -> None:
    if as_json:
        print_json(round_data(done), in_a_line=not once)
        return
    for outcome in done.outcomes:
        text = f"{outcome.name}: {outcome.act}" + (f", {outcome.reason}" if outcome.reason else "")
        output.print(printable(text), markup=False, soft_wrap=True)
        if outcome.problem:
            print_error(PodError(outcome.problem, outcome.cure))
    for stranger in done.strangers:
        tell(printable(f"{stranger.name} is not in this ledger, so it is left alone"))
    for problem in done.problems:
        print_error(UsageError(problem))


def doctor(as_json: Json = False) -> None:
    """Check what pods need: the key, ssh, the ledger, and whether every guard is armed.

    Example: dure pod doctor
    """
    checks = examined()
    if as_json:
        print_json([{"check": c.what, "problem": c.problem, "cure": c.cure} for c in checks])
    else:
        for check in checks:
            errors.print(f"{'ok ' if not check.problem else 'BAD'} {check.what}", markup=False)
            if check.problem:
                print_error(DureError(check.problem, check.cure))
    if any(check.problem for check in checks):
        raise typer.Exit(1)
