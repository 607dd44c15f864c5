"""Says which English sentences the page may be shown by a server, and which of them lack Korean.

`python docs/page_sentences.py` lists those that page/src/text/sentences.ko.json lacks, and those that the
program does not say any more. Knows which modules a page's requests reach.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

from error_texts import error_templates

from dure.route.decision import Reason
from dure.serve.page.sentences import SENTENCES

KOREAN = Path(__file__).parents[1] / "page" / "src" / "text" / "sentences.ko.json"

REACHED = (
    "chat/answer_reader.py", "chat/format.py", "chat/template.py",
    "cluster/node/ranks.py", "cluster/root/launch.py", "cluster/root/launcher.py", "cluster/root/links.py",
    "cluster/root/readiness.py", "cluster/root/speeds.py", "cluster/trust/clocks.py",
    "cluster/trust/connection.py",
    "deploy/answering.py", "deploy/cluster.py", "deploy/local.py", "deploy/node_pool.py",
    "deploy/node_sharing.py", "deploy/node_wait.py", "deploy/shares.py", "deploy/threads.py",
    "engine/compute/allreduce.py", "engine/compute/expert_choices.py", "engine/compute/kv_cache.py",
    "engine/compute/llama.py",
    "engine/ranks/failures.py", "engine/ranks/leader.py", "engine/ranks/running_job.py",
    "engine/ranks/shared_memory.py",
    "errors.py", "generate/request.py", "generate/sampling.py", "generate/scheduler/scheduler.py",
    "http/guards", "http/problems.py",
    "model/gguf/header.py", "model/store",
    "route/dialects.py", "route/proxy.py", "route/refusals.py",
    "serve/page", "serve/runner.py", "serve/served_model.py",
    "worker",
)  # fmt: skip
"""The packages and modules whose errors and warnings a page may be shown."""

UNREACHED = (
    "http/guards/keys.py", "http/guards/tls.py",  # read at the start
    "model/store/locating.py", "model/store/remote.py",  # of the command line
    "worker/embedding_requests.py",
)  # fmt: skip

REPORTS = {"warn": 0, "_warn": 0, "news": 0, "doing": 0, "note": 0}
"""Functions that are given a sentence which is no error: what a start or a pull reports."""


def korean() -> dict[str, Any]:
    """Return the page's Korean sentences: `said` by code, `routes` by reason, `texts` by English."""
    found: dict[str, Any] = json.loads(KOREAN.read_text())
    return found


@cache
def english_texts() -> frozenset[str]:
    """Return every sentence without a code that a page may be shown, {1}, {2} for its values."""
    found = error_templates(more=REPORTS)
    texts = {text for one in found if _is_reached(one.path) for text in (one.problem, one.cure)}
    return frozenset(text for text in texts if _has_words(text))


def english_sentences() -> dict[str, tuple[str, str]]:
    """Return the sentences with a code: text and cure."""
    return {code: (one.text, one.cure) for code, one in SENTENCES.items()}


def route_reasons() -> set[str]:
    """Return why a router chooses."""
    return set(get_args(Reason))


def blanks(text: str) -> set[str]:
    """Return what is put into a sentence: names or numbers in curly brackets."""
    return set(re.findall(r"\{(\w+)\}", text))


def _is_reached(path: str) -> bool:
    def inside(names: tuple[str, ...]) -> bool:
        return any(path == name or path.startswith(f"{name}/") for name in names)

    return inside(REACHED) and not inside(UNREACHED)


def _has_words(text: str) -> bool:
    said = re.sub(r"\{\d+\}", "", text)
    return not said.isidentifier() and re.search(r"[a-z]{2}", said) is not None


def lacking(texts: Mapping[str, str]) -> list[str]:
    """Return the texts without Korean, in order."""
    return sorted(english_texts() - texts.keys())


def main() -> None:
    """Print what lacks Korean, and what is said no more."""
    texts = korean()["texts"] if KOREAN.exists() else {}
    for text in lacking(texts):
        sys.stdout.write(f"lacks Korean: {text}\n")
    for text in sorted(texts.keys() - english_texts()):
        sys.stdout.write(f"is said no more: {text}\n")


if __name__ == "__main__":
    main()
