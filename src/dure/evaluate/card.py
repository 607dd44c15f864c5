"""What was found out about a model, in words: lines for a terminal, and a card in Markdown and JSON.

Refuses to know how it was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dure.errors import ResourceError
from dure.evaluate.evaluation import Evaluation
from dure.evaluate.scores import Divergence
from dure.evaluate.statistics import Estimate
from dure.evaluate.task_scores import TaskScore
from dure.sizes import bytes_text
from dure.whole_file import write_together

__all__ = ["agreement_text", "card_paths", "evaluation_data", "lines_of", "write_card"]


def agreement_text(agreement: Estimate) -> str:
    """Return in words on how many next words a model agrees with its original."""
    of = 1000 if 0.99 < agreement.value < 1 else 100
    n = min(round(of * agreement.value), of - (agreement.value < 1))
    margin = math.ceil(of * agreement.margin) if agreement.margin > 0 else 0
    more = f", ± {margin}" if margin else ""
    return f"agrees with the original on {n} of {of} next words{more}"


def lines_of(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return a heading and a sentence for everything that was found out."""
    return list(_lines(evaluation))


def _lines(found: Evaluation) -> Iterator[tuple[str, str]]:
    if found.divergence:
        yield from _divergence_lines(found.divergence)
    elif found.perplexity:
        yield "perplexity", _between(found.perplexity)
    originals = {score.name: score for score in found.original_tasks}
    for score in found.tasks:
        yield score.name, _score_text(score, originals.get(score.name))
    speed = found.speed
    ranks = f"{speed.ranks} rank{'s' if speed.ranks > 1 else ''}"
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    sums = f", sums in {found.sums}" if found.sums else ""
    yield (
        "speed",
        f"{speed.generation:.1f} tokens/s, prompts {speed.prompt:.0f} tokens/s, on {ranks} of {threads}"
        f"{sums}",
    )
    model = found.model
    yield (
        "size",
        f"{bytes_text(model.size_bytes)}, {model.bits_per_weight:.2f} bits a weight; a token reads "
        f"{bytes_text(model.bytes_per_token)}",
    )
    if text := found.text:
        whose = f"written by {text.source}" if text.is_own else f"of {text.source}"
        yield (
            "text",
            f"{text.n_windows} windows of {text.n_ctx} tokens {whose}, SHA-256 {text.sha256[:16]}",
        )


def _divergence_lines(found: Divergence) -> Iterator[tuple[str, str]]:
    yield "agreement", agreement_text(found.agreement)
    yield (
        "KL divergence",
        f"mean {_between(found.mean)}, median {found.median.value:.3g}, "
        f"99 % below {found.percentile_99.value:.3g}",
    )
    yield (
        "perplexity",
        f"{_between(found.perplexity)}, the original's {found.original_perplexity.value:.4g}: "
        f"{_between(found.perplexity_ratio)} times",
    )


def _between(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _score_text(score: TaskScore, original: TaskScore | None) -> str:
    text = f"right on {_part(score.right, score.n_questions)}"
    if original:
        text += f" (the original on {round(original.right.value * original.n_questions)})"
    if score.by_length:
        text += f"; by characters on {round(score.by_length.value * score.n_questions)}"
    return text


def _part(estimate: Estimate, total: int) -> str:
    margin = math.ceil(total * estimate.margin)
    return f"{round(total * estimate.value)} of {total} questions, ± {margin}"


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything as plain data."""
    return {"dure": version("dure"), **asdict(evaluation)}


def card_paths(model: Path) -> tuple[Path, Path]:
    """Return where a model's card lies: beside its file, in Markdown and in JSON."""
    return model.with_suffix(".card.md"), model.with_suffix(".card.json")


def write_card(evaluation: Evaluation, model: Path) -> tuple[Path, Path]:
    """Write both forms of a card, or none. Raises ResourceError if the folder cannot be written."""
    words, data = card_paths(model)
    try:
        write_together(
            {
                words: _markdown(evaluation).encode(),
                data: (json.dumps(evaluation_data(evaluation), indent=2) + "\n").encode(),
            }
        )
    except OSError as error:
        raise ResourceError(
            f"the card {words} cannot be written: {error.strerror}",
            "leave out --card and keep what --json prints, or copy the model to a folder of yours",
        ) from error
    return words, data


def _markdown(found: Evaluation) -> str:
    rows = "".join(f"| {heading} | {text} |\n" for heading, text in lines_of(found))
    original = (
        f"Judged beside `{found.original.name}` (fingerprint `{found.original.fingerprint}`).\n"
        if found.original
        else ""
    )
    text = f"Tokens of the text: SHA-256 `{found.text.sha256}`.\n" if found.text else ""
    return (
        f"# {found.model.name}\n\n{original}\n| | |\n|---|---|\n{rows}\n"
        f"Values in parentheses hold the true one in 95 of 100 measurements.\n{text}"
        f"Fingerprint of the file: `{found.model.fingerprint}`. Measured by dure {version('dure')}.\n"
    )
