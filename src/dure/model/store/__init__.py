"""Which models this machine has, and where they come from.

Knows names, the models directory, and how to bring a model here whole. Knows nothing about what is
inside a model beyond its header, and nothing about terminals.
`store.pull` and what it needs of the network are imported when something is pulled, not before.
"""

from __future__ import annotations

from dure.model.store.library import Library, ModelFacts, Record, StoredModel, facts_at
from dure.model.store.locating import located
from dure.model.store.names import HubName, Name, UrlName, parse_name, short_names
from dure.model.store.watching import Watcher

__all__ = [
    "HubName",
    "Library",
    "ModelFacts",
    "Name",
    "Record",
    "StoredModel",
    "UrlName",
    "Watcher",
    "facts_at",
    "located",
    "parse_name",
    "short_names",
]
