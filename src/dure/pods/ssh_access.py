"""ssh into pods: a key of dure's own, an entry `dure-NAME` for every pod, and the probe that heals it.

The entries are a file of their own, written anew from the ledger; ~/.ssh/config includes it by one line.
A pod's port changes with every start, and the first one told may be an old one: only a login proves it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from dure.cluster.add.ssh import BROKEN
from dure.errors import UsageError
from dure.pods.hub_token import RECEIVE, HubToken
from dure.pods.ledger import Entry
from dure.pods.life import PodLives, pauses
from dure.pods.provider import PodError, SshDoor
from dure.pods.report import READ_AND_BEAT, PodReport, report_of
from dure.ssh_program import ssh_environment, ssh_is_here
from dure.whole_file import write_whole

__all__ = ["HOSTS", "SshAccess"]

HOSTS = "dure-"
"""What the name of a pod's entry begins with."""
_PROBE_S = 5.0
_HANGS_S = 30.0
_ENTRY = """\
Host {host}
    HostName {address}
    Port {port}
    User {user}
    HostKeyAlias {alias}
    IdentityFile "{key}"
    IdentitiesOnly yes
    UserKnownHostsFile "{known}"
    StrictHostKeyChecking accept-new
    ServerAliveInterval 15

"""


@dataclass(frozen=True)
class SshAccess:
    """The user's .ssh, and what of it is dure's. own_key: the user's private key, if not dure's."""

    home: Path
    own_key: Path | None = None

    @property
    def folder(self) -> Path:
        """What is dure's."""
        return self.home / ".ssh" / "dure"

    @property
    def config(self) -> Path:
        """The pods' entries."""
        return self.folder / "config"

    @property
    def key(self) -> Path:
        """The private key."""
        return self.own_key or self.folder / "id_ed25519"

    # ------------------------------------------------------------ the key

    def public_key(self) -> str:
        """Return the public key; make one if there is none.

        Raises ResourceError without ssh, as no pod could be checked then; UsageError for a key that is
        not there.
        """
        ssh_is_here("ssh", "ssh-keygen")
        if not self.key.exists():
            if self.own_key:
                raise UsageError(
                    f"there is no key {self.own_key}", "name a private key that exists"
                )
            self._make_key()
        public = self.key.with_name(f"{self.key.name}.pub")
        try:
            text = public.read_text().strip()
        except OSError as error:
            raise UsageError(
                f"cannot read {public}: {error.strerror}",
                f"`ssh-keygen -y -f {self.key} > {public}`",
            ) from error
        if not re.fullmatch(r"[\w@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?", text):
            raise UsageError(f"{public} holds no public key", "name another key with --ssh-key")
        return text

    def _make_key(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dure", "-f", str(self.key)]
        subprocess.run(
            made,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.environment(),
        )

    # ------------------------------------------------------------ the entries

    @property
    def include(self) -> str:
        """The line of ~/.ssh/config that includes the entries."""
        return f'Include "{self.config}"'

    @property
    def is_included(self) -> bool:
        """Whether ~/.ssh/config has the line."""
        config = self.home / ".ssh" / "config"
        return config.exists() and self.include in config.read_text().splitlines()

    def include_entries(self) -> None:
        """Add the line to ~/.ssh/config, before every Host of it."""
        config = (self.home / ".ssh" / "config").resolve()
        before = config.read_text() if config.exists() else ""
        write_whole(config, f"{self.include}\n\n{before}".encode(), private=True)

    def write_entries(self, entries: Iterable[Entry]) -> None:
        """Write the entries of all pods that can be reached."""
        reachable = [entry for entry in entries if entry.door_port and not entry.state.is_over]
        text = "".join(self._entry(entry) for entry in reachable)
        write_whole(self.config, f"# written by dure\n\n{text}".encode(), private=True)

    def _entry(self, entry: Entry) -> str:
        return _ENTRY.format(
            host=f"{HOSTS}{entry.name}",
            address=entry.door_host,
            port=entry.door_port,
            user=entry.door_user,
            alias=f"{entry.label}-{entry.running_since:.0f}-{entry.door_port}",  # each start makes keys
            key=entry.ssh_key or self.key,
            known=self.folder / "known_hosts",
        )

    # ------------------------------------------------------------ going in

    def command(
        self, entry: Entry, words: Sequence[str] = (), options: Sequence[str] = ()
    ) -> list[str]:
        """Return the command that logs in. words: what to run there."""
        return ["ssh", "-F", str(self.config), *options, f"{HOSTS}{entry.name}", *words]

    def run(self, entry: Entry, script: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script in a pod, without any question; what hangs has failed. given: its input."""
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_PROBE_S:.0f}"]
        command = self.command(entry, [script], options)
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                input=given,
                env=self.environment(),
                timeout=_HANGS_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, BROKEN, "", "it hangs")

    def report(self, entry: Entry) -> PodReport | None:
        """Ask the guard in a pod, and let it know that its owner was here; None if it is silent."""
        if not entry.door_port or shutil.which("ssh") is None or not self.config.exists():
            return None
        return report_of(self.run(entry, READ_AND_BEAT).stdout)

    def hand_token(self, entry: Entry, token: HubToken) -> None:
        """Give a pod the token that its program waits for, on ssh's input. Raises PodError."""
        if self.run(entry, RECEIVE, token.secret).returncode:
            raise PodError(
                f"{entry.name} does not take the token of Hugging Face, so it serves nothing",
                f"look at `dure pod logs {entry.name}`, or `dure pod rm {entry.name}`",
            )

    @staticmethod
    def environment() -> dict[str, str]:
        """Return the variables of programs that dure starts: without its secrets."""
        return ssh_environment()

    def heal(self, lives: PodLives, entry: Entry, patience_s: float) -> Entry:
        """Find the port that lets in, and write the entry. Raises PodError if none does in that time."""
        for pause_s in pauses(patience_s):
            entry, pod = lives.look(entry)
            if pod is None:
                raise PodError(f"{entry.name} is gone", "see `dure pod ls --all`")
            if pod.status.is_over:
                raise PodError(
                    f"{entry.name} does not run ({pod.status})", f"`dure pod start {entry.name}`"
                )
            if pod.door is not None and self._lets_in(lives, entry, pod.door):
                return lives.ledger.named(entry.name)
            lives.wait(pause_s)
        raise PodError(
            f"{entry.name} lets nobody in by ssh after {patience_s:.0f} s",
            f"look at `dure pod logs {entry.name}`; it costs {entry.hourly} an hour",
        )

    def _lets_in(self, lives: PodLives, entry: Entry, door: SshDoor) -> bool:
        lives.ledger.update(
            entry.label,
            lambda e: replace(e, door_host=door.host, door_port=door.port, door_user=door.user),
            lives.provider.now(),
        )
        self.write_entries(lives.ledger.living())
        return self.run(entry, "true").returncode == 0
