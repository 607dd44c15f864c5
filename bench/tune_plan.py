"""Compare what `dure tune --plan` says with what runs need: peak memory, and the time of their steps.

    python bench/tune_plan.py

Makes models of random weights and text of random words, plans three runs, runs them, and prints both.
Needs the packages of the extra `tune`. Run it while nothing else runs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "34M": {"hidden_size": 512, "num_hidden_layers": 8, "vocab_size": 8192},
    "60M": {"hidden_size": 512, "num_hidden_layers": 12, "vocab_size": 32768},
}
RUNS = {
    "from scratch, 34M, float32": ("34M", ["--dtype", "float32", "--ctx", "512"]),
    "LoRA, 60M": ("60M", ["--lora", "--ctx", "512"]),
    "full, 60M, 2 passes, checkpointing": (
        "60M",
        ["--full", "--ctx", "512", "--accumulate", "2", "--checkpointing"],
    ),
}
STEPS = 12
DURE = [sys.executable, "-m", "dure.cli.main", "tune"]


def config_of(shape: dict[str, int]) -> dict[str, Any]:
    """Return a Qwen3 of a shape."""
    width = shape["hidden_size"]
    return {
        "model_type": "qwen3",
        **shape,
        "intermediate_size": 3 * width,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 128,
        "head_dim": 64,
        "max_position_embeddings": 4096,
    }


def write_models(folder: Path) -> None:
    """Write a model and its configuration for each shape, and a text that all learn from."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for name, shape in SHAPES.items():
        config = config_of(shape)
        (folder / f"{name}.json").write_text(json.dumps(config))
        kind = config.pop("model_type")
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
        model.save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    words = random.Random(0)
    lines = [
        {"text": " ".join(str(words.randrange(10**6)) for _ in range(words.randrange(10, 60)))}
        for _ in range(400)
    ]
    (folder / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def command_of(folder: Path, name: str) -> list[str]:
    """Return the command of a run without its --out."""
    model, options = RUNS[name]
    if "scratch" in name:
        options = ["--from-scratch", str(folder / f"{model}.json"), *options]
    data = ["--data", str(folder / "text.jsonl"), "--eval-split", "0", "--steps", str(STEPS)]
    return [*DURE, str(folder / model), *data, *options, "--json"]


def measured(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command; return its peak memory in bytes and the seconds of its steps."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    events = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [one["seconds"] for one in events if one["event"] == "step"]
    return usage.ru_maxrss * 1024, sum(steps)


def main() -> None:
    """Plan, run and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        os.environ["DURE_CACHE"] = str(folder / "cache")
        for number, run in enumerate(RUNS):
            command = command_of(folder, run)
            planned = subprocess.run([*command, "--plan"], capture_output=True, check=True)
            plan = json.loads(planned.stdout)
            out = ["--out", str(folder / f"out{number}")]
            peak, seconds = measured([*command, *out], folder / "events")
            print(
                f"{run}: memory {plan['needed_bytes'] / 1e9:.2f} GB planned, {peak / 1e9:.2f} GB "
                f"measured ({plan['needed_bytes'] / peak:.2f}); time {plan['seconds']:.1f} s planned, "
                f"{seconds:.1f} s measured ({plan['seconds'] / seconds:.2f})"
            )


if __name__ == "__main__":
    main()
