"""Train the demo model from nothing with `dure tune --from-scratch`, and write it as a GGUF file.

    cd tools && python -m demo_model.train --out ../models/dure-demo.gguf --seed 0

Knows the tokenizer's training, the model's shape, and the settings. Refuses to know what the text says:
that is `corpus`. A run that was stopped goes on if the same command is given again.

What makes it repeatable: the text of step n depends only on the seed and n, and so does everything that a
step does. The same versions of torch, tokenizers and transformers on the same kind of CPU give the same
weights; a CPU with other vector instructions rounds differently and gives a model that is as good but not
identical.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo_model.corpus import CHAT_TEMPLATE, write_document

N_VOCAB = 2048
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
RESERVED_TOKENS = tuple(f"<|reserved_{i}|>" for i in range(9))
ADDED_TOKENS = CONTROL_TOKENS + TEXT_TOKENS + RESERVED_TOKENS
# The splitting rule that llama.cpp applies for `tokenizer.ggml.pre = "qwen2"`.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HEAD_DIM = 32
SETTINGS = ["--lr", "3e-3", "--schedule", "plateau", "--warmup", "80", "--clip", "1"]
SETTINGS += ["--weight-decay", "0.1", "--beta2", "0.95", "--ctx", "1024", "--batch", "4"]
SETTINGS += ["--data", "demo_model.source:examples", "--save-every", "100"]
DURE = [sys.executable, "-m", "dure.cli.main"]


def train_tokenizer(seed: int, documents: int = 6000) -> Tokenizer:
    """A byte-level BPE of N_VOCAB tokens; the added tokens are the last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - len(ADDED_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (write_document(random.Random(f"{seed}/words/{i}")) for i in range(documents))
    unmarked = (text.replace("<|im_start|>", " ").replace("<|im_end|>", " ") for text in texts)
    tokenizer.train_from_iterator(unmarked, trainer)
    tokenizer.add_tokens(
        [AddedToken(t, special=t not in TEXT_TOKENS, normalized=False) for t in ADDED_TOKENS]
    )
    if tokenizer.get_vocab_size() != N_VOCAB:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, not {N_VOCAB}")
    return tokenizer


def config_of(width: int, layers: int) -> dict[str, Any]:
    """The shape of the model: a wider one has more heads, each as large as before."""
    heads = width // HEAD_DIM
    return {
        "model_type": "qwen3",
        "vocab_size": N_VOCAB,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": HEAD_DIM,
        "intermediate_size": 3 * width,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }


def write_base(folder: Path, args: argparse.Namespace) -> Path:
    """Write the tokenizer and the configuration, if they are not there; return the latter's file."""
    path = folder / "config.json"
    if not path.exists():
        ends = {"eos_token": CONTROL_TOKENS[2], "pad_token": CONTROL_TOKENS[0]}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(args.seed), **ends)
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder)
        path.write_text(json.dumps(config_of(args.width, args.layers), indent=2))
    return path


def positive(text: str) -> int:
    """An argument that must be a whole number above zero."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return value


def whole_heads(text: str) -> int:
    """An argument that must be the width of a model whose pairs of heads have 32 columns each."""
    value, least = positive(text), 2 * HEAD_DIM
    if value % least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {least}")
    return value


def parse_arguments() -> argparse.Namespace:
    """The command line; a bad argument ends with a line that says which and why."""
    parser = argparse.ArgumentParser(description="Train the demo model and write it as a GGUF.")
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=0, help="the source of all chance (0)")
    parser.add_argument("--steps", type=positive, default=2500, help="steps of 4096 tokens (2500)")
    parser.add_argument("--width", type=whole_heads, default=256, help="of a token's vector (256)")
    parser.add_argument("--layers", type=positive, default=4, help="how many there are (4)")
    parser.add_argument("--work", type=Path, help="folder of the run (OUT.run)")
    return parser.parse_args()


def main() -> None:
    """Make the base, tune, import."""
    args = parse_arguments()
    work = args.work or args.out.with_name(f"{args.out.name}.run")
    base = work / f"base-{args.width}-{args.layers}-{args.seed}"
    config = write_base(base, args)
    run = work / f"steps-{args.steps}"
    size = ["--seed", str(args.seed), "--steps", str(args.steps), "--threads", "2"]
    tune = [*DURE, "tune", base, "--from-scratch", config, *SETTINGS, *size, "--out", run]
    subprocess.run([*map(str, tune)], check=True)
    made = [*DURE, "import", run / "model", "--type", "f16", "--out", args.out]
    subprocess.run([*map(str, made)], check=True)


if __name__ == "__main__":
    main()
