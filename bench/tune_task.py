"""Tunes models on a small task, and asks the tuned file over HTTP, cut over two ranks.

    python bench/tune_task.py                     the demo model: all weights, then an adapter
    python bench/tune_task.py --model FILE.gguf   another model, an adapter alone

The task: a note from the demo model's village becomes JSON in one fixed form. Held-out notes name people,
tools and places in combinations that no example has; an answer counts if it is the expected text, every
character of it. Nothing is judged in torch: the result is imported, cut and served as a user would do.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parents[1] / "tools"
DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"
N_TRAIN, N_HELD_OUT = 1200, 100
START_S = 600.0
AT_ONCE = 4  # questions
NOTES = (
    "{lender} the {job} lent the {tool} to {borrower} at the {place}.",
    "At the {place}, {borrower} borrowed the {tool} from {lender} the {job}.",
    "In the {when}, {lender} gave {borrower} the {tool}. They met at the {place}.",
    "{borrower} came to the {place} in the {when} and took the {tool} of {lender} along.",
    "The {tool} belongs to {lender}, but {borrower} has it now. They met at the {place}.",
)


@dataclass(frozen=True)
class Question:
    """A note, and the only right answer."""

    prompt: str
    answer: str


def questions(count: int, seed: int) -> list[Question]:
    """Return different questions."""
    sys.path.insert(0, str(TOOLS))
    from demo_model.village import PEOPLE
    from demo_model.village import TOOLS as THINGS

    source, found = random.Random(seed), dict[str, Question]()
    while len(found) < count:
        lender, borrower, host = source.sample(PEOPLE, 3)
        facts = {"tool": source.choice(THINGS), "from": lender.name, "to": borrower.name}
        facts["place"] = host.place
        slots = {"lender": lender.name, "borrower": borrower.name, "job": lender.job}
        slots["when"] = source.choice(("morning", "afternoon", "evening"))
        note = source.choice(NOTES).format(**slots, tool=facts["tool"], place=facts["place"])
        found[note] = Question(f"Note: {note}", json.dumps(facts))
    return list(found.values())


def write_examples(path: Path, examples: Sequence[Question]) -> None:
    """Write pairs as `dure tune` reads them."""
    lines = (json.dumps({"prompt": one.prompt, "completion": one.answer}) for one in examples)
    path.write_text("".join(f"{line}\n" for line in lines))


def dure(*arguments: object) -> str:
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", "dure.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"dure {arguments[0]}: {done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def served(model: Path, ranks: int) -> Iterator[str]:
    """Serve a file, and yield its address once it is ready."""
    options = ("--ranks", ranks, "--port", 0, "--ctx", 512, "--parallel", AT_ONCE)
    command = [sys.executable, "-m", "dure.cli.main", "serve", model, *options]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen([*map(str, command)], stderr=said, text=True) as process,
    ):
        try:
            yield _address(process, said)
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[str], said: Any) -> str:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        said.seek(0)
        text = said.read()
        if "ready:" in text and (found := re.search(r"https?://\S+", text)):
            return found[0]
        time.sleep(0.2)
    said.seek(0)
    sys.exit(f"the server did not start: {said.read()[-2000:]}")


def asked(address: str, question: Question, *, chat: bool) -> str:
    """Return the answer of a served model."""
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 64}
    if chat:
        path, body["messages"] = "chat/completions", [{"role": "user", "content": question.prompt}]
    else:
        path, body["prompt"] = "completions", f"{question.prompt}\n"
    data = json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - an address of our own
        f"{address}/v1/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        choice = json.loads(answer.read())["choices"][0]
    return str(choice["message"]["content"] if chat else choice["text"]).strip()


def exact(model: Path, held_out: Sequence[Question], ranks: int, *, chat: bool) -> tuple[int, str]:
    """Return how many answers are right, and the first one."""
    with served(model, ranks) as address, ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(partial(asked, address, chat=chat), held_out))
    right = sum(one.answer == answer for one, answer in zip(held_out, answers, strict=True))
    return right, answers[0]


def tuned(options: argparse.Namespace, folder: Path, way: str, base: Path, held: Path) -> Path:
    """Tune a model and return the file that is served."""
    rates = {"--full": options.lr or 1e-3, "--lora": options.lr or 3e-3}
    out = folder / way.strip("-")
    dure(
        *("tune", base, way, "--data", held, "--out", out, "--steps", options.steps),
        *("--lr", rates[way], "--batch", options.batch, "--ctx", options.row, "--rank", 16),
        *("--threads", options.threads, "--eval-split", 0.02, "--dtype", options.dtype),
    )
    file = folder / f"{way.strip('-')}.gguf"
    if way == "--lora":
        dure("import", out / "adapter", "--base", base, "--merge", "--out", file)
    else:
        dure("import", out / "model", "--out", file)
    return file


def main() -> None:
    """Tune, serve, ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--ways", nargs="*", default=[], choices=["full", "lora"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--row", type=int, default=512, help="tokens")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--held-out", type=int, default=N_HELD_OUT)
    parser.add_argument("--folder", type=Path, help="keep what is made there")
    options = parser.parse_args()
    is_demo = options.model == DEMO
    ways = options.ways or (["full", "lora"] if is_demo else ["lora"])
    everything = questions(N_TRAIN + options.held_out, seed=1)
    held_out, examples = everything[: options.held_out], everything[options.held_out :]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_examples(folder / "examples.jsonl", examples)
        print(f"{options.model.name}, {len(held_out)} held-out notes, {options.ranks} ranks")
        print(f"asked   {held_out[0].prompt}\nwanted  {held_out[0].answer}")
        files = {"before": options.model}
        for way in ways:
            begun = time.monotonic()
            data = folder / "examples.jsonl"
            files[way] = tuned(options, folder, f"--{way}", options.model, data)
            print(f"{way}: {options.steps} steps in {time.monotonic() - begun:.0f} s", flush=True)
        for name, file in files.items():
            right, first = exact(file, held_out, options.ranks, chat=is_demo)
            print(f"{name:<8}{right:>4} of {len(held_out)}   {first!r}", flush=True)


if __name__ == "__main__":
    main()
