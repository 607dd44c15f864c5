"""What a node does for the root: a small fixed set of verbs, over HTTPS, for whoever TLS let in.

Knows this machine and the node's own directory. Refuses to run anything that is not dure's own, and to
write anywhere else.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from dure.hardware.probe import health, platform

__all__ = ["agent_app", "versions"]


def versions() -> dict[str, str]:
    """What must be the same on all nodes of a cluster, by name."""
    names = {"dure": "dure", "llama.cpp": "llama-cpp-python", "mpich": "mpich"}
    return {name: version(package) for name, package in names.items()}


def agent_app(directory: Path) -> FastAPI:
    """The agent of the node whose files lie in `directory`."""
    app = FastAPI(title="dure node", docs_url=None, redoc_url=None)

    @app.get("/facts")
    def facts() -> dict[str, Any]:
        """What this machine is, and how it is now."""
        return {
            "platform": dataclasses.asdict(platform(versions())),
            "health": dataclasses.asdict(health(directory)),
        }

    return app
