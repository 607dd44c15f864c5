"""Writes tiny models, LoRA adapters of them as today's peft saves them, and what they compute together.

Runs in an environment with peft and transformers: `python peft_adapters.py FOLDER`. For each adapter there
is FOLDER/NAME/model, FOLDER/NAME/adapter, and FOLDER/NAME/logits.npy (float32 [tokens, vocabulary]) of
`PROMPT`, computed by transformers with the adapter merged into the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers_models as tiny  # type: ignore[import-not-found]  # lies beside this program

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"

ADAPTERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "llama": (
        tiny.llama,
        {
            "target_modules": [*ATTENTION, *FEED_FORWARD],
            "rank_pattern": {"q_proj": 8, "layers.1.mlp.up_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.k_proj": 3, "down_proj": 5},
        },
    ),
    "embeddings": (tiny.llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "qwen2": (tiny.qwen2, {"target_modules": "all-linear", "use_rslora": True, "r": 6}),
    "qwen3": (tiny.qwen3, {"target_modules": ["q_proj", "down_proj"]}),
    "gemma3": (tiny.gemma3, {"target_modules": [*ATTENTION, *FEED_FORWARD]}),
    "qwen3moe": (
        tiny.qwen3moe,
        {
            "target_modules": ATTENTION,
            "target_parameters": [GATE_UP, DOWN],
            "rank_pattern": {"experts.down_proj": 2},
            "alpha_pattern": {"experts.gate_up_proj": 3},
        },
    ),
    "down-first": (tiny.qwen3moe, {"target_modules": [], "target_parameters": [DOWN, GATE_UP]}),
    "down-alone": (tiny.qwen3moe, {"target_modules": [], "target_parameters": [DOWN]}),
    "router": (tiny.qwen3moe, {"target_modules": [], "target_parameters": ["mlp.gate.weight"]}),
    "gpt-oss": (
        tiny.gpt_oss,
        {"target_modules": ATTENTION, "target_parameters": [GATE_UP, DOWN]},
    ),
}


def write(folder: Path, make: Callable[[], Any], settings: dict[str, Any]) -> None:
    """Write a model, an adapter with random weights, and the logits of both together."""
    model = tiny.shaken(make())
    model.save_pretrained(folder / "model")
    tiny.byte_level(tiny.QWEN2, bos=False, nfc=True).save_pretrained(folder / "model")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings})
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    adapted.save_pretrained(folder / "adapter")
    merged = adapted.merge_and_unload().eval().float()
    with torch.no_grad():
        np.save(folder / "logits.npy", merged(torch.tensor([tiny.PROMPT])).logits[0].numpy())


def main(folder: Path) -> None:
    torch.manual_seed(5)
    torch.set_num_threads(2)
    for name, (make, settings) in ADAPTERS.items():
        write(folder / name, make, settings)
        print(name, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
