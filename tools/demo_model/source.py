"""The demo model's documents, as `dure tune` takes them: a step's depend on the seed and the step only.

Half of the documents of some steps are drills, which ask to repeat words: copying does not come by itself
so early. In dialogues, words of others than the assistant count a tenth.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from demo_model.corpus import write_document, write_drill

DRILL_STEPS = range(775, 1300)
DRILL_SHARE = 0.5
PROMPT_WEIGHT = 0.1
END = "<|endoftext|>"
ANSWER = re.compile(r"(<\|im_start\|>assistant\n.*?<\|im_end\|>)", re.DOTALL)


def examples(seed: int, step: int) -> Iterator[dict[str, Any]]:
    """Yield documents without end. step: negative for those that are never learned."""
    name = f"train/{step}" if step >= 0 else f"held out/{-step}"
    source = random.Random(f"{seed}/{name}")
    share = DRILL_SHARE if step in DRILL_STEPS else 0.0
    while True:
        write = write_drill if share and source.random() < share else write_document
        yield {"parts": weighed(write(source))}


def weighed(document: str) -> list[tuple[str, float]]:
    """Return a document's parts, each with the weight of its loss."""
    if not document.startswith("<|im_start|>"):
        return [(document + END, 1.0)]
    pieces = ANSWER.split(document)
    parts = [(text, 1.0 if i % 2 else PROMPT_WEIGHT) for i, text in enumerate(pieces)]
    return [*((text, weight) for text, weight in parts if text), (END, PROMPT_WEIGHT)]
