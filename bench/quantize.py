"""Compares what `dure quantize` chooses with llama.cpp's mixtures of the same size, by KL divergence.

    python bench/quantize.py MODEL --imatrix M.gguf --data text.txt

Every mixture is made with the same importance matrix; for the size of each file dure then chooses itself.
A requantized model measures the method, not the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIXTURES = (
    *("Q2_K", "IQ3_XXS", "Q3_K_S", "IQ3_S", "Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M"),
    *("Q5_K_M", "Q6_K"),
)


def dure(*arguments: object) -> dict[str, Any]:
    """Run a command, and return what it prints as JSON."""
    command = [sys.executable, "-m", "dure.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def quantized(options: argparse.Namespace, out: Path, *target: object) -> dict[str, Any]:
    """Write a file, and return what is told of it, with its size."""
    common = ("--imatrix", options.imatrix, "--data", options.data, "--time", options.time)
    facts = dure("quantize", options.model, *target, *common, "--out", out, "--force")
    return {**facts, "file_bytes": out.stat().st_size}


def main() -> None:
    """Compare, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--time", default="20min")
    parser.add_argument("--mixtures", default=",".join(MIXTURES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "model.gguf"
        for name in options.mixtures.split(","):
            theirs = quantized(options, out, "--type", name)
            ours = quantized(options, out, "--target-size", f"{theirs['file_bytes']}B")
            row = {
                "mixture": name,
                "bits_per_weight": theirs["bits_per_weight"],
                "kl": theirs["kl_divergence"]["mean"],
                "our_bits_per_weight": ours["bits_per_weight"],
                "our_kl": ours["kl_divergence"]["mean"],
                "our_expected_kl": ours["error"],
                "agreement": theirs["agreement"],
                "our_agreement": ours["agreement"],
                "tokens_per_s": theirs["measured_tokens_per_s"],
                "our_tokens_per_s": ours["measured_tokens_per_s"],
            }
            rows.append(row)
            if not options.json:
                print(
                    f"{name:8} {row['bits_per_weight']:.3f} bits: KL {row['kl']:.5f}, "
                    f"ours {row['our_bits_per_weight']:.3f} bits: KL {row['our_kl']:.5f} "
                    f"(expected {row['our_expected_kl']:.5f}), {row['our_kl'] / row['kl']:.2f} times; "
                    f"agreement {row['agreement']:.3f} and {row['our_agreement']:.3f}",
                    flush=True,
                )
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
