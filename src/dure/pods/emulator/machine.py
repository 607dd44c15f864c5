"""A pod's machine on this one: a folder, its start command as a real process, and a real sshd.

What an image would bring is in the folder's `bin`: stand-ins for nvidia-smi and for servers. The
container's disk is emptied by a stop, the volume is not.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from dure.pods.emulator.account import EmulatedPod
from dure.whole_file import part_of

__all__ = ["LocalMachine"]

_SSHD = "/usr/sbin/sshd"
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/disk/host_key
AuthorizedKeysFile {folder}/disk/home/.ssh/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv {variables}
Subsystem sftp internal-sftp
"""
_MODEL_SERVER = Path(__file__).with_name("model_server.py")
_RSYNC = """for word; do
    shift
    case $word in /workspace*) word={folder}$word ;; esac # the volume of a pod, and not this machine's
    set -- "$@" "$word"
done
exec {rsync} "$@"
"""


class LocalMachine:
    """A machine in a folder of its own. step_s: how often the guard in the pod looks."""

    def __init__(self, folder: Path, step_s: int = 1) -> None:
        self._folder, self._step_s = folder, step_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Lock()
        self.public_port = 0  # where the provider's proxy would lead to

    def start(self, pod: EmulatedPod) -> int:
        """Run the start command; return the port at which its sshd will listen."""
        port = self._furnish()
        command = json.loads(pod.body["args"])
        pod.env["USER"] = getpass.getuser()
        public = {}
        if "DURE_PUBLIC_PORT" in pod.env:
            self.public_port = _free_port()
            public = {"DURE_PUBLIC_PORT": str(self.public_port), "DURE_PUBLIC_HOST": "127.0.0.1"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command["entrypoint"], *command["cmd"]],
                cwd=self._folder / "workspace",
                env={
                    "PATH": self._path,
                    **pod.env,
                    **public,
                    **self._workbench(pod),
                    "HOME": str(self._folder / "disk" / "home"),
                    "DURE_POD_STATE": self._state,
                    "DURE_STEP_S": str(self._step_s),
                    "RUNPOD_POD_ID": pod.id,
                    "RUNPOD_API_KEY": pod.key,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return port

    def _workbench(self, pod: EmulatedPod) -> dict[str, str]:
        """Return what runs in a workbench: the image's own program is not on this machine."""
        own = pod.env.get("DURE_RUN") == "/start.sh"
        return {"DURE_RUN": "workbench"} if own else {}

    def stop(self, *, wipe: bool) -> None:
        """End every process of the pod, and empty its disk."""
        with self._stopping:  # its provider and its own guard may do so at once
            if self._process is not None:
                logins = _below(self._sshd_pid())
                for kept in (self._process.pid, self._sshd_pid()):
                    _end_group(kept)
                for login in [*logins, *_with_state(self._state)]:
                    _end_group(login)
                self._process.wait()
                self._process = None
            shutil.rmtree(self._folder / "disk", ignore_errors=True)
            if wipe:
                shutil.rmtree(self._folder / "workspace", ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process that started with the pod, 0 if none runs."""
        return self._process.pid if self._process else 0

    @property
    def _path(self) -> str:
        return f"{self._folder}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

    @property
    def _state(self) -> str:
        """The folder that every process of the pod knows, however it was started."""
        return str(self._folder / "disk" / "state")

    def log(self) -> list[str]:
        """Return what the pod wrote."""
        try:
            return (self._folder / "log").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def holds(self, path: str) -> bool:
        """Return whether a path is of this machine."""
        return path.startswith(str(self._folder))

    def work_lines(self) -> int:
        """Return how much work the guard in the pod has seen so far."""
        try:
            return Path(self._state, "work").stat().st_size
        except OSError:
            return 0

    def _sshd_pid(self) -> int:
        try:
            return int((self._folder / "disk" / "sshd.pid").read_text())
        except (OSError, ValueError):
            return 0

    def _furnish(self) -> int:
        """Make the disk and the programs; return a free port."""
        folder, disk = self._folder, self._folder / "disk"
        for made in (
            disk / "home",
            disk / "state",
            folder / "workspace",
            folder / "bin",
        ):
            made.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        variables = {
            "DURE_POD_STATE": self._state,
            "DURE_POD_VOLUME": folder / "workspace",
            "HOME": disk / "home",  # what this machine's shells do at a login is its own
            "PATH": self._path,
        }
        given = " ".join(f"{name}={value}" for name, value in variables.items())
        config = _CONFIG.format(port=port, folder=folder, variables=given)
        (disk / "sshd_config").write_text(config)
        sshd = shlex.join([_SSHD, "-D", "-f", str(disk / "sshd_config")])
        key = shlex.quote(str(disk / "host_key"))
        self._program(
            "sshd",
            f"[ -e {key} ] || /usr/bin/ssh-keygen -q -t ed25519 -N '' -f {key}\n"
            f"setsid sh -c 'echo $$ >{disk}/sshd.pid; exec {sshd}' &\n",
        )
        if rsync := shutil.which("rsync"):
            self._program("rsync", _RSYNC.format(folder=folder, rsync=rsync))
        self._program(
            "python3", f'exec {shlex.quote(sys.executable)} "$@"\n'
        )  # with what tuning needs
        self._program("workbench", "exec sleep infinity\n")
        self._program("ssh-keygen", "exit 0\n")  # the keys of this machine are its own
        self._program(
            "nvidia-smi",
            f'case "$*" in *utilization*) cat {folder}/gpu 2>/dev/null || echo 0 ;;\n'
            '*) echo "NVIDIA GeForce RTX 4090 (emulated)" ;; esac\n',
        )
        server = shlex.join([sys.executable, "-P", str(_MODEL_SERVER)])
        for name in ("llama-server", "vllm"):
            self._program(name, f'exec {server} "$@"\n')
        return port

    def _program(self, name: str, text: str) -> None:
        path = self._folder / "bin" / name
        part_of(path).write_text(f"#!/bin/sh\n{text}")
        part_of(path).chmod(0o755)
        part_of(path).replace(path)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _below(pid: int) -> list[int]:
    """Return the processes that come from one, each of which may have a group of its own."""
    try:
        return [one.pid for one in psutil.Process(pid).children(recursive=True)] if pid else []
    except psutil.NoSuchProcess:
        return []


def _with_state(state: str) -> list[int]:
    """Return the processes that have outlived the login that started them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("DURE_POD_STATE") == state:
                found.append(process.pid)
    return found


def _end_group(pid: int) -> None:
    if pid:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
