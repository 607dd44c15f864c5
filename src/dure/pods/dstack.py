"""A pod as a configuration for dstack: the way on, for who outgrows one pod at a time.

Knows dstack's names. Strings are written as JSON, which every reader of YAML takes.
Checked with the parser of dstack 0.22.5.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from dure.pods.ledger import Entry
from dure.pods.provider import Pod
from dure.pods.templates import CACHES

__all__ = ["as_yaml", "dstack_configuration"]

_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")


def dstack_configuration(entry: Entry, pod: Pod, gpu_memory: int) -> dict[str, Any]:
    """Return the configuration. pod: as the provider has it. gpu_memory: GB of one GPU; 0 if not known."""
    run = pod.env.get("DURE_RUN", "")
    serves = bool(entry.server_port and run)
    kind: dict[str, Any] = {"type": "service" if serves else "dev-environment"}
    name = entry.name if _NAME.fullmatch(entry.name) else f"dure-{entry.name}"
    memory = {"memory": f"{gpu_memory}GB.."} if gpu_memory else {}
    disk = max(entry.disks.container + entry.disks.volume + entry.disks.network, 20)
    return {
        **kind,
        "name": name,
        "image": pod.image,
        **(_service(entry, pod, run) if serves else _workbench(entry)),
        "backends": ["runpod"],
        "spot_policy": "on-demand",
        "max_price": entry.limits.hourly.dollars,
        "max_duration": f"{entry.limits.max_seconds}s",
        "resources": {"gpu": {"count": entry.gpus, **memory}, "disk": f"{disk}GB.."},
    }


def _service(entry: Entry, pod: Pod, run: str) -> dict[str, Any]:
    """Return what a service has. A variable without a value is taken from the shell of dstack's user."""
    env = [f"{name}={value}" for name, value in pod.env.items() if name in CACHES]
    if entry.awaits_token:
        env.insert(0, "HF_TOKEN")
    model = _model_of(run)
    return {
        **({"env": env} if env else {}),
        "commands": [run],
        "port": entry.server_port,
        **({"model": model} if model else {}),
    }


def _workbench(entry: Entry) -> dict[str, Any]:
    idle = {"inactivity_duration": f"{entry.limits.idle_s}s"} if entry.limits.idle_s else {}
    return {"ide": "vscode", **idle}


def _model_of(run: str) -> str:
    """Return the model that a command serves, "" if it does not say."""
    words = shlex.split(run)
    for before in ("-hf", "serve"):
        if before in words[:-1]:
            return words[words.index(before) + 1]
    return ""


def as_yaml(configuration: Mapping[str, Any]) -> str:
    """Return a configuration as YAML, a line each."""
    return "\n".join(_lines(configuration)) + "\n"


def _lines(table: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list):
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {json.dumps(one)}" for one in value)
        else:
            yield f"{indent}{key}: {json.dumps(value)}"
