"""The radix tree: it says the same as looking through all sequences, whatever was put in and taken out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dure.generate.scheduler.prefix_tree import PrefixTree, common_length

# few different tokens and lengths, so that sequences often share a beginning or are the same
sequences = st.lists(st.integers(0, 2), max_size=8)
keys = st.integers(0, 5)


def plain_common_length(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


class AgainstDict(RuleBasedStateMachine):
    """The tree beside a dict of lists that is looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: PrefixTree[int] = PrefixTree()
        self.plain: dict[int, list[int]] = {}

    @rule(key=keys, tokens=sequences)
    def put(self, key: int, tokens: list[int]) -> None:
        self.tree.put(key, tokens)
        self.plain.pop(key, None)
        if tokens:
            self.plain[key] = tokens

    @rule(key=keys)
    def remove(self, key: int) -> None:
        self.tree.remove(key)
        self.plain.pop(key, None)

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), more=sequences)
    def grow(self, data: st.DataObject, more: list[int]) -> None:
        """As a sequence does whose answer goes on."""
        key = data.draw(st.sampled_from(sorted(self.plain)))
        self.put(key, self.plain[key] + more)

    @rule(tokens=sequences)
    def longest(self, tokens: list[int]) -> None:
        found = self.tree.longest(tokens)
        most = max((plain_common_length(x, tokens) for x in self.plain.values()), default=0)
        if not most:
            assert found is None
            return
        assert found is not None
        key, n = found
        assert n == most
        assert self.plain[key][:n] == tokens[:n]

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.tree) == len(self.plain)
        for key, tokens in self.plain.items():
            assert key in self.tree
            assert self.tree.tokens(key) == tokens
            found = self.tree.longest(tokens)
            assert found is not None
            assert found[1] == len(tokens)


AgainstDict.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstDict = AgainstDict.TestCase


@settings(deadline=None)
@given(sequences, sequences)
def test_common_length_is_where_two_sequences_part(a: list[int], b: list[int]) -> None:
    """It counts as a plain loop does."""
    assert common_length(a, b) == plain_common_length(a, b)


@pytest.mark.parametrize("n", [0, 1, 511, 512, 9_999])
def test_common_length_of_long_sequences(n: int) -> None:
    """A single token that differs is found wherever it stands in 10,000."""
    a = list(range(10_000))
    b = [*a[:n], -1, *a[n + 1 :]]
    assert common_length(a, b) == n


def test_a_tree_that_was_emptied_finds_nothing() -> None:
    """After everything is removed, no node is left that a prompt could lead to."""
    tree: PrefixTree[str] = PrefixTree()
    tree.put("a", [1, 2, 3])
    tree.put("b", [1, 2, 4])
    tree.put("c", [1, 2])
    for key in "abc":
        tree.remove(key)
    assert tree.longest([1, 2, 3]) is None
    assert len(tree) == 0


def test_of_equal_sequences_the_latest_is_found() -> None:
    """A sequence in the KV cache is put in after the stored one, and needs no reading."""
    tree: PrefixTree[str] = PrefixTree()
    tree.put("stored", [1, 2, 3])
    tree.put("slot", [1, 2, 3])
    assert tree.longest([1, 2, 3, 4]) == ("slot", 3)
    tree.put("stored", [1, 2, 3])
    assert tree.longest([1, 2, 3, 4]) == ("stored", 3)


def test_an_unknown_key_is_an_error_only_where_its_tokens_are_asked_for() -> None:
    """Removing it does nothing."""
    tree: PrefixTree[str] = PrefixTree()
    tree.remove("nobody")
    with pytest.raises(KeyError):
        tree.tokens("nobody")
