"""A lazy grammar's trigger is found where llama.cpp finds it, with work that does not grow."""

from __future__ import annotations

import re
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.generate.lazy_grammar import LONGEST_MATCH, Trigger
from dure.generate.request import Grammar

CALL = r"(<call>[ ]{0,4}\{)$"
BARE = r'^[ ]{0,4}(\{"name": "add")$'
START = r"(?:^|<start>)( to=)$"


def fed(grammar: Grammar, pieces: list[bytes]) -> tuple[int, bytes] | None:
    """Return how many pieces it took, and the bytes of the tokens that are handed over."""
    trigger = Trigger(grammar, pieces.__getitem__)
    for token in range(len(pieces)):
        tokens = trigger.feed(token)
        if tokens is not None:
            return token + 1, b"".join(pieces[one] for one in tokens)
    return None


def waiting(*triggers: str) -> Grammar:
    return Grammar('root ::= "a"', triggers=triggers)


@given(
    st.lists(
        st.sampled_from([b"<call>", b" ", b"{", b"<", b"call", b">{", b"x", b"\xc3"]), max_size=12
    )
)
def test_it_fires_with_the_token_with_which_the_whole_text_first_matches(
    pieces: list[bytes],
) -> None:
    """And hands over the tokens from the match's first one on."""
    pattern = re.compile(CALL[:-1].encode() + rb"\Z")
    ends = [n for n in range(1, len(pieces) + 1) if pattern.search(b"".join(pieces[:n]))]
    found = fed(waiting(CALL), pieces)
    assert (found[0] if found else None) == (ends[0] if ends else None)
    if found:
        match = pattern.search(b"".join(pieces[: found[0]]))
        assert match
        assert found[1].endswith(match[0])
        assert len(found[1]) - len(match[0]) < max(map(len, pieces))


@pytest.mark.parametrize("n", [0, 1, 500, 5000])
def test_a_call_is_found_after_any_length_of_text(n: int) -> None:
    found = fed(waiting(CALL), [*[b"a word "] * n, b"<ca", b"ll>", b"{"])
    assert found == (n + 3, b"<call>{")


def test_what_must_begin_an_answer_is_looked_for_at_its_beginning_only() -> None:
    """Also once the beginning is out of sight."""
    call = [b'{"name"', b': "add"']
    assert fed(waiting(BARE), call) == (2, b"".join(call))
    assert fed(waiting(BARE), [b"So: ", *call]) is None
    for n in range(LONGEST_MATCH - 20, LONGEST_MATCH + 20):
        assert fed(waiting(BARE), [*[b"x"] * n, *call]) is None
        assert fed(waiting(START), [*[b"x"] * n, b" to="]) is None
    assert fed(waiting(START), [b" to="]) == (1, b" to=")
    assert fed(waiting(START), [b"x", b"<start>", b" to="]) == (3, b"<start> to=")


def test_of_many_tools_any_begins_a_call() -> None:
    tools = [rf'^(\{{"name": "tool_{i}")$' for i in range(60)]
    assert fed(waiting(*tools), [b'{"name": "', b"tool_59", b'"']) == (3, b'{"name": "tool_59"')


def test_the_end_of_an_answer_that_is_searched_is_bounded() -> None:
    """No match reaches back further, so a token's work ends growing early in an answer."""
    for n, is_found in ((LONGEST_MATCH - 20, True), (LONGEST_MATCH + 20, False)):
        pieces = [b"<call>", *[b"x"] * n, b"{"]
        assert (fed(waiting(r"(<call>x*\{)$"), pieces) is not None) == is_found
    assert LONGEST_MATCH <= 2048


def called_with(trigger: Trigger, token: int) -> list[str]:
    """Return the functions of C that taking in a token calls."""
    names = []

    def note(_frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call":
            names.append(what.__name__)

    sys.setprofile(note)
    try:
        trigger.feed(token)
    finally:
        sys.setprofile(None)
    return names[:-1]  # without the one that ends it


def test_a_token_takes_one_search_whatever_was_said_and_however_many_tools_there_are() -> None:
    """Not one a tool, and nothing that is repeated for every earlier token."""
    works = set()
    for n_tools in (1, 60):
        tools = [rf"tool_{i}(\{{)$" for i in range(n_tools)]
        for n_tokens in (500, 6000):
            trigger = Trigger(waiting(*tools), [b"a word "].__getitem__)
            for _ in range(n_tokens):
                assert trigger.feed(0) is None
            works.add(tuple(called_with(trigger, 0)))
    (work,) = works
    assert work.count("search") + work.count("match") == 1


def test_a_token_triggers_alone() -> None:
    assert fed(Grammar('root ::= "a"', trigger_tokens=(2,)), [b"x", b"y", b"<call>"]) == (
        3,
        b"<call>",
    )
