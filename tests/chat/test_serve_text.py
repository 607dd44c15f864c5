"""The bytes of tokens become text: whole characters, cut at stop strings, with their tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dure.chat.text import TextAssembler

# Few letters, so that stop strings are met and begun often; é and 🤗 are several bytes.
TEXTS = st.text("abé🤗", max_size=30)
STOPS = st.lists(st.text("abé🤗", min_size=1, max_size=5), max_size=4)
CUTS = st.lists(st.integers(0, 120), max_size=40)


def cut_up(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def assembled(
    pieces: Sequence[bytes], stop: Sequence[str]
) -> tuple[list[str], list[int], str | None]:
    """The texts given out, all tokens given out (by number), and the stop that was met."""
    assembler: TextAssembler[int] = TextAssembler(stop)
    chunks = []
    for number, piece in enumerate(pieces):
        chunks.append(assembler.feed(piece, number))
        if assembler.stop is not None:
            break
    chunks.append(assembler.finish())
    tokens = [token for chunk in chunks for token in chunk.tokens]
    return [chunk.text for chunk in chunks], tokens, assembler.stop


def expected(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """Character by character: the stop that ends first; of several the longest."""
    for end in range(1, len(text) + 1):
        met = [s for s in stop if text[:end].endswith(s)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(TEXTS, CUTS, STOPS)
@example("aab", [1, 2], ["ab", "b"])
@example("ab", [1], ["abé", "b"])
@example("🤗", [1, 2, 3], ["🤗"])
def test_text_is_cut_at_the_first_stop_wherever_the_tokens_borders_are(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    texts, _, met = assembled(cut_up(text.encode(), cuts), stop)
    assert ("".join(texts), met) == expected(text, stop)


@given(st.binary(max_size=40), CUTS)
def test_any_bytes_become_the_text_that_decoding_them_at_once_gives(
    data: bytes, cuts: list[int]
) -> None:
    texts, _, _ = assembled(cut_up(data, cuts), ())
    assert "".join(texts) == data.decode("utf-8", "replace")


@given(TEXTS, CUTS, STOPS)
def test_every_token_is_given_out_once_and_in_order_up_to_the_stop(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    pieces = cut_up(text.encode(), cuts)
    texts, tokens, met = assembled(pieces, stop)
    assert tokens == list(range(len(tokens)))
    if met is None:
        assert len(tokens) == len(pieces)
    shown = len("".join(texts).encode())
    assert sum(len(pieces[token]) for token in tokens) >= shown
    assert sum(len(pieces[token]) for token in tokens[:-1]) < shown or not tokens or met is None


@given(TEXTS, CUTS, STOPS)
def test_what_is_given_out_is_never_taken_back_and_never_part_of_a_stop(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    texts, _, _ = assembled(cut_up(text.encode(), cuts), stop)
    whole, _ = expected(text, stop)
    shown = ""
    for more in texts:
        shown += more
        assert whole.startswith(shown)


def test_text_that_cannot_begin_a_stop_is_given_out_at_once() -> None:
    assembler: TextAssembler[int] = TextAssembler(["</end>"])
    assert assembler.feed(b"one ", 0).text == "one "
    assert assembler.feed(b"two <", 1).text == "two "
    assert assembler.feed(b"/e", 2).text == ""
    assert assembler.feed(b"!", 3).text == "</e!"


def test_tokens_of_one_character_come_with_it() -> None:
    assembler: TextAssembler[int] = TextAssembler()
    pieces = [bytes([byte]) for byte in "🤗".encode()]
    chunks = [assembler.feed(piece, number) for number, piece in enumerate(pieces)]
    assert [chunk.text for chunk in chunks] == ["", "", "", "🤗"]
    assert chunks[-1].tokens == (0, 1, 2, 3)


def test_half_a_character_at_the_end_is_shown_as_damaged() -> None:
    assembler: TextAssembler[int] = TextAssembler()
    assert assembler.feed("🤗".encode()[:2], 0).text == ""
    last = assembler.finish()
    assert (last.text, last.tokens) == ("\ufffd", (0,))


@pytest.mark.parametrize("stop", [[], [""], ["", "x"]])
def test_an_empty_stop_string_stops_nothing(stop: list[str]) -> None:
    texts, _, met = assembled([b"a", b"b"], stop)
    assert "".join(texts) == "ab"
    assert met is None
