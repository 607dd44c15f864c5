"""Say how likely texts are, and what the model expected instead: `score_texts.py [MODEL]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import dure

DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"
CONTEXT = "Once upon a time there was a"
ENDINGS = (" barley farmer called Nari.", " tailor of stars.", " Nari called farmer barley.")


def main(path: str | Path = DEMO) -> None:
    """Print each text's perplexity, the likeliest ending, and where a text surprised the model most."""
    with dure.open(path) as model:
        n_context = len(model.tokenize(CONTEXT))
        scores = {}
        for ending in ENDINGS:
            logprobs = model.logprobs(CONTEXT + ending)  # [n_tokens]; NaN for the first
            scores[ending] = float(logprobs[n_context:].sum())
            perplexity = float(np.exp(-logprobs[1:].mean()))
            print(
                f"{CONTEXT + ending!r}: log-likelihood of the ending {scores[ending]:.2f}, "
                f"perplexity of all {perplexity:.2f}"
            )
        print(f"The likeliest ending: {max(scores, key=lambda ending: scores[ending])!r}")

        tokens = model.tokenize(CONTEXT + ENDINGS[1])
        logits = model.logits(tokens)  # [n_tokens, n_vocab]; row i says what follows token i
        logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
        given = logits[np.arange(len(tokens) - 1), tokens[1:]]
        at = int(given.argmin())
        expected = model.detokenize([int(logits[at].argmax())])
        print(f"After {model.detokenize(tokens[: at + 1])!r} it expected {expected!r}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
