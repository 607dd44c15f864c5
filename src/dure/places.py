"""Where dure keeps its files: each place is a variable of the environment, or the user's own directory.

Refuses to know what lies there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import platformdirs

__all__ = [
    "cache_directory",
    "cluster_directory",
    "config_file",
    "disk_bytes",
    "doctor_file",
    "free_bytes",
    "history_file",
    "models_directory",
    "node_directory",
    "page_directory",
    "pods_directory",
    "rank_priority_file",
    "route_directory",
    "runtime_directories",
    "runtime_directory",
    "same_disk",
    "shard_directory",
    "temporary_directory",
    "ui_file",
    "work_directory",
]


def free_bytes(directory: Path) -> int:
    """Return what is free on the disk of a directory, which need not exist yet."""
    return shutil.disk_usage(_existing(directory)).free


def disk_bytes(directory: Path) -> int:
    """Return the size of the disk of a directory, which need not exist yet."""
    return shutil.disk_usage(_existing(directory)).total


def same_disk(one: Path, other: Path) -> bool:
    """Return whether two directories, which need not exist yet, are on one disk."""
    return _existing(one.absolute()).stat().st_dev == _existing(other.absolute()).stat().st_dev


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.exists())


def doctor_file() -> Path:
    """Return where `dure doctor` keeps what it changed: DURE_DOCTOR, or the user's state directory."""
    return _named("DURE_DOCTOR") or platformdirs.user_state_path("dure") / "doctor.json"


def rank_priority_file() -> Path:
    """Return where a machine keeps how urgent its ranks' packets are; a root too has no better place."""
    return node_directory() / "rank-priority"


def models_directory() -> Path:
    """Return where pulled models lie: DURE_MODELS, or the user's data directory."""
    return _named("DURE_MODELS") or platformdirs.user_data_path("dure") / "models"


def cache_directory() -> Path:
    """Return the directory of files that can be made again: DURE_CACHE, or the user's cache directory."""
    return _named("DURE_CACHE") or platformdirs.user_cache_path("dure")


def shard_directory() -> Path:
    """Return where shards are kept."""
    return cache_directory() / "shards"


def config_file() -> Path:
    """Return the configuration file: DURE_CONFIG, or config.toml in the user's configuration."""
    return _named("DURE_CONFIG") or platformdirs.user_config_path("dure") / "config.toml"


def history_file() -> Path:
    """Return where `dure chat` keeps what was typed: DURE_HISTORY, or the user's state directory."""
    return _named("DURE_HISTORY") or platformdirs.user_state_path("dure") / "chat-history"


def route_directory() -> Path:
    """Return where a router keeps its log and what it has learned: DURE_ROUTE, or the user's state."""
    return _named("DURE_ROUTE") or platformdirs.user_state_path("dure") / "route"


def ui_file() -> Path:
    """Return where `dure ui` keeps the ports of its pages: DURE_UI, or the user's state directory."""
    return _named("DURE_UI") or platformdirs.user_state_path("dure") / "ui.json"


def cluster_directory() -> Path:
    """Return where a root keeps its cluster: DURE_CLUSTER_DIR, or the user's data directory."""
    return _named("DURE_CLUSTER_DIR") or platformdirs.user_data_path("dure") / "cluster"


def node_directory() -> Path:
    """Return where a node keeps its own: DURE_NODE_DIR, or the user's data directory."""
    return _named("DURE_NODE_DIR") or platformdirs.user_data_path("dure") / "node"


def page_directory() -> Path:
    """Return where servers keep the last day for their pages: DURE_PAGE, or the user's state directory."""
    return _named("DURE_PAGE") or platformdirs.user_state_path("dure") / "page"


def pods_directory() -> Path:
    """Return where the ledger of rented pods lies: DURE_PODS, or the user's state directory."""
    return _named("DURE_PODS") or platformdirs.user_state_path("dure") / "pods"


def runtime_directory() -> Path:
    """Return where this process is listed if it serves: DURE_RUNTIME, or the user's runtime directory."""
    return runtime_directories()[0]


def runtime_directories() -> list[Path]:
    """Return where running servers may be listed: a system's service has no runtime directory."""
    if named := _named("DURE_RUNTIME"):
        return [named]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    of_login = [Path(runtime) / "dure"] if runtime else []
    return [*of_login, platformdirs.user_state_path("dure") / "run"]


def work_directory() -> Path:
    """Return where running work is noted: DURE_WORK, or the user's state, which services see as well."""
    return _named("DURE_WORK") or platformdirs.user_state_path("dure") / "work"


def temporary_directory() -> Path:
    """Return where files of a running job lie: TMPDIR as it is now, or the system's own."""
    named = os.environ.get("TMPDIR")
    return Path(named) if named and os.access(named, os.W_OK) else Path(tempfile.gettempdir())


def _named(variable: str) -> Path | None:
    """Return the directory that a variable names, `~` expanded; None if it is empty or not set."""
    named = os.environ.get(variable)
    return Path(named).expanduser() if named else None
