"""`dure pod ssh`, `logs`, `sync` and `tunnel`: what is done inside a pod."""

from __future__ import annotations

import io
import socket
import subprocess
from pathlib import PurePosixPath
from typing import Annotated

import typer

from dure.cli.terminal.console import output, print_json, print_warning, printable
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.pod_account import PodAccount, opened
from dure.cli.terminal.pod_options import PodName, tell
from dure.errors import UsageError
from dure.pods.ledger import Entry
from dure.pods.ssh_access import HOSTS, SshAccess
from dure.ssh_program import ssh_is_here

__all__ = ["held_tunnel", "logs", "ssh", "sync", "tunnel"]

_PATIENCE_S = 90
_QUIET_S = 3.0


def ssh(
    name: PodName,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND]", help="What to run there.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the command as JSON, and do not run it.")
    ] = False,
) -> None:
    """Log in to a pod, or run a command there. If its port has changed, its entry is mended first.

    Example: dure pod ssh pod -- nvidia-smi
    """
    with opened() as here:
        entry = _reachable(here, name)
        command = here.ssh.command(entry, words or [])
        environment = here.ssh.environment()
    if as_json:
        door = {"host": entry.door_host, "port": entry.door_port, "user": entry.door_user}
        print_json({"command": command, **door})
        return
    raise typer.Exit(_ran(command, environment))


def logs(
    name: PodName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Print what a pod has written.

    Example: dure pod logs pod --follow
    """
    with opened() as here:
        pod_id, last = here.ledger.named(name).pod_id, ""
        while True:
            patience_s = None if follow else _QUIET_S
            for number, line in here.lives.provider.logs(pod_id, last, patience_s):
                last = number
                if as_json:
                    print_json({"id": number, "line": line}, in_a_line=True)
                else:
                    output.print(printable(line), markup=False, soft_wrap=True)
            if not follow:
                return


def sync(
    source: Annotated[str, typer.Argument(help="A path here, or NAME:PATH.", show_default=False)],
    target: Annotated[str, typer.Argument(help="A path here, or NAME:PATH.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Copy files to or from a pod with rsync. A path there is below its volume, unless it begins with /.

    Example: dure pod sync ./data pod:
    """
    remote = [side for side in (source, target) if ":" in side]
    if len(remote) != 1:
        raise UsageError("one of both is in a pod", "name it as in `dure pod sync ./data pod:`")
    name, _, path = remote[0].partition(":")
    with opened() as here:
        entry = _reachable(here, name)
        path = path if path.startswith("/") else f"{entry.volume_path}/{path}"
        if remote[0] == target:
            _warn_of_loss(entry, path)
        there = f"{HOSTS}{name}:{path}"
        sides = [there if side == remote[0] else side for side in (source, target)]
        shell = f"ssh -F '{here.ssh.config}'"
        command = ["rsync", "-a", "--partial", "--info=stats1", "-e", shell, "--", *sides]
        environment = here.ssh.environment()
    told = io.StringIO() if as_json else None
    status = _ran(command, environment, told)
    if told is not None:
        stats = [line for line in told.getvalue().splitlines() if line]
        print_json({"command": command, "status": status, "stats": stats})
    raise typer.Exit(status)


def _warn_of_loss(entry: Entry, path: str) -> None:
    """Say that a stop deletes what is copied there, if it does."""
    if not PurePosixPath(path).is_relative_to(entry.volume_path):
        print_warning(f"{path} is outside {entry.volume_path}: a stop deletes it")
    elif not entry.disks.volume and not entry.disks.network:
        print_warning(f"{entry.name} has no volume: a stop deletes {path}")


def tunnel(
    name: PodName,
    port: Annotated[int, typer.Option(help="Port on this machine.", show_default="a free one")] = 0,
    as_json: Json = False,
) -> None:
    """Reach a pod's server from this machine through ssh, until Ctrl-C. Prints its address.

    Example: dure pod tunnel pod --port 8081
    """
    with opened() as here:
        entry = _reachable(here, name)
        if not entry.server_port:
            raise UsageError(
                f"{name} is a {entry.template}, which serves nothing", "use `dure pod ssh`"
            )
        ssh = here.ssh
    raise typer.Exit(held_tunnel(ssh, entry, port, as_json=as_json))


def held_tunnel(ssh: SshAccess, entry: Entry, port: int, *, as_json: bool) -> int:
    """Print the address of a pod's server on this machine, and hold the tunnel to it until Ctrl-C.

    port: 0 for a free one. Returns ssh's exit status.
    """
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
    forward = f"127.0.0.1:{port}:127.0.0.1:{entry.server_port}"
    options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", forward]
    url, command = f"http://127.0.0.1:{port}/v1", ssh.command(entry, (), options)
    if as_json:
        print_json({"url": url, "command": command}, in_a_line=True)
    else:
        output.print(url)
    return _ran(command, ssh.environment())


def _reachable(here: PodAccount, name: str) -> Entry:
    """Return a pod with an entry for ssh that is true now. Raises PodError."""
    entry, found = here.lives.look(here.ledger.named(name))
    door = found.door if found else None
    if door and (door.host, door.port) == (entry.door_host, entry.door_port):
        here.ssh.write_entries(here.ledger.living())
        return entry
    tell(f"{name} has a new port: its entry for ssh is mended")
    return here.ssh.heal(here.lives, entry, _PATIENCE_S)


def _ran(command: list[str], environment: dict[str, str], told: io.StringIO | None = None) -> int:
    """Run a command; return its status. told: gets what it prints."""
    ssh_is_here(command[0])
    out = subprocess.PIPE if told is not None else None
    done = subprocess.run(command, env=environment, stdout=out, text=True, check=False)
    if told is not None:
        told.write(done.stdout)
    return done.returncode
