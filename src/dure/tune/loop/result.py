"""What a run leaves: a folder with the model or the adapter, as Hugging Face's programs read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dure.tune.loop.checkpoint import Progress, RunCheckpoints, disk_faults, new_folder
from dure.tune.loop.learner import Learner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_weights", "write_result"]


def load_weights(learner: Learner, weights: dict[str, torch.Tensor]) -> None:
    """Set the weights that are learned. Raises KeyError if one is missing."""
    with torch.no_grad():
        for name, weight in learner.learned.items():
            weight.copy_(weights[name])


def write_result(
    out: Path,
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: RunCheckpoints,
    progress: Progress,
) -> tuple[Path, int]:
    """Write the best weights into the folder of a run; return where, and of which step they are.

    Raises ResourceError if the disk is full; the checkpoints are whole then.
    """
    step = progress.step if progress.best_step is None else progress.best_step
    device = next(iter(learner.learned.values())).device
    if step != progress.step:
        load_weights(learner, checkpoints.weights(step, device))
    model: Any = learner.model
    is_adapter = hasattr(model, "get_base_model")
    path = out / ("adapter" if is_adapter else "model")
    if not is_adapter:
        model.to(learner.kept_dtype)
    with disk_faults(f"the result {path}", "writes it"), new_folder(path) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return path, step
