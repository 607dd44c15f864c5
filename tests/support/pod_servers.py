"""Moves the server of an emulated pod to a port of its own: all of them live on this machine."""

from __future__ import annotations

import re
import socket

from msgspec.structs import replace

from dure.pods.ledger import Ledger
from tests.support.pod_person import Person

__all__ = ["move_server"]


def move_server(person: Person) -> None:
    """Have the newest pod serve at a free port from its next start on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    pod = person.pod
    pod.env["DURE_RUN"] = re.sub(r"--port \d+", f"--port {port}", pod.env["DURE_RUN"])
    if "DURE_SERVER_PORT" in pod.env:
        pod.env["DURE_SERVER_PORT"] = str(port)
    ledger = Ledger(person.home / ".local" / "state" / "dure" / "pods")
    ledger.update(pod.name, lambda entry: replace(entry, server_port=port), pod.seen_at)
    ledger.close()
