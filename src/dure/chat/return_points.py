"""Where later conversations may leave a prompt: at the end of what they have in common, or of its messages.

Knows texts and tokens. Refuses to know templates, and what is kept at these points.
"""

from __future__ import annotations

from dure.generate.scheduler.prefix_tree import common_length
from dure.model.vocabulary import Vocabulary

__all__ = ["OTHER_QUESTION", "return_points"]

OTHER_QUESTION = "\N{CURRENCY SIGN}"  # begins as no question does


def return_points(
    vocabulary: Vocabulary, prompt: list[int], text: str, *, other: str, closed: str
) -> tuple[int, ...]:
    """Return the lengths of a prompt up to which others may be the same, ascending.

    text: the prompt's. other: with OTHER_QUESTION after the system message, instead of all that follows.
    closed: as far as its last message, without what begins the answer. "" if there is no such text.
    """
    points = set[int]()
    if common := text[: common_length(text, other)]:
        bos = vocabulary.bos_text
        written = bool(bos) and common.startswith(bos)
        tokens = vocabulary.tokenize(common, special=True, add_bos=not written)
        points.add(
            common_length(tokens, prompt) - 1
        )  # before other texts the last may be another one
    if opening := text[common_length(text, closed) :] if closed else "":
        tokens = vocabulary.tokenize(opening, special=True, add_bos=False)
        points.add(len(prompt) - len(tokens))
    return tuple(sorted(point for point in points if 0 < point < len(prompt)))
