"""The demo model, cut: the same text with exact sums, the same distribution with 8-bit sums."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dure.engine.executor import Batch, Executor
from dure.engine.kv import Clear, KvOp
from dure.engine.limits import Limits
from dure.engine.wire import Wire
from dure.generate.request import Sampling
from dure.generate.session import Session
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.conversations import conversations
from tests.support.cut_models import LIMITS, Floats, cut_executor, whole_executor

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
PROMPTS = (
    "Tell me a story about a goat.",
    "Tell me a story about a broken bridge and a miller.",
    "Who mends the tools?",
)
TEXT = (
    "Once upon a time there was a carpenter called Mina. She lived near the mill in Solbat. One day "
    "the wheel of the old cart broke on the road, and nobody could reach the market. Mina went to the "
    "blacksmith and asked for a hammer and some nails. 'Take them,' he said, 'but let me help.' They "
    "worked until the evening, and the children held the lamp. At last the cart rolled again, and "
    "everyone walked home together. The next morning it rained, but the corn lay dry in the barn."
)
MOST_KL = 2e-3


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    with open_gguf(DEMO) as model:
        return Vocabulary(model)


def _greedy(executor: Executor, vocabulary: Vocabulary) -> list[str]:
    texts = []
    for prompt in PROMPTS:
        session = Session(executor, vocabulary)
        tokens = conversations(vocabulary).turn([{"role": "user", "content": prompt}]).prompt
        executor.step(_nothing(kv=Clear()))
        pieces = session.answer(tokens, Sampling(temperature=0), max_tokens=160)
        texts.append("".join(piece.text for piece in pieces))
    return texts


def _nothing(kv: KvOp) -> Batch:
    none = np.zeros(0, np.int32)
    return Batch(none, none, none, kv=[kv])


@pytest.mark.parametrize("shares", [[1, 1], [3, 2], [1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 1, 1]])
def test_greedy_text_is_the_same_on_any_number_of_ranks(
    shares: list[float], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """With float32 sums, three answers of up to 160 tokens are equal to those of one process."""
    with whole_executor(DEMO) as whole:
        expected = _greedy(whole, vocabulary)
    assert min(len(text) for text in expected) > 10
    with cut_executor(DEMO, shares, tmp_path) as cut:
        assert _greedy(cut, vocabulary) == expected


@pytest.mark.parametrize("n_ranks", [2, 3, 4, 5])
def test_8_bit_sums_keep_the_distribution(
    n_ranks: int, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Mean KL divergence of every next token of a text, whole model to cut, is at most 0.002."""
    tokens = vocabulary.tokenize(TEXT)
    limits = Limits(LIMITS.n_ctx, threads=1, n_outputs=len(tokens))
    with whole_executor(DEMO, limits) as whole:
        expected = _log_probabilities(whole, tokens)
    with cut_executor(DEMO, [1] * n_ranks, tmp_path, wire=Wire.Q8, limits=limits) as cut:
        found = _log_probabilities(cut, tokens)
    divergence = (np.exp(expected) * (expected - found)).sum(axis=1)
    if report := os.environ.get("DURE_PARITY_REPORT"):
        line = {"ranks": n_ranks, "rows": len(tokens), "mean_kl": float(divergence.mean())}
        with Path(report).open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert 0 < divergence.mean() <= MOST_KL


def _log_probabilities(executor: Executor, tokens: list[int]) -> npt.NDArray[np.float64]:
    """Of every next token, by the whole vocabulary: float64 [len(tokens), n_vocab]."""
    n = len(tokens)
    batch = Batch(
        np.array(tokens, np.int32),
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int32),
        range(n),
        top_k=1,
        kv=[Clear()],
    )
    executor.step(batch)
    return np.stack([_log_softmax(executor.logits(row)) for row in range(n)])


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    x = logits.astype(np.float64) - float(logits.max())
    return np.asarray(x - np.log(np.exp(x).sum()))
