"""`dure doctor`: finds what makes this machine slow or sick, and says what cures it."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dure.cli.terminal.completion import models
from dure.cli.terminal.console import errors, print_json, progress_bar
from dure.cli.terminal.doctor_fixes import fix_data, offer_fixes, undo_all
from dure.cli.terminal.findings_table import finding_data, print_findings
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.this_cluster import this_cluster
from dure.cli.terminal.tuning_report import tune_cluster
from dure.cluster.root.survey import Nodes
from dure.cluster.trust.identity import ROOT_NAME
from dure.doctor.changes import HERE, ChangeJournal
from dure.doctor.checks import CHECKS
from dure.doctor.checks.model_file import MODEL_CHECKS
from dure.doctor.cluster import ClusterNode, NodeSettings, findings_of_cluster
from dure.doctor.finding import Finding, judged
from dure.doctor.model_file import read_model_file
from dure.doctor.patient import Patient, ThisMachine
from dure.errors import UsageError
from dure.hardware.settings import MachineSettings, Settings
from dure.model.gguf import open_gguf
from dure.places import doctor_file

__all__ = ["doctor"]


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model whose file is examined too: its checksum and its tokens.",
            autocompletion=models,
            show_default=False,
        ),
    ] = None,
    *,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show what is healthy too.", show_default=False)
    ] = False,
    of_cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="Examine every node of the cluster too, and the links to them."
        ),
    ] = False,
    cures: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Cure what can be cured, one thing at a time, after asking; with --cluster on every node.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --fix, do not ask.", show_default=False)
    ] = False,
    tunes: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Try what may make the cluster quicker on the root and its nodes, measure each, and keep "
            "what helps. With MODEL, a token's time decides, else the round trip.",
        ),
    ] = False,
    undoes: Annotated[
        bool, typer.Option("--undo", help="Take back what --fix has changed, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what makes this machine slow or sick, and what cures it.

    With sudo more can be read, and --fix may change it. The exit status is 1 if something should be done.

    Example: dure doctor
    """
    _check_options(cures=cures, yes=yes, undoes=undoes, as_json=as_json)
    if tunes and (cures or undoes or of_cluster):
        raise UsageError(
            "--tune does all of its work alone", "leave out --cluster, --fix and --undo"
        )
    journal, patient = ChangeJournal(doctor_file()), ThisMachine()
    _look_at_own_files()
    if undoes:
        _undo(journal, as_json=as_json)
        return
    if tunes:
        file = None if model is None else resolve_model(model)
        with noted("doctor", file.name if file else "--tune"):
            tune_cluster(this_cluster(), journal, file, as_json=as_json)
        return
    found = _of_cluster(patient) if of_cluster else _of_this(patient)
    if model is not None:
        found += _of_model(resolve_model(model))
    if not as_json:
        print_findings(found, show_all=show_all)
    fixed = []
    if cures:
        with journal.held():
            patients = _patients(patient, of_cluster=of_cluster)
            fixed = offer_fixes(found, patients, journal, asks=not yes)
    if as_json:
        data = [finding_data(one) for one in found]
        print_json({"findings": data, "fixes": [fix_data(one) for one in fixed]} if cures else data)
    cured = {one.finding for one in fixed if one.change}
    if any(one.severity.is_trouble and one not in cured for one in found):
        raise typer.Exit(1)


def _look_at_own_files() -> None:
    """With sudo, examine the files of the user who typed it; what is changed is kept by root."""
    user = os.environ.get("SUDO_USER")
    if user and os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            os.environ["HOME"] = pwd.getpwnam(user).pw_dir


def _of_this(patient: ThisMachine) -> list[Finding]:
    with errors.status("examining this machine"):
        return judged(CHECKS, patient.condition())


def _of_cluster(patient: ThisMachine) -> list[Finding]:
    cluster = this_cluster()
    with errors.status(f"examining {len(cluster.members) + 1} machines"):
        return findings_of_cluster(cluster, patient.condition())


def _patients(here: ThisMachine, *, of_cluster: bool) -> dict[str, Patient]:
    """Return the machines that were examined, as findings name them."""
    patients: dict[str, Patient] = {HERE: here, ROOT_NAME: here}
    if of_cluster:
        cluster = this_cluster()
        nodes = Nodes(cluster)
        patients |= {one.name: ClusterNode(nodes, one) for one in cluster.members}
    return patients


def _check_options(*, cures: bool, yes: bool, undoes: bool, as_json: bool) -> None:
    """Raise UsageError for options that do not go together."""
    if cures and undoes:
        raise UsageError("--fix and --undo contradict each other", "give one of them")
    if yes and not cures:
        raise UsageError("--yes answers what --fix asks", "add --fix")
    if cures and not yes and (as_json or not sys.stdin.isatty()):
        raise UsageError("--fix asks before it changes something", "add --yes")


def _undo(journal: ChangeJournal, *, as_json: bool) -> None:
    """Take back what was changed; exit with 1 if something could not be."""
    with journal.held():
        undone = list(undo_all(_settings_of(journal), journal))
    if as_json:
        print_json(
            [
                {"change": msgspec.to_builtins(change), "undone": result is not None}
                for change, result in undone
            ]
        )
    elif not undone:
        errors.print("nothing was changed, so nothing is taken back")
    if any(result is None for _, result in undone):
        raise typer.Exit(1)


def _settings_of(journal: ChangeJournal) -> dict[str, Settings]:
    """Return the settings of each machine that was changed."""
    settings: dict[str, Settings] = {HERE: MachineSettings(), ROOT_NAME: MachineSettings()}
    if {change.machine for change in journal.read()} - settings.keys():
        cluster = this_cluster()
        nodes = Nodes(cluster)
        settings |= {one.name: NodeSettings(nodes, one) for one in cluster.members}
    return settings


def _of_model(path: Path) -> list[Finding]:
    with open_gguf(path) as model:
        size_bytes = model.size_bytes
    with (
        noted("doctor", path.name),
        progress_bar(f"reading {path.name}", size_bytes, "checking") as progress,
    ):
        return judged(MODEL_CHECKS, read_model_file(path, progress))
