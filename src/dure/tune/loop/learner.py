"""The model of a run: the base, with its weights free to change, an adapter beside them, or a new one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dure.errors import ModelError, UsageError
from dure.hardware.probe import processor_features
from dure.tune.base import load_base
from dure.tune.loop.losses import Arith
from dure.tune.settings import Arithmetic, TuneMethod, TuneSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = [
    "ADAPTER",
    "Learner",
    "add_adapter",
    "arithmetic_of",
    "blank_model",
    "keep_less",
    "learner_of",
    "new_config",
]

ADAPTER = "default"
"""What peft calls the adapter within the model: a part of its weights' names."""

_BF16_FEATURES = {"amx_bf16", "avx512_bf16", "bf16"}  # the last is Arm's
_SUMS_INTO_STREAM = ("o_proj.weight", "down_proj.weight")


@dataclass(frozen=True)
class Learner:
    """A model that learns. model: torch's. kept_dtype: in which its result is written, if it is a model.

    is_adapter: the result is what stands beside the model's weights.
    """

    model: nn.Module
    kept_dtype: torch.dtype
    is_adapter: bool

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """Return the weights that change, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    @property
    def n_weights(self) -> int:
        """Return the number of all weights."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def n_learned(self) -> int:
        """Return the number of weights that change."""
        return sum(p.numel() for p in self.learned.values())


def arithmetic_of(wanted: Arithmetic) -> Arith:
    """Return where and in what a model computes: in bfloat16 if the machine has instructions for it."""
    is_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if is_cuda else "cpu")
    if wanted is not Arithmetic.AUTO:
        return Arith(device, getattr(torch, wanted))
    has_bf16 = torch.cuda.is_bf16_supported() if is_cuda else processor_features() & _BF16_FEATURES
    return Arith(device, torch.bfloat16 if has_bf16 else torch.float32)


def blank_model(config: PretrainedConfig, settings: TuneSettings, arithmetic: Arith) -> nn.Module:
    """Return a model of a configuration with weights of no meaning, ready to learn as a run's would."""
    from transformers import AutoModelForCausalLM

    is_frozen = settings.method is TuneMethod.LORA
    model = AutoModelForCausalLM.from_config(
        config,
        dtype=arithmetic.dtype if is_frozen else torch.float32,
        attn_implementation="sdpa",
    )
    return _ready(model, settings, arithmetic)


def _ready(model: Any, settings: TuneSettings, arithmetic: Arith) -> nn.Module:
    if settings.method is TuneMethod.LORA:
        add_adapter(model, settings)
    if arithmetic.device.type != "cpu":
        model = model.to(arithmetic.device)
    if settings.checkpointing:
        keep_less(model)
    ready: nn.Module = model.train()
    return ready


def learner_of(
    settings: TuneSettings, tokenizer: PreTrainedTokenizerBase, arithmetic: Arith
) -> Learner:
    """Return the model of a run, with its first weights. Raises ModelError or UsageError."""
    torch.manual_seed(settings.seed)
    if settings.method is TuneMethod.SCRATCH:
        assert settings.config is not None
        model = _new_model(new_config(settings.config, tokenizer))
        kept = torch.float32
    else:
        is_frozen = settings.method is TuneMethod.LORA
        base = load_base(settings.base, arithmetic.dtype if is_frozen else torch.float32)
        model, kept = base.model, base.model.config.dtype or torch.float32
    is_adapter = settings.method is TuneMethod.LORA
    return Learner(_ready(model, settings, arithmetic), kept, is_adapter)


def add_adapter(model: Any, settings: TuneSettings) -> None:
    """Give a model a LoRA adapter beside each matrix of its layers, which alone learns, in float32.

    Neither by transformers' `add_adapter`, which in 5.24.0 refuses every peft that is released, nor by
    peft's wrapper, which asks transformers for what is deprecated there.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model, ADAPTER)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def keep_less(model: Any) -> None:
    """Let a model compute what is inside of its layers again for the gradient, instead of keeping it."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    enable = newer or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def new_config(path: Path, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """Return the configuration of a new model. Raises UsageError if it is none, or has too few tokens."""
    from transformers import AutoConfig

    try:
        said = json.loads(path.read_text())
        said.setdefault("vocab_size", len(tokenizer))
        config = AutoConfig.for_model(said.pop("model_type"), **said)
    except OSError as error:
        raise UsageError(f"--from-scratch {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"--from-scratch {path} is no configuration of a model: {error}",
            'write JSON as in a Hugging Face config.json, with "model_type"',
        ) from error
    if config.vocab_size < len(tokenizer):
        raise UsageError(
            f"--from-scratch {path}: a vocab_size of {config.vocab_size}, and the tokenizer has "
            f"{len(tokenizer)} tokens",
            "raise it, or leave it out",
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None and name not in said:
            setattr(config, name, getattr(tokenizer, name))
    return config


def _new_model(config: PretrainedConfig) -> Any:
    """Return a model with random weights; those that add to the stream are smaller, as GPT-2's were."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"a model cannot be made of that configuration: {error}") from error
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(_SUMS_INTO_STREAM):
                weight.mul_(1 / math.sqrt(2 * config.num_hidden_layers))
    return model
