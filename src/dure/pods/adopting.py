"""A pod's entry carried to another machine's ledger, so that the guard there ends it too.

Adopts only a pod that some ledger has made and whose label the user typed, and that the provider shows
under that label and id. That the guard in the pod is armed was checked by who made it. Refuses to look
for pods by itself: they may be somebody else's.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from dure.errors import UsageError
from dure.pods.ledger import Entry
from dure.pods.life import PodLives
from dure.pods.names import checked_name, is_label

__all__ = ["adopt", "carried"]

_CURE = "pipe it in, as in `dure pod export NAME --ledger | ssh pi dure pod guard --adopt LABEL`"


def carried(entry: Entry) -> str:
    """Return an entry as text. It has no secret."""
    return msgspec.json.encode(entry).decode() + "\n"


def adopt(lives: PodLives, text: str, label: str) -> Entry:
    """Write down a pod of another ledger; one that is here already gets its limits anew.

    Idleness is left to the guard in the pod: this machine has no key for ssh, and the provider's figures
    miss short requests. Raises UsageError if the entry is none, or not of this label, PodError, or
    UsageError, if the provider has no such pod.
    """
    entry = _entry(text)
    if not is_label(label) or entry.label != label:
        raise UsageError(
            f"the entry is of {entry.label!r}, and --adopt says {label}",
            "name the pod that is meant",
        )
    checked_name("the entry's name is", entry.name)
    pod = lives.provider.pod(entry.pod_id) if entry.pod_id else None
    if pod is None or pod.name != label:
        raise UsageError(
            f"the account has no pod {label} with the id {entry.pod_id or 'that is missing'}",
            "use the key of the account that rents it",
        )
    limits = replace(entry.limits, idle_s=0)
    here = {known.label for known in lives.ledger.all()}
    if label in here:
        lives.ledger.update(
            label, lambda e: replace(e, limits=limits), lives.provider.now(), "adopted", "again"
        )
    else:
        taken = {known.name for known in lives.ledger.living()}
        lives.ledger.intend(
            replace(
                entry,
                name=label if entry.name in taken else entry.name,
                limits=limits,
                spent=max(entry.spent, lives.provider.billed(entry.pod_id)),
                door_port=0,
                ssh_key="",
                key_file="",  # a path of the other machine
            )
        )
    return lives.see(next(e for e in lives.ledger.all() if e.label == label), pod)


def _entry(text: str) -> Entry:
    """Return the entry in a text. Raises UsageError."""
    try:
        entry = msgspec.json.decode(text, type=Entry)
    except msgspec.DecodeError as error:
        raise UsageError(f"no entry of a ledger was read ({error})", _CURE) from None
    limits = entry.limits
    if entry.state.is_over or limits.max_seconds <= 0 or limits.max_spend.micros <= 0:
        raise UsageError(f"{entry.label} is over, or has no limits", _CURE)
    return entry
