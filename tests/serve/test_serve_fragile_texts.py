"""Texts that end the process that reads them: the request is refused, wherever the text stands in it."""

from __future__ import annotations

import os
import signal
from typing import Any, cast

import httpx
import pytest

from dure.chat.reading import TextTools
from dure.isolation import Isolation
from dure.model.vocabulary import Vocabulary
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from tests.support.serving import ScriptedEngine, served, vocabulary

FATAL = "fatal"


class FragileVocabulary:
    """The demo model's vocabulary, but a text with FATAL ends the process."""

    def tokenize(self, text: str, **options: Any) -> list[int]:
        if FATAL in text:
            os.kill(os.getpid(), signal.SIGKILL)
        return vocabulary().tokenize(text, **options)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": FATAL},
        {"logit_bias": {FATAL: 1}},
        {"logit_bias": [[FATAL, False]]},
        {"dry_multiplier": 1, "dry_sequence_breakers": ["\n", FATAL]},
    ],
)
def test_a_text_that_ends_its_reader_is_refused(fields: dict[str, Any]) -> None:
    """The server lives, and answers the next request; nothing reaches the engine."""
    engine = ScriptedEngine()
    fragile = cast(Vocabulary, FragileVocabulary())
    with Isolation(TextTools(fragile, None)) as texts:
        state = ServerState(ServedModel(engine, vocabulary(), texts, "demo"))
        with served(state) as server, httpx.Client(base_url=server.url, timeout=60) as http:
            refused = http.post("/v1/completions", json={"prompt": "x", **fields})
            assert refused.status_code == 400
            assert engine.requests == []
            harmless = {"prompt": "x", "logit_bias": {"y": 1}, "dry_sequence_breakers": ["."]}
            assert http.post("/v1/completions", json=harmless).status_code == 200
