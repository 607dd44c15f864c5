"""Checks of what models lie on."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import Verdict, check, healthy, note, serious, warning
from dure.hardware.examination.condition import Card, Condition
from dure.sizes import bytes_text

__all__ = ["CHECKS"]

_FULL_BYTES, _NEARLY_FULL_BYTES = 1_000_000_000, 5_000_000_000
_NEARLY_FULL = 0.05
_SLOW_BYTES_PER_S, _VERY_SLOW_BYTES_PER_S = 40e6, 18e6
_WORN, _NEARLY_WORN = 10, 8  # tenths
_REPLACE = "copy what is on it to a new card or, better, an SSD"


@check(
    "disk-room",
    "disk",
    "Without room no model is pulled and no shard arrives; a full disk stops other programs too.",
    "rooms",
)
def room(condition: Condition) -> Iterator[Verdict]:
    """Judge whether there is room for models and shards."""
    for one in condition.rooms:
        free, size = one.free_bytes, one.size_bytes
        evidence = f"{bytes_text(free)} of {bytes_text(size)} free for {one.what} in {one.path}"
        cure = "`dure ls` and `dure cache ls` show what is there, `dure rm MODEL` deletes a model"
        if free < min(_FULL_BYTES, size // 50):
            yield serious("the disk is full", evidence, cure)
        elif free < min(_NEARLY_FULL_BYTES, size * _NEARLY_FULL):
            yield warning("the disk is nearly full", evidence, cure)
        else:
            yield healthy("there is room on the disk", evidence)


@check(
    "card-speed",
    "SD card",
    "A model is read once at every start: 5 GB take two minutes at 40 MB/s, and five at 17.",
    "card_speeds",
)
def card_speed(condition: Condition) -> Iterator[Verdict]:
    """Judge whether SD cards are read quickly."""
    for name, speed in condition.card_speeds.items():
        evidence = f"{name} is read at {speed / 1e6:.0f} MB/s"
        cure = "use a card of class A2 or, better, an SSD on USB 3 or PCIe"
        if speed < _VERY_SLOW_BYTES_PER_S:
            yield warning("the SD card is very slow", evidence, cure)
        elif speed < _SLOW_BYTES_PER_S:
            yield note("the SD card is slow", evidence, cure)
        else:
            yield healthy("the SD card is quick enough", evidence)


@check(
    "card-wear",
    "SD card",
    "Flash wears out: a worn card loses files, or refuses to be written.",
    "cards",
)
def card_wear(condition: Condition) -> Iterator[Verdict]:
    """Judge whether a card shows signs of wear."""
    return (_wear(card) for card in condition.cards)


def _wear(card: Card) -> Verdict:
    evidence = f"{card.name} ({' '.join(filter(None, (card.kind, card.model)))})"
    if card.read_only:
        where = ", ".join(card.read_only)
        return serious(
            "a card can only be read", f"{evidence}: {where} fell back to that", _REPLACE
        )
    if card.errors:
        what = "the file system has found errors on a card"
        return serious(what, f"{evidence}: {card.errors} errors", _REPLACE)
    if card.life_used is None:
        return healthy("the card shows no sign of wear", f"{evidence} has no estimate of its own")
    evidence += f": {min(card.life_used, _WORN) * 10} % of its life used, by its own estimate"
    if card.life_used >= _WORN:
        return serious("a card is worn out", evidence, _REPLACE)
    if card.life_used >= _NEARLY_WORN:
        return warning("a card is nearly worn out", evidence, _REPLACE)
    return healthy("the card is not worn", evidence)


CHECKS = (room, card_speed, card_wear)
