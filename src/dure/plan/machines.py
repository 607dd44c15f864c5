"""Reads the catalogue: devices, links and engines by name.

Knows that it is TOML beside the package's code. Refuses to know what figures mean.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from dure.errors import UsageError
from dure.plan.devices import Device, EngineWays, NetworkLink

__all__ = ["device_like", "device_named", "devices", "engine_named", "link_named", "links"]

_MEMORY_DOUBT = 0.2  # of it: what graphics and kernel take, and the difference of GB and GiB


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("dure.plan.catalogue") / name).read_text("utf-8"))


@cache
def devices() -> Mapping[str, Device]:
    """Return all devices by name."""
    table = _read("devices.toml")
    processors = table["processors"]
    return {
        name: msgspec.convert({**one, "processor": processors[one["processor"]]}, Device)
        for name, one in table["devices"].items()
    }


@cache
def links() -> Mapping[str, NetworkLink]:
    """Return all links by name."""
    return msgspec.convert(_read("links.toml"), dict[str, NetworkLink])


@cache
def _engines() -> Mapping[str, EngineWays]:
    return msgspec.convert(_read("engines.toml"), dict[str, EngineWays])


def device_named(name: str) -> Device:
    """Return a device. Raises UsageError, with near names, if there is none."""
    found = devices().get(name.lower())
    if found is None:
        raise UsageError(f"{name}: the catalogue has no such machine", _near(name, devices()))
    return found


def device_like(processor: str, memory_bytes: float) -> Device | None:
    """Return the device whose processor has this name on Linux, with about this memory; None if none is."""
    for one in devices().values():
        is_near = abs(memory_bytes / one.memory.value - 1) < _MEMORY_DOUBT
        if one.reports and processor.startswith(one.reports) and is_near:
            return one
    return None


def link_named(name: str) -> NetworkLink:
    """Return a link. Raises UsageError if there is none."""
    found = links().get(name.lower())
    if found is None:
        raise UsageError(
            f"{name}: the catalogue has no such link", f"give one of {', '.join(links())}"
        )
    return found


def engine_named(name: str) -> EngineWays:
    """Return an engine's ways of working."""
    return _engines()[name]


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"give one of {', '.join(names)}"
