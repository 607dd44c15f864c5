"""What a run leaves: a folder with the model or the adapter, as Hugging Face's programs read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dure.tune.loop.checkpoint import Progress, RunCheckpoints
from dure.tune.loop.disk import disk_faults, new_folder
from dure.tune.loop.learner import ADAPTER, Learner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["write_result"]


def write_result(
    out: Path,
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: RunCheckpoints,
    progress: Progress,
) -> tuple[Path, int]:
    """Write the best weights into the folder of a run; return where, and of which step they are.

    They are those of a checkpoint: this process may have a part of the model only. Raises ResourceError if
    the disk is full; the checkpoints are whole then.
    """
    step = progress.step if progress.best_step is None else progress.best_step
    weights = checkpoints.weights(step, torch.device("cpu"))
    model: Any = learner.model
    path = out / ("adapter" if learner.is_adapter else "model")
    with disk_faults(f"the result {path}", "writes it"), new_folder(path) as part:
        if learner.is_adapter:
            _save_adapter(part, model, weights)
        else:
            _save_model(part, model, weights, learner.kept_dtype)
        tokenizer.save_pretrained(part)
    return path, step


def _save_adapter(folder: Path, model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Save weights as peft reads an adapter: called as within its own model, without the adapter's name."""
    from safetensors.torch import save_file

    config = model.peft_config[ADAPTER]
    config.base_model_name_or_path = model.name_or_path
    config.save_pretrained(folder)
    tensors = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": weight.contiguous()
        for name, weight in weights.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _save_model(
    folder: Path, model: Any, weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    """Save weights as those of a model; the model itself, or its shape alone, is made anew for that."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    shape.generation_config = model.generation_config
    shape.save_pretrained(
        folder, state_dict={name: weight.to(dtype) for name, weight in weights.items()}
    )
