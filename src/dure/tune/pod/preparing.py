"""Makes a pod ready to tune: it runs, lets its owner in, and has the very dure that runs at home.

Refuses to rent, start or end a pod.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from shlex import quote

from dure.cluster.add.package import Package, installed_from
from dure.errors import UsageError
from dure.places import temporary_directory
from dure.pods.account import PodAccount
from dure.pods.ledger import Entry
from dure.pods.provider import PodError
from dure.ssh_program import ssh_is_here
from dure.tune.pod.code import PodFacts, find_script, install_script, pod_facts
from dure.tune.pod.line import PodLine

__all__ = ["found_line", "ready_line", "run_name", "tuning_pod"]

_PATIENCE_S = 90.0
_SHOWN = 8  # lines of pip that an error shows


def tuning_pod(here: PodAccount, name: str) -> Entry:
    """Return a pod that runs, lends a shell, and lets in. Raises UsageError, PodError."""
    ssh_is_here("ssh", "rsync")
    entry, pod = here.lives.look(here.ledger.named(name))
    if entry.template != "workbench":
        raise UsageError(
            f"{name} is a {entry.template}, which lends no shell to tune in",
            "rent one with `dure pod up --template workbench --name tune`",
        )
    if pod is None:
        if entry.pod_id:
            here.lives.bury(entry)
        raise PodError(f"{name} is gone", "rent another: `dure pod up --template workbench`")
    if pod.status.is_over:
        raise PodError(f"{name} does not run ({pod.status})", f"`dure pod start {name}`")
    door = pod.door
    if door and (door.host, door.port) == (entry.door_host, entry.door_port):
        here.ssh.write_entries(here.ledger.living())
        if here.ssh.run(entry, "true").returncode == 0:
            return entry
    return here.ssh.heal(here.lives, entry, _PATIENCE_S)


def run_name(out: Path) -> str:
    """Return the name of a run's folder in a pod: the same for the same folder of this machine."""
    told = re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name).strip("-.") or "run"
    where = f"{os.uname().nodename}:{out.resolve()}"
    return f"{told}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def ready_line(
    here: PodAccount, entry: Entry, out: Path, on_line: Callable[[str], None]
) -> tuple[PodLine, PodFacts]:
    """Return the line to a run in a pod, which has this dure then. on_line: gets what pip says.

    Raises PodError.
    """
    facts = _found(here, entry)
    if not facts.is_ready:
        _install(here, entry, facts, on_line)
        facts = _found(here, entry)
    if not facts.is_ready:
        raise PodError(f"{entry.name} has no Python that can tune", "rent one with another --image")
    return _line(here, entry, facts, out), facts


def found_line(here: PodAccount, entry: Entry, out: Path) -> PodLine | None:
    """Return the line to a run in a pod that has this dure already; None if it has not."""
    facts = _found(here, entry)
    return _line(here, entry, facts, out) if facts.is_ready else None


def _line(here: PodAccount, entry: Entry, facts: PodFacts, out: Path) -> PodLine:
    return PodLine(here.ssh, entry, facts.python, f"{facts.base}/{run_name(out)}")


def _found(here: PodAccount, entry: Entry) -> PodFacts:
    done = here.ssh.run(entry, find_script(entry.volume_path))
    facts = pod_facts(done.stdout)
    if "base" not in facts:
        raise PodError(
            f"{entry.name} does not say what it has: {(done.stderr or done.stdout).strip()[-200:]}",
            f"see `dure pod ssh {entry.name}`",
        )
    return facts


def _install(
    here: PodAccount, entry: Entry, facts: PodFacts, on_line: Callable[[str], None]
) -> None:
    line, said, package = PodLine(here.ssh, entry, "", facts.base), list[str](), installed_from()

    def told(text: str) -> None:
        said.append(text)
        on_line(text)

    status = _brought(line, package, facts.base, told)
    status = status or line.run(install_script(package, entry.volume_path), told)
    if status:
        raise PodError(
            f"dure cannot be installed in {entry.name}: {' / '.join(said[-_SHOWN:])}",
            "rent one with another --image: it needs Python 3.11 with venv, and a C and C++ compiler",
        )


def _brought(line: PodLine, package: Package, base: str, told: Callable[[str], None]) -> int:
    """Send what dure is installed from, if it is here; return the status."""
    if package.path is None:
        return 0
    room = quote(f"{base}/brought")
    takes = "tar xzf -" if package.path.is_dir() else f"cat >{quote(package.file_name)}"
    script = f"umask 022; rm -rf {room} && mkdir -p {room} && cd {room} && {takes}"
    with tempfile.TemporaryDirectory(prefix="dure-", dir=temporary_directory()) as folder:
        return line.run(script, told, package.packed(Path(folder)))
