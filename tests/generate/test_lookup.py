"""What followed before is guessed to follow again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dure.generate.speculative.prompt_lookup import NGRAM_LENGTHS, PromptLookup

LONG, SHORT = NGRAM_LENGTHS


def test_a_new_ending_is_no_ground_for_a_guess() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6, 7]).propose(4) is None
    assert PromptLookup().propose(4) is None
    assert PromptLookup([1, 2, 3, 9, 1, 2, 3]).propose(0) is None


def test_what_followed_last_is_guessed() -> None:
    """The latest place with the longest ending."""
    lookup = PromptLookup([1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 1, 2, 3])
    guess = lookup.propose(3)
    assert guess is not None
    assert (guess.tokens, guess.n_matched) == ((5, 9, 1), SHORT)


def test_a_longer_ending_is_believed_first() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 70, 4, 5, 6, 80, 1, 2, 3, 4, 5, 6])
    guess = lookup.propose(1)
    assert guess is not None
    assert (guess.tokens, guess.n_matched) == ((70,), LONG)


def test_a_text_that_goes_round_is_guessed_past_its_end() -> None:
    lookup = PromptLookup([1, 2, 3] * 3)
    guess = lookup.propose(7)
    assert guess is not None
    assert guess.tokens == (1, 2, 3, 1, 2, 3, 1)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20))
def test_a_guess_is_what_followed_the_same_ending(tokens: list[int], most: int) -> None:
    """Compared with a search through the whole text."""
    guess = PromptLookup(tokens).propose(most)
    found = None
    for length in NGRAM_LENGTHS:
        ends = [i for i in range(length, len(tokens)) if tokens[i - length : i] == tokens[-length:]]
        if ends and len(tokens) >= length:
            found = ends[-1], length
            break
    assert (guess is None) == (found is None)
    if guess is not None and found is not None:
        start, length = found
        assert guess.n_matched == length
        assert len(guess.tokens) == most
        assert list(guess.tokens[: len(tokens) - start]) == tokens[start : start + most]
