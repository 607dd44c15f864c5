"""Writes tiny random models as today's transformers does, and what it computes and tokenizes itself.

Runs alone: `python transformers_models.py FOLDER`. For each model there is
FOLDER/NAME/model, with FOLDER/NAME/logits.npy (float32 [tokens, vocabulary]) of the prompt in
FOLDER/NAME/facts.json, and there too the tokens of FOLDER/texts.json and the rendered conversations.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.convert_slow_tokenizer import SentencePieceExtractor

N_VOCAB = 640
PROMPT = [5, 300, 41, 7, 220, 99, 18, 411, 63, 5, 172, 260, 33, 9, 501, 77, 128, 400, 222, 11]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The old bell rang over the village, and nobody answered; it's 1984, we're 12345 days late.",
    "Grüße aus Köln! Die Straße ist naß, der Käse schön - und überall Bäume.",
    "Быстрая коричневая лиса прыгает через ленивую собаку, правда?",
    "素早い茶色の狐がのろまな犬を飛び越える。今日は天気がいいですね。",
    "敏捷的棕色狐狸跳过了懒狗。然后回家吃饭。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول في الصباح.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "def main(argv):\n    for i in range(10):\n\t\tprint(i ** 2, end='\\n')\n    return {'a': [1, 2.5e-3]}",
    "Ça va très bien, merci ; l'été arrive à l'hôtel. ¿Qué tal, señor? Łódź, Žluťoučký kůň.",
    "🙂 👩‍👩‍👧 emojis 🚀🚀, café, naïve, coöperate... ------ ==== !!?? @user #tag $5.00 50% a_b-c/d\\e",
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Wie heißt der Fluß? 狐 "},
    {"role": "assistant", "content": "Rhein."},
    {"role": "user", "content": "Danke"},
]


def byte_level(
    pattern: str | None, *, bos: bool, ignore_merges: bool = False, nfc: bool = False
) -> Any:
    """Train a byte-level tokenizer that divides text by a pattern, GPT-2's if there is none."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    byte_step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    steps = [byte_step]
    if pattern is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|stop|>", "<|start|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - 8,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens(["<tool>"])
    post = processors.ByteLevel(trim_offsets=False)
    if bos:
        begin = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
        post = processors.Sequence([post, begin])
    tokenizer.post_processor = post
    roles = {"eos_token": "<|stop|>", "pad_token": "<|pad|>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>" if bos else None,
        **roles,
        chat_template=TEMPLATE if bos else TEMPLATE.replace("{{ bos_token }}", ""),
        clean_up_tokenization_spaces=False,
    )


def sentencepiece_style(folder: Path, *, prefix: bool) -> Any:
    """Train sentencepiece's BPE with bytes for what is rare, as Llama 2 (prefix) and Gemma have it.

    The pieces of the model become tokenizer.json by transformers' own conversion.
    """
    path = folder / f"sentencepiece-{prefix}"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_prefix=str(path),
        vocab_size=N_VOCAB - 8,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        allow_whitespace_only_pieces=True,
        character_coverage=0.999,
        minloglevel=2,
    )
    model = path.with_suffix(".model")
    found = SentencePieceExtractor(str(model)).extract(None)
    made = transformers.LlamaTokenizer if prefix else transformers.GemmaTokenizer
    tokenizer = made(vocab=found["vocab"], merges=found["merges"])
    if prefix:  # as Llama 2's own file has it
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|stop|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def shaken(model: Any) -> Any:
    """Add noise to every parameter, so that none is what a wrong converter would take for granted."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


SHAPE = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 1e4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500000.0,
}


def llama() -> Any:
    config = transformers.LlamaConfig(
        **SHAPE, rope_parameters=LLAMA3_ROPE, attention_bias=True, tie_word_embeddings=False
    )
    return transformers.LlamaForCausalLM(config)


def llama2() -> Any:
    """A model with one KV head for each head, a tied head, and positions stretched evenly."""
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    shape = {**SHAPE, "num_key_value_heads": 4}
    config = transformers.LlamaConfig(**shape, rope_parameters=rope, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config)


def qwen2() -> Any:
    shape = {**SHAPE, "head_dim": 16}
    config = transformers.Qwen2Config(**shape, rope_parameters=YARN, tie_word_embeddings=True)
    return transformers.Qwen2ForCausalLM(config)


def qwen3() -> Any:
    config = transformers.Qwen3Config(
        **SHAPE, rope_parameters={**YARN, "attention_factor": 1.3}, tie_word_embeddings=False
    )
    return transformers.Qwen3ForCausalLM(config)


def qwen3moe() -> Any:
    config = transformers.Qwen3MoeConfig(
        **SHAPE,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
    )
    return transformers.Qwen3MoeForCausalLM(config)


def gemma3() -> Any:
    config = transformers.Gemma3TextConfig(
        **{**SHAPE, "num_hidden_layers": 7}, query_pre_attn_scalar=32, sliding_window=8
    )
    return transformers.Gemma3ForCausalLM(config)


def gpt_oss() -> Any:
    config = transformers.GptOssConfig(
        **{**SHAPE, "intermediate_size": 32},
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters={**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True},
    )
    return transformers.GptOssForCausalLM(config)


def with_mxfp4(model: Any) -> dict[str, Any]:
    """Give the experts random MXFP4 weights, decoded by transformers; return these as they are stored."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    stored: dict[str, Any] = {}
    for number, layer in enumerate(model.model.layers):
        for part in ("gate_up_proj", "down_proj"):
            parameter = getattr(layer.mlp.experts, part)
            n, columns, rows = parameter.shape
            blocks = torch.randint(0, 256, (n, rows, columns // 32, 16), dtype=torch.uint8)
            scales = torch.randint(120, 126, (n, rows, columns // 32), dtype=torch.uint8)
            with torch.no_grad():
                parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            name = f"model.layers.{number}.mlp.experts.{part}"
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return stored


def texts(count: int) -> list[str]:
    """Return strings: pieces of the corpus, mixed, and characters from everywhere."""
    source = random.Random(11)
    alphabets = [(32, 126), (160, 591), (880, 1279), (1424, 1791), (2304, 2431), (12352, 12543)]
    alphabets += [(19968, 20968), (44032, 45032), (128512, 128591), (9, 13), (8192, 8303)]
    words = " ".join(CORPUS).split(" ")
    found = []
    for _ in range(count):
        parts: list[str] = []
        while len(parts) < source.randint(1, 8):
            kind = source.random()
            if kind < 0.45:
                parts.append(source.choice(words))
            elif kind < 0.6:
                parts.append(
                    source.choice(["  ", "\n", "\n\n", "\t", "   \n ", "'s", "'LL", "123", "007 "])
                )
            elif kind < 0.65:
                parts.append(source.choice(["<|start|>", "<|stop|>", "<tool>"]))
            else:
                low, high = source.choice(alphabets)
                parts.append(
                    "".join(chr(source.randint(low, high)) for _ in range(source.randint(1, 5)))
                )
        found.append(source.choice(["", " "]).join(parts))
    return found


def write(folder: Path, model: Any, tokenizer: Any, strings: list[str]) -> None:
    """Write a model, its tokenizer, and what both do."""
    stored = with_mxfp4(model) if folder.name == "gpt_oss_mxfp4" else {}
    model.save_pretrained(folder / "model")
    if stored:
        path = folder / "model" / "model.safetensors"
        plain = {
            name: one for name, one in load_file(path).items() if f"{name}_blocks" not in stored
        }
        save_file(plain | stored, path)
    tokenizer.save_pretrained(folder / "model")
    with torch.no_grad():
        logits = model.float()(torch.tensor([PROMPT])).logits[0]
    np.save(folder / "logits.npy", logits.numpy())
    rendered = [
        tokenizer.apply_chat_template(
            CONVERSATION[:n], tokenize=False, add_generation_prompt=n % 2 == 0
        )
        for n in (2, 4)
    ]
    facts = {
        "prompt": PROMPT,
        "tokens": tokenizer(strings).input_ids,
        "conversation": CONVERSATION,
        "rendered": rendered,
        "eos": tokenizer.eos_token_id,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def main(folder: Path) -> None:
    """Write all models."""
    torch.manual_seed(3)
    torch.set_num_threads(2)
    folder.mkdir(parents=True, exist_ok=True)
    strings = texts(10_000)
    (folder / "texts.json").write_text(json.dumps(strings))
    made: dict[str, tuple[Callable[[], Any], Any]] = {
        "llama": (llama, byte_level(LLAMA3, bos=True, ignore_merges=True)),
        "qwen2": (qwen2, byte_level(QWEN2, bos=False, nfc=True)),
        "qwen3": (qwen3, byte_level(QWEN2, bos=False, nfc=True)),
        "qwen3moe": (qwen3moe, byte_level(None, bos=False)),
        "gpt_oss": (gpt_oss, byte_level(O200K, bos=True)),
        "gpt_oss_mxfp4": (gpt_oss, byte_level(O200K, bos=True)),
        "llama2": (llama2, sentencepiece_style(folder, prefix=True)),
        "gemma3": (gemma3, sentencepiece_style(folder, prefix=False)),
    }
    for name, (make, tokenizer) in made.items():
        write(folder / name, shaken(make()), tokenizer, strings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
