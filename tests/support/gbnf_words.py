"""Draws random texts from a grammar, and judges texts by llama.cpp's matcher.

The texts are drawn from the grammar as `read_gbnf` parses it; llama.cpp's matcher is the judge.
"""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dure.chat.gbnf import Characters, Group, Item, Reference, Repeat, Rule, read_gbnf
from dure.generate.request import Grammar
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

__all__ = ["DEMO", "Judge", "Words", "demo_vocabulary"]

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
_POOL = 'aZ09 _-{}[]<>"\\/\n\té두🐐\x7f'


@contextmanager
def demo_vocabulary() -> Iterator[Vocabulary]:
    """Return the demo model's vocabulary."""
    with open_gguf(DEMO) as gguf:
        vocabulary = Vocabulary(gguf)
        try:
            yield vocabulary
        finally:
            vocabulary.close()


class Words:
    """Draws texts that a grammar allows."""

    def __init__(self, gbnf: str, root: str = "root") -> None:
        self._rules, self._root = read_gbnf(gbnf), root
        self._least = dict.fromkeys(self._rules, math.inf)
        while True:
            least = {name: 1 + self._rule_depth(rule) for name, rule in self._rules.items()}
            if least == self._least:
                break
            self._least = least

    def draw(self, chance: random.Random, depth: int = 12) -> str:
        """Return a random text; beyond `depth` nested rules it takes the shortest way out."""
        return self._draw_rule(self._rules[self._root], chance, depth)

    def _draw_rule(self, rule: Rule, chance: random.Random, depth: float) -> str:
        options = [items for items in rule if self._items_depth(items) < depth]
        items = chance.choice(options) if options else min(rule, key=self._items_depth)
        return "".join(self._draw_item(item, chance, depth) for item in items)

    def _draw_item(self, item: Item, chance: random.Random, depth: float) -> str:
        match item:
            case Characters(ranges, negated):
                return _character(ranges, negated, chance)
            case Reference(name):
                return self._draw_rule(self._rules[name], chance, depth - 1)
            case Group(options):
                return self._draw_rule(options, chance, depth)
            case Repeat(repeated, least, most):
                more = 3 if most is None else min(3, most - least)
                n = least + (chance.randint(0, more) if self._item_depth(repeated) < depth else 0)
                return "".join(self._draw_item(repeated, chance, depth) for _ in range(n))
        raise AssertionError(f"no text of {item}")

    def _rule_depth(self, rule: Rule) -> float:
        return min(self._items_depth(items) for items in rule)

    def _items_depth(self, items: tuple[Item, ...]) -> float:
        return max((self._item_depth(item) for item in items), default=0)

    def _item_depth(self, item: Item) -> float:
        match item:
            case Reference(name):
                return self._least[name]
            case Group(options):
                return self._rule_depth(options)
            case Repeat(repeated, least, _):
                return self._item_depth(repeated) if least else 0
        return 0


def _character(ranges: tuple[tuple[int, int], ...], negated: bool, chance: random.Random) -> str:
    if negated:
        return chance.choice([c for c in _POOL if not any(a <= ord(c) <= b for a, b in ranges)])
    low, high = chance.choice(ranges)
    code = chance.choice([low, high, chance.randint(low, high)])
    return chr(code) if not 0xD800 <= code <= 0xDFFF else chr(low)


class Judge:
    """llama.cpp's own matcher of a grammar over a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import llama_cpp.llama_cpp as lib

        self._lib, self._vocabulary = lib, vocabulary
        (self._end,) = vocabulary.tokenize("<|im_end|>", special=True, add_bos=False)

    def allows(self, gbnf: str, text: str, root: str = "root") -> bool:
        """Return whether the whole text follows the grammar."""
        sampler = self._lib.llama_sampler_init_grammar(
            self._vocabulary._vocabulary, gbnf.encode(), root.encode()
        )
        assert sampler, "llama.cpp cannot read the grammar"
        return self._follows(sampler, text)

    def allows_lazily(self, grammar: Grammar, text: str) -> bool:
        """Return whether a lazy grammar, which waits for its triggers, allows the text."""
        patterns = (ctypes.c_char_p * len(grammar.triggers))(
            *(t.encode() for t in grammar.triggers)
        )
        tokens = (ctypes.c_int32 * len(grammar.trigger_tokens))(*grammar.trigger_tokens)
        sampler = self._lib.llama_sampler_init_grammar_lazy_patterns(
            self._vocabulary._vocabulary,
            grammar.gbnf.encode(),
            grammar.root.encode(),
            patterns,
            len(patterns),
            tokens,
            len(tokens),
        )
        assert sampler, "llama.cpp cannot read the grammar"
        return self._follows(sampler, text)

    def _follows(self, sampler: Any, text: str) -> bool:
        try:
            for token in self._vocabulary.tokenize(text, special=True, add_bos=False):
                if not self._may(sampler, token):
                    return False
                self._lib.llama_sampler_accept(sampler, token)
            return self._may(sampler, self._end)
        finally:
            self._lib.llama_sampler_free(sampler)

    def _may(self, sampler: Any, token: int) -> bool:
        data = (self._lib.llama_token_data * 1)(self._lib.llama_token_data(token, 0.0, 0.0))
        array = self._lib.llama_token_data_array(data=data, size=1, selected=-1, sorted=False)
        self._lib.llama_sampler_apply(sampler, ctypes.byref(array))
        return bool(data[0].logit == 0.0)
