"""Makes models of a few thousand weights in Hugging Face folders, with a tokenizer of bytes.

Needs torch and transformers. Knows nothing of our code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% if message.tool_calls %}{% for call in message.tool_calls %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHAPE = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}


def write_tokenizer(folder: Path, template: str | None = CHATML) -> None:
    """Write a tokenizer in which each byte is a token; `<|im_end|>` ends an answer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens([AddedToken(one, normalized=False) for one in SPECIALS])
    ends = {"eos_token": SPECIALS[2], "pad_token": SPECIALS[0]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, **ends)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def write_tiny_model(folder: Path, kind: str = "qwen3", seed: int = 0, **shape: Any) -> Path:
    """Write a model with random weights. kind: the name of its architecture in transformers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**SHAPE, **shape}, eos_token_id=258, pad_token_id=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_lines(path: Path, *lines: dict[str, Any]) -> Path:
    """Write a JSONL file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def chats(n: int) -> list[dict[str, Any]]:
    """Return conversations of one question each, all of them different."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What comes after {i}?"},
                {"role": "assistant", "content": f"{i + 1}"},
            ]
        }
        for i in range(n)
    ]
