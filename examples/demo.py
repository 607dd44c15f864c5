"""The main job on the demo model: one rank, then cut over two, and the same text from both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parents[1] / "models" / "dure-demo.gguf"
PROMPT = "Tell me a story about a goat."


def answer(ranks: int) -> dict[str, Any]:
    """The demo model's greedy answer on so many ranks, with exact sums, and what it took."""
    command = [sys.executable, "-m", "dure.cli.main", "run", str(MODEL), PROMPT]
    command += ["--ranks", str(ranks), "--sync", "f32", "--temp", "0", "--threads", "1"]
    print(f"$ dure {' '.join(command[3:5])} '{PROMPT}' {' '.join(command[6:])}\n", flush=True)
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # dure has said why
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def report(result: dict[str, Any]) -> None:
    """One run's figures."""
    token = result["per_token_ms"]
    ranks = "1 rank" if result["ranks"] == 1 else f"{result['ranks']} ranks"
    print(
        f"{ranks}: {result['tokens']} tokens at {result['tokens_per_s']:.1f} tokens/s; "
        f"per token compute {token['compute']:.3f} ms, sync {token['sync']:.3f} ms, "
        f"other {token['other']:.3f} ms\n"
    )


def main() -> None:
    """Run both, show the text, and fail if they differ."""
    one = answer(1)
    print(one["text"], "\n")
    report(one)
    two = answer(2)
    print(two["text"], "\n")
    report(two)
    if one["text"] != two["text"]:
        sys.exit("the two texts differ: this is a bug, please report it with both texts")
    print("Both wrote the same text: the two shards are one model.")
    print(
        "On one machine, and with so small a model, a cut only costs time; between machines it saves it."
    )


if __name__ == "__main__":
    main()
