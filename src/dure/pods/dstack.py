"""A pod as a file for dstack: the way on, for who outgrows one pod at a time.

Writes YAML as JSON strings and plain keys, which every YAML reader takes.
Source: dstack's reference of `service` and `dev-environment`, 2026.
"""

from __future__ import annotations

import json

from dure.pods.ledger import Entry
from dure.pods.provider import Pod

__all__ = ["dstack_file"]


def dstack_file(entry: Entry, pod: Pod | None) -> str:
    """Return the file. pod: as the provider has it, for what runs in it."""
    run = pod.env.get("DURE_RUN", "") if pod else ""
    serves = bool(entry.server_port and run)
    lines = [
        f"type: {'service' if serves else 'dev-environment'}",
        f"name: {entry.name}",
        *(
            [f"commands:\n  - {json.dumps(run)}", f"port: {entry.server_port}"]
            if serves
            else ["ide: vscode"]
        ),
        "backends: [runpod]",
        f"max_price: {entry.limits.hourly.dollars:g}",
        *(
            []
            if serves
            else [f"inactivity_duration: {entry.limits.idle_s}s"] * bool(entry.limits.idle_s)
        ),
        f"max_duration: {entry.limits.max_seconds}s",
        "resources:",
        f"  gpu: {entry.gpus}",
        f"  disk: {max(entry.disks.container + entry.disks.volume, 20)}GB..",
    ]
    return "\n".join(lines) + "\n"
