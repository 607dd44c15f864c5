"""Fetches a base from the hub, in the pod: its line is quicker than one at home.

A repository with safetensors becomes a folder, any other name a GGUF of the pod's own models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from dure.model.store.download import Patience, client, download
from dure.model.store.hub import Hub, Listing
from dure.model.store.library import Library
from dure.model.store.names import HubName, parse_name
from dure.model.store.pull import pull
from dure.model.store.watching import SilentWatcher
from dure.sizes import bytes_text
from dure.tune.pod.job import BASES, PodJob, busy_file

__all__ = ["fetched"]

_OF_A_FOLDER = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def fetched(job: PodJob, note: Callable[[str], None]) -> Path:
    """Return the base of a job, fetched if it is not here. Raises UsageError, ResourceError, ModelError."""
    name, room = parse_name(job.hub_base), Path("..") / BASES
    hub = Hub(endpoint=job.hub or None, token=_token() or False)
    if isinstance(name, HubName):
        listing = hub.listing(name, SilentWatcher(), Patience())
        if name.wanted is None and _is_folder(listing):
            return _folder(hub, listing, room.absolute(), note)
    note(f"{name} is fetched from its place")
    return pull(name, Library(room), SilentWatcher(), hub=hub).model.path.absolute()


def _is_folder(listing: Listing) -> bool:
    names = {file.path for file in listing.files}
    return "config.json" in names and any(fnmatch(name, "*.safetensors") for name in names)


def _folder(hub: Hub, listing: Listing, room: Path, note: Callable[[str], None]) -> Path:
    """Download a folder; what is whole is not asked for again."""
    folder = room / listing.name.repo.replace("/", "--") / listing.commit[:12]
    target = folder / listing.name.repo.rpartition("/")[2]
    wanted = [
        file
        for file in listing.files
        if "/" not in file.path and any(fnmatch(file.path, one) for one in _OF_A_FOLDER)
    ]
    missing = [file for file in wanted if not (target / file.path).exists()]
    size = sum(file.size_bytes or 0 for file in missing)
    if missing:
        note(f"{listing.name} is fetched from the hub: {bytes_text(size)}")
    with client(Patience()) as http:
        for file in missing:
            source = hub.source(listing, file)
            download(http, source, target / file.path, watch=SilentWatcher(), patience=Patience())
    return target


def _token() -> str:
    """Return the token that was handed to this pod; "" if none was."""
    try:
        return busy_file().with_name("hf-token").read_text().strip()
    except OSError:
        return os.environ.get("HF_TOKEN", "")
