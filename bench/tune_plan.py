"""Compare what `dure tune --plan` says with what runs need: peak memory, and the time of their steps.

    python bench/tune_plan.py --threads 1
    python bench/tune_plan.py --gguf gemma-3-270m-q4_k_m.gguf --only gguf
    python bench/tune_plan.py --time
    python bench/tune_plan.py --layers --threads 1

Makes models of random weights and text of random words, plans runs, runs them, and prints both. Memory is
compared in runs of a few steps; `--time` compares time, planning and running by turns. `--layers` compares
a step of the whole model with what is told from a few of its layers, by turns in one process: in seconds of
the processor too, which are nearly the same beside other work. Needs the packages of the extra `tune`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "34M": {"hidden_size": 512, "num_hidden_layers": 8, "vocab_size": 8192},
    "60M": {"hidden_size": 512, "num_hidden_layers": 12, "vocab_size": 32768},
    "wide vocabulary": {
        "model_type": "llama",
        "hidden_size": 384,
        "num_hidden_layers": 4,
        "vocab_size": 100_000,
        "tie_word_embeddings": True,
    },
    "deep": {"hidden_size": 256, "num_hidden_layers": 32, "vocab_size": 1024},
    "broad": {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 6,
        "vocab_size": 16_384,
    },
    "experts": {
        "model_type": "qwen3_moe",
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "vocab_size": 8192,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 384,
    },
    "120M": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "vocab_size": 32_768,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class Case:
    """A run. model: a shape's name, "" for the file of --gguf. data: a file's name."""

    model: str
    options: str
    data: str = "text"
    scratch: bool = False


CASES = {
    "first, from scratch": Case("34M", "--dtype float32 --ctx 512", scratch=True),
    "first, LoRA": Case("60M", "--lora --ctx 512"),
    "first, full": Case("60M", "--full --ctx 512 --accumulate 2 --checkpointing"),
    "wide vocabulary, LoRA": Case(
        "wide vocabulary", "--lora --rank 32 --ctx 256 --batch 4 --eval-split 0.05"
    ),
    "wide vocabulary, full": Case(
        "wide vocabulary", "--full --state bf16 --ctx 512 --accumulate 2"
    ),
    "deep, full": Case("deep", "--full --state 8bit --ctx 1024"),
    "deep, checkpointing": Case("deep", "--lora --ctx 1024 --batch 8 --checkpointing"),
    "broad, float32": Case(
        "broad", "--full --dtype float32 --ctx 256 --batch 2 --eval-split 0.05", "chats"
    ),
    "broad, from scratch": Case(
        "broad", "--state 8bit --ctx 512 --batch 4 --accumulate 2 --checkpointing", scratch=True
    ),
    "experts, full": Case("experts", "--full --state bf16 --ctx 512 --batch 2"),
    "experts, LoRA": Case("experts", "--lora --ctx 512 --batch 2"),
    "120M, alone in rows": Case("120M", "--lora --dtype float32 --no-pack --batch 8", "chats"),
    "120M, long": Case("120M", "--lora --ctx 2048 --batch 2"),
    "gguf, LoRA": Case("", "--lora --ctx 512 --batch 2 --eval-split 0.05", "chats"),
    "gguf, full": Case("", "--full --state 8bit --ctx 512 --checkpointing", "chats"),
}
TIMED = ("first, from scratch", "first, LoRA", "first, full")
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}END{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DURE = [sys.executable, "-m", "dure.cli.main", "tune"]


def config_of(shape: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of a shape."""
    width = shape["hidden_size"]
    return {
        "model_type": "qwen3",
        "intermediate_size": 3 * width,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 128,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        **shape,
    }


def write_models(folder: Path, names: set[str]) -> None:
    """Write a model and its configuration for each shape."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken("<end>", normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"eos_token": "<end>"})
    fast.chat_template = TEMPLATE.replace("END", "<end>")
    for name in names:
        config = config_of(SHAPES[name])
        (folder / f"{name}.json").write_text(json.dumps(config))
        kind = config.pop("model_type")
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
        model.save_pretrained(folder / name)
        fast.save_pretrained(folder / name)


def write_data(folder: Path) -> None:
    """Write texts and conversations."""
    chance = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(str(chance.randrange(10**6)) for _ in range(chance.randrange(least, most)))

    texts = [{"text": words(10, 60)} for _ in range(400)]
    chats = [
        {
            "messages": [
                {"role": "user", "content": words(3, 20)},
                {"role": "assistant", "content": words(3, 20)},
            ]
        }
        for _ in range(600)
    ]
    (folder / "chat.jinja").write_text(TEMPLATE.replace("END", "<eos>"))  # Gemma's
    for name, lines in (("text", texts), ("chats", chats)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def command_of(
    folder: Path, case: Case, gguf: Path | None, steps: int, threads: int | None = None
) -> list[str]:
    """Return the command of a run without its --out."""
    base = str(folder / case.model) if case.model else str(gguf)
    options = case.options.split()
    if case.scratch:
        options += ["--from-scratch", str(folder / f"{case.model}.json")]
    elif not case.model and case.data == "chats":
        options += ["--chat-template", str(folder / "chat.jinja")]
    if "--eval-split" not in options:
        options += ["--eval-split", "0"]
    if threads:
        options += ["--threads", str(threads)]
    data = ["--data", str(folder / f"{case.data}.jsonl"), "--steps", str(steps)]
    return [*DURE, base, *data, *options, "--anyway", "--json"]


@dataclass(frozen=True)
class Measured:
    """What a run took: bytes at the peak, and seconds from the loaded model to the end of the last step."""

    peak_bytes: int
    seconds: float


def measured(command: list[str], out: Path) -> Measured:
    """Run a command."""
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    came = {}
    for line in process.stdout:
        came[json.loads(line)["event"]] = time.monotonic()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0, command
    shutil.rmtree(out)
    ended = max(came["step"], came.get("evaluation", 0.0))
    return Measured(usage.ru_maxrss * 1024, ended - came["model"])


def planned(command: list[str]) -> dict[str, Any]:
    """Plan a run."""
    done = subprocess.run([*command, "--plan"], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare_memory(name: str, command: list[str], out: Path) -> None:
    """Print what was planned and what was needed."""
    plan, run = planned(command), measured(command, out)
    wanted = plan["needed_bytes"]
    print(
        f"| {name} | {wanted / 1e9:.2f} | {run.peak_bytes / 1e9:.2f} | "
        f"{wanted / run.peak_bytes:.2f} |",
        flush=True,
    )


def compare_time(name: str, command: list[str], out: Path, rounds: int) -> None:
    """Plan and run by turns; print the medians, and each round's ratio."""
    pairs = []
    for _ in range(rounds):
        shutil.rmtree(Path(os.environ["DURE_CACHE"]) / "tune", ignore_errors=True)
        pairs.append((planned(command)["seconds"], measured(command, out).seconds))
    said, took = (statistics.median(one) for one in zip(*pairs, strict=True))
    ratios = ", ".join(f"{a / b:.2f}" for a, b in pairs)
    print(f"| {name} | {said:.1f} | {took:.1f} | {said / took:.2f} | {ratios} |", flush=True)


def compare_layers(name: str, case: Case, rounds: int) -> None:
    """Print what a step takes by a few layers and by all, on the clock and of the processor."""
    import torch
    from transformers import AutoConfig

    from dure.tune.data.rows import row_of
    from dure.tune.estimate.speed import TimedStep, layers_of, whole_of
    from dure.tune.loop.losses import Arith
    from dure.tune.settings import TuneMethod, TuneSettings

    config = config_of(SHAPES[case.model])
    method = TuneMethod.LORA if "--lora" in case.options else TuneMethod.FULL
    is_exact = "float32" in case.options
    settings = TuneSettings(
        Path(), (), method=method, checkpointing="--checkpointing" in case.options
    ).checked()
    arithmetic = Arith(torch.device("cpu"), torch.float32 if is_exact else torch.bfloat16)
    layers, chance = config["num_hidden_layers"], np.random.default_rng(0)
    ids = chance.integers(0, 256, 512).astype(np.int32)
    rows = [row_of([(ids, (np.arange(512) > 0).astype(np.float32))])]
    step = TimedStep(AutoConfig.for_model(**config), settings, arithmetic, rows, both_clocks)
    counts = (*layers_of(layers), layers)
    turns: list[list[Any]] = [[step.timed(n) for n in counts] for _ in range(rounds + 1)][1:]
    for i, part in enumerate(("passes", "update", "evaluation")):
        said, took = [], []
        for clock in range(2):
            times = [[float(one[i][clock]) for one in turn] for turn in turns]
            said.append(whole_of([one[:-1] for one in times], layers))
            took.append(statistics.median(one[-1] for one in times))
        print(
            f"| {name}, {part} | {said[1]:.3f} | {took[1]:.3f} | {said[1] / took[1]:.2f} | "
            f"{said[0] / took[0]:.2f} |",
            flush=True,
        )


def both_clocks() -> Any:
    """Return the time on the clock, and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


HEADINGS = {
    "memory": "| | planned, GB | measured, GB | ratio |\n|---|---|---|---|",
    "time": "| | planned, s | measured, s | ratio | of each round |\n|---|---|---|---|---|",
    "layers": "| | told, CPU s | measured, CPU s | ratio | on the clock |\n|---|---|---|---|---|",
}


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kind = parser.add_mutually_exclusive_group()
    for name in ("time", "layers"):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", default="", help="runs whose names have this in them")
    parser.add_argument("--gguf", type=Path, help="a model for the runs named gguf")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Plan, run and compare."""
    given = arguments()
    kind = given.kind or "memory"
    cases = {
        name: case
        for name, case in CASES.items()
        if given.only in name and (case.model or given.gguf) and (kind == "memory" or name in TIMED)
    }
    if given.write:
        write_models(given.write, {case.model for case in cases.values() if case.model})
        return
    print(HEADINGS[kind], flush=True)
    if kind == "layers":
        import torch

        torch.set_num_threads(given.threads or torch.get_num_threads())
        for title, case in cases.items():
            compare_layers(title, case, given.rounds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in a process of its own: a child's peak is never said to be less than its parent's
        subprocess.run([sys.executable, *sys.argv, "--write", name], check=True)
        write_data(folder)
        os.environ["DURE_CACHE"] = str(folder / "cache")
        for title, case in cases.items():
            steps = given.steps or (12 if kind == "time" else 3)
            command = command_of(folder, case, given.gguf, steps, given.threads)
            if kind == "time":
                compare_time(title, command, folder / "out", given.rounds)
            else:
                compare_memory(title, command, folder / "out")


if __name__ == "__main__":
    main()
