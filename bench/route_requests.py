"""Makes traces of requests: short chats and long documents, as people send them, at random times.

The same seed gives the same requests. Refuses to know who answers them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

CHATS = (
    "What is a bell made of?",
    "Tell me a story about a goat.",
    "How do I keep bread fresh?",
    "Name three rivers of Europe.",
    "Write a Python function that returns the median of a list, with type hints.",
    "Why does ice float?",
    "My code raises a KeyError in a dictionary lookup. How do I debug this function?",
    "Translate to French: the cat sleeps on the roof.",
    "Explain step by step how to prove that the square root of two is irrational.",
    "What shall I cook with leeks and potatoes?",
    "Compare TCP and UDP, and analyze the trade-offs for a game server's architecture.",
    "Write a short thank-you note to my neighbour.",
    "What is the capital of Portugal?",
    "Give me a regex that matches an IPv4 address, and explain it.",
    "How many legs have nine spiders and four ants together? Think it through.",
    "Hello! How are you today?",
    "Which SQL query lists customers without orders?",
    "Rewrite more politely: send me the file now.",
)
DUTIES = (
    "Summarize this report in three sentences.",
    "What is the main point of the text?",
    "List the places that are named below.",
    "Find what contradicts itself in these minutes, and reason about who is right.",
)
_WHO = ("The council", "A farmer", "Our neighbour", "The station master", "Nobody", "The engineer")
_DID = ("repaired", "painted", "sold", "counted", "measured", "forgot", "described")
_WHAT = ("the old bridge", "four lamps", "the harbour wall", "a red boat", "the winter grain")
_WHEN = ("in the spring", "after the storm", "on a Tuesday", "before the fair", "last year")


class Asked(NamedTuple):
    """A request: when it comes, its text, and how many tokens it wants at most."""

    at_s: float
    text: str
    most: int
    is_chat: bool


def trace(n: int, per_s: float, words: tuple[int, int], lengths: Sequence[int]) -> list[Asked]:
    """Return n requests, three chats to a document, which come at random times (Poisson).

    per_s: requests a second. words: of a document, from and to. lengths: of answers, tokens at most.
    """
    chance, at_s, asked = random.Random(5), 0.0, list[Asked]()
    for number in range(n):
        at_s += chance.expovariate(per_s)
        is_chat = chance.random() < 0.75
        text = chance.choice(CHATS) if is_chat else _document(chance, chance.randint(*words))
        # no two begin alike, so that no cache decides
        asked.append(Asked(at_s, f"({number}) {text}", chance.choice(lengths), is_chat))
    return asked


def _document(chance: random.Random, n_words: int) -> str:
    parts = [chance.choice(DUTIES)]
    while n_words > 0:
        sentence = " ".join(chance.choice(part) for part in (_WHO, _DID, _WHAT, _WHEN))
        n_words -= len(sentence.split())
        parts.append(f"{sentence}.")
    return " ".join(parts)
