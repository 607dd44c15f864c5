"""Starts what proposes draft tokens for a running model, in the engine's process or in a command's.

Knows that a draft model is started by `deploy` and asked by `generate`. Refuses to know how either does.
"""

from __future__ import annotations

from dure.deploy.draft import start_draft
from dure.deploy.options import RunOptions
from dure.deploy.reporter import Reporter
from dure.generate.speculative.draft_model import DraftModel
from dure.generate.speculative.proposer import Proposer, draft_model_path, proposer_for
from dure.hardware.probe import platform
from dure.model.gguf import GgufFile
from dure.model.vocabulary import Vocabulary

__all__ = ["start_proposer"]


def start_proposer(
    draft: str,
    model: GgufFile,
    vocabulary: Vocabulary,
    options: RunOptions,
    n_ctx: int,
    reporter: Reporter,
) -> Proposer | None:
    """Start the proposer that --draft names; None if it is off.

    draft: of `Draft`, or a draft model's file. n_ctx: of each answer. Raises as `start_draft` does.
    """
    path = draft_model_path(draft)
    draft_model = None
    if path is not None:
        draft_model = DraftModel(start_draft(path, vocabulary, options, n_ctx, reporter))
    return proposer_for(draft, model, draft_model, platform({}, lambda _: "").features)
