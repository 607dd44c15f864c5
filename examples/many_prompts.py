"""Answer many prompts at once on a model that is cut over two ranks: `many_prompts.py [MODEL]`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import dure

DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"
PEOPLE = ("the baker", "the tailor", "the miller", "a goat", "a barley farmer", "a spoon")
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["merry", "sad", "angry"]}},
    "required": ["mood"],
    "additionalProperties": False,
}


def main(path: str | Path = DEMO) -> None:
    """Begin six stories side by side, and then label each story eight times, as JSON."""
    with dure.open(path, ranks=2, parallel=8) as model:
        prompts = [f"Once upon a time there was {person}" for person in PEOPLE]
        stories = model.generate(prompts, max_tokens=24, stop=".", seed=1)
        for prompt, story in zip(prompts, stories, strict=True):
            asked = f"{prompt}{story}. The mood of this story as JSON:\n"
            labels = model.generate([asked] * 8, json_schema=SCHEMA, seed=1)
            moods = Counter(json.loads(label.text)["mood"] for label in labels)
            print(f"{prompt}{story}.\n    {dict(moods)}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
