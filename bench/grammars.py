"""Grammars of JSON schemas: dure's, with llama.cpp's matcher, compared with llguidance's.

Are numbers and names at a schema's limits judged correctly? How much processor time does a token take: to
check whether it is allowed, to mask the whole vocabulary, to accept it? See also decision 16.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
import psutil
from llguidance.llamacpp import lltokenizer_from_vocab
from measure import main

from dure.chat.json_schema import grammar_of
from dure.engine.executor import TopK
from dure.generate.llama_samplers import GrammarState
from dure.generate.request import Grammar
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

Schema = dict[str, Any]
Text = tuple[Schema, str, bool]  # whether it is allowed
Matcher = Callable[[Schema], Any]

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
GAP = {"whitespace_pattern": r"( |\n[ \t]{0,40})"}  # as dure writes it
RANGES = 400  # of random numbers
LOW, HIGH = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")

NAMES: Schema = {"properties": {"ab": {"type": "null"}}, "additionalProperties": True}
HALF: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}
BEYOND: list[Text] = [
    ({"type": "integer", "minimum": 2**53 + 1}, str(2**53), False),
    ({"type": "integer", "maximum": 2**53 + 1}, str(2**53 + 1), True),
    (HALF, "0", False),
    (HALF, "0.5", True),
    (NAMES, '{"ab":null}', True),
    (NAMES, '{"ab":7}', False),
    (NAMES, '{"ab":null,"\\u0061b":7}', False),
]
VILLAGER: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["villager", "merchant", "guard"]},
    },
    "additionalProperties": False,
}
ANSWER = (
    '{"name": "Mina Søndergård", "age": 37, "tags": ["goat keeper", "두레 member", '
    '"reads at night, mostly about rain"], "kind": "villager"}'
)
MANY = {f"property {i}": {"type": "integer"} for i in range(1000)}
LARGE: dict[str, Schema] = {
    "villager": VILLAGER,
    "5,000 values": {"enum": [f"value {i}" for i in range(5000)]},
    "1,000 properties": {"type": "object", "properties": MANY, "additionalProperties": False},
}


class Dure:
    """dure's rules and llama.cpp's matcher."""

    def __init__(self, vocabulary: Vocabulary, schema: Schema) -> None:
        self._state = GrammarState(Grammar(grammar_of(schema)), vocabulary)
        ids = np.arange(vocabulary.n_tokens, dtype=np.int32)
        self._all = TopK(ids, np.zeros(len(ids), np.float32), 0.0, whole=True)
        self.allows, self.accept = self._state.allows, self._state.accept
        self._end = vocabulary.ends[0]

    def complete(self) -> bool:
        """Return whether the text may end here."""
        return self._state.allows(self._end)

    def mask(self) -> int:
        """Return how many tokens are allowed."""
        return len(self._state.allowed(self._all).ids)


class LlGuidance:
    """llguidance's grammar and matcher."""

    def __init__(self, tokenizer: llguidance.LLTokenizer, schema: Schema) -> None:
        whole = {"type": "object", **schema} if "properties" in schema else schema
        grammar = llguidance.LLMatcher.grammar_from_json_schema(whole, overrides=GAP)
        self._matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        assert not self._matcher.is_error(), self._matcher.get_error()
        self._bits = np.zeros((tokenizer.vocab_size + 31) // 32, np.int32)

    def allows(self, token: int) -> bool:
        """Return whether this token may come next."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def accept(self, token: int) -> None:
        """Append a token to the text."""
        assert self._matcher.consume_token(token)

    def complete(self) -> bool:
        """Return whether the text may end here."""
        return bool(self._matcher.is_accepting())

    def mask(self) -> int:
        """Return how many tokens are allowed."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        return int(np.unpackbits(self._bits.view(np.uint8)).sum())


def texts(n: int) -> Iterator[Text]:
    """Return numbers at the limits of `n` random ranges, some with a final zero, and the fixed texts."""
    yield from BEYOND
    chance, step = random.Random(1), Decimal("0.0001")
    for _ in range(n):
        low = Decimal(chance.randint(-30000, 30000)).scaleb(-chance.randint(0, 4))
        high = low + Decimal(chance.randint(1, 3000)).scaleb(-chance.randint(0, 4))
        closed, until = chance.choice([True, False]), chance.choice([True, False])
        schema = {"type": "number", LOW[not closed]: float(low), HIGH[not until]: float(high)}
        for number in (low, high, low - step, low + step, high - step, high + step):
            inside = low - step * closed < number < high + step * until
            zero = "0" if chance.random() < 0.3 and "." in f"{number:f}" else ""
            if number:  # -0 is another question
                yield schema, f"{number:f}{zero}", bool(inside)


def judged(make: Matcher, vocabulary: Vocabulary, cases: Sequence[Text]) -> tuple[int, int, int]:
    """Count the texts that are judged correctly, allowed wrongly, and refused wrongly."""
    right = allowed = refused = 0
    for schema, text, wanted in cases:
        accepts = follows(make(schema), vocabulary, text)
        right += accepts == wanted
        allowed += accepts and not wanted
        refused += wanted and not accepts
    return right, allowed, refused


def follows(state: Any, vocabulary: Vocabulary, text: str) -> bool:
    """Return whether a whole text is allowed."""
    for token in vocabulary.tokenize(text, add_bos=False):
        if not state.allows(token):
            return False
        state.accept(token)
    return bool(state.complete())


def timed(state: Any, tokens: Sequence[int]) -> str:
    """Return median and 99th percentile of each operation per token, in microseconds."""
    spent: dict[str, list[float]] = {"allows": [], "mask": [], "accept": []}
    for token in tokens:
        for name, microseconds in spent.items():
            given = () if name == "mask" else (token,)
            start = time.thread_time()
            getattr(state, name)(*given)
            microseconds.append((time.thread_time() - start) * 1e6)
    return "  ".join(
        f"{name} {np.median(us):.0f} ({np.percentile(us, 99):.0f})" for name, us in spent.items()
    )


def report(name: str, make: Matcher, vocabulary: Vocabulary) -> None:
    """Measure one of the two and print its figures."""
    right, allowed, refused = judged(make, vocabulary, cases := list(texts(RANGES)))
    print(f"{name}: {right} of {len(cases)} right, {allowed} allowed and {refused} refused wrongly")
    tokens = vocabulary.tokenize(ANSWER, add_bos=False)
    print(f"{name}: {len(tokens)} tokens, µs, median (p99): {timed(make(VILLAGER), tokens)}")
    for what, schema in LARGE.items():
        start = time.thread_time()
        make(schema)
        print(f"{name}: {what} read in {(time.thread_time() - start) * 1e3:.1f} ms")


def run() -> int:
    """Measure, print, and return the exit status: 0, as there is no target."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, default=DEMO, help="whose vocabulary (%(default)s)")
    with open_gguf(options.parse_args().model) as gguf:
        vocabulary, process = Vocabulary(gguf), psutil.Process()
        before, start = process.memory_info().rss, time.thread_time()
        tokenizer = lltokenizer_from_vocab(vocabulary.pointer, eos_token=list(vocabulary.ends))
        took, mib = time.thread_time() - start, (process.memory_info().rss - before) >> 20
        print(
            f"{llguidance.get_version()}: {vocabulary.n_tokens} tokens in {took:.2f} s, {mib} MiB"
        )
        report("dure", lambda schema: Dure(vocabulary, schema), vocabulary)
        report("llguidance", lambda schema: LlGuidance(tokenizer, schema), vocabulary)
    return 0


if __name__ == "__main__":
    main(run)
