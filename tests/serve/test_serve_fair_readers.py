"""Texts that take long to read hold up only the client that sent them."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from dure.chat.reading import TextTools
from dure.isolation import Isolation, IsolationLimits
from dure.model.vocabulary import Vocabulary
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from tests.support.serving import WAIT_S, ScriptedEngine, served, vocabulary

ENDLESS = "endless"
LONG = " barley" * 1_200  # few enough tokens


class SlowVocabulary:
    """The demo model's vocabulary, but a text with ENDLESS takes for ever.

    begun: a folder, with a file for every process that reads one.
    """

    def __init__(self, begun: Path) -> None:
        self._begun = begun

    def tokenize(self, text: str, **options: Any) -> list[int]:
        if ENDLESS in text:
            (self._begun / str(os.getpid())).touch()
            time.sleep(10 * WAIT_S)
        return vocabulary().tokenize(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(vocabulary(), name)


@pytest.mark.parametrize("more", ["", LONG], ids=["short", "long"])
def test_texts_of_one_client_hold_up_no_other(tmp_path: Path, more: str) -> None:
    """Its texts take all the processes that it may have; a client with another address is answered."""

    async def post(address: str, prompt: str) -> int:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(transport=transport, timeout=WAIT_S) as http:
            body = {"prompt": prompt, "max_tokens": 1}
            return (await http.post(f"{server.url}/v1/completions", json=body)).status_code

    async def all_of_them() -> None:
        slow = [asyncio.create_task(post("127.0.0.2", ENDLESS + more)) for _ in range(6)]
        while len(list(tmp_path.iterdir())) < 2:
            await asyncio.sleep(0.01)
        assert await post("127.0.0.1", "a harmless text" + more) == 200
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)

    slow_vocabulary = cast(Vocabulary, SlowVocabulary(tmp_path))
    with Isolation(TextTools(slow_vocabulary, None), IsolationLimits(time_s=2 * WAIT_S)) as texts:
        model = ServedModel(ScriptedEngine(), vocabulary(), texts, "demo")
        with served(ServerState(model)) as server:
            asyncio.run(asyncio.wait_for(all_of_them(), WAIT_S))
