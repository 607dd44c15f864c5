"""What dure is called on a machine: the packages that must be the same on all, and its service.

Knows names only. Refuses to know how they get there.
"""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["NODE_UNIT", "PACKAGES", "versions"]

NODE_UNIT = "dure-node.service"
PACKAGES = {"dure": "dure", "llama.cpp": "llama-cpp-python", "mpich": "mpich"}
"""What must be the same on all machines of a cluster, by name, and its package."""


def versions() -> dict[str, str]:
    """Return this machine's version of everything that must be the same on all, by name."""
    return {name: version(package) for name, package in PACKAGES.items()}
