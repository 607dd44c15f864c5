"""/v1/rerank: a model with a ranking head says which documents answer a query, through a real engine.

The model likes documents that end in "bell", and dislikes those that end in "river".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dure.chat.reading import TextTools
from dure.deploy.options import RunOptions
from dure.isolation import Isolation
from dure.model.gguf import Value, ValueKind, array_of, open_gguf, value_of
from dure.model.vocabulary import Vocabulary
from dure.serve.served_model import ServedModel
from dure.worker.protocol import EngineOptions
from dure.worker.supervisor import EngineSupervisor
from tests.support.parrot import WIDTH, tokens_of, write_parrot
from tests.support.serving import (
    DEMO_MODEL,
    ScriptedEngine,
    Served,
    served,
    served_engine,
    state_of,
)

BELL, RIVER, OTHER = tokens_of(DEMO_MODEL, " bell river mill")
TEMPLATE = "Does this text say {query}\n{document}"
RANKS: dict[str, Value] = {
    "qwen3.pooling_type": value_of(ValueKind.UINT32, 4),
    "qwen3.classifier.output_labels": array_of(ValueKind.STRING, ["yes", "no"]),
}
DOCUMENTS = ["Who sees the river", "Nari sleeps", "Who rings the bell"]
ALIASES = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")


def write_reranker(path: Path, metadata: dict[str, Value]) -> None:
    head = np.zeros((2, WIDTH), np.float32)
    head[0, 1], head[0, 2] = 1.0, -1.0  # a token that is said has the axis of the one after it
    says = [BELL, RIVER, OTHER]
    write_parrot(
        path, DEMO_MODEL, says, metadata={**RANKS, **metadata}, more={"cls.output.weight": head}
    )


@contextlib.contextmanager
def ranking(path: Path) -> Iterator[Served]:
    """Run a server with the demo model, scripted, and a reranker beside it."""
    options = EngineOptions(model=str(path), run=RunOptions(threads=1, ctx=64), embedding=True)
    engine = EngineSupervisor(options)
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
    with Isolation(TextTools(vocabulary, None)) as texts:
        beside = ServedModel(engine, vocabulary, texts, "reranker")
        with served_engine(state_of(ScriptedEngine(), embedding=beside), engine) as server:
            yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("reranker") / "reranker.gguf"
    write_reranker(path, {})
    with ranking(path) as running:
        yield running


def ranked(server: Served, address: str = "/v1/rerank", **body: Any) -> Any:
    done = httpx.post(f"{server.url}{address}", json={"query": "What rings?", **body}, timeout=60)
    return done.json() if done.status_code == 200 else done


@pytest.mark.parametrize("address", ALIASES)
def test_the_best_document_comes_first(server: Served, address: str) -> None:
    """With its place in the request, and its score; tokens are counted."""
    told = ranked(server, address, documents=DOCUMENTS)
    assert [one["index"] for one in told["results"]] == [2, 1, 0]
    scores = [one["relevance_score"] for one in told["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    n = sum(len(tokens_of(DEMO_MODEL, f"What rings?{text}")) for text in DOCUMENTS)
    assert abs(told["usage"]["prompt_tokens"] - n) <= len(DOCUMENTS)


def test_other_names_of_the_fields_and_a_limit(server: Served) -> None:
    """Cohere's objects and TEI's `texts`; only the best, with their texts."""
    texts = [{"text": text} for text in DOCUMENTS]
    told = ranked(server, texts=texts, top_n=1, return_text=True)
    (best,) = told["results"]
    assert best["document"] == {"text": "Who rings the bell"}
    assert ranked(server, documents=texts, top_n=1)["results"][0]["index"] == 2


def test_a_models_own_template_is_written(tmp_path: Path) -> None:
    """The query and the document stand where it says: the last token decides, and is the document's."""
    path = tmp_path / "reranker.gguf"
    write_reranker(path, {"tokenizer.chat_template.rerank": value_of(ValueKind.STRING, TEMPLATE)})
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
    written = "Does this text say What rings?\nWho rings the bell"
    assert vocabulary.pair("What rings?", "Who rings the bell") == vocabulary.tokenize(written)
    vocabulary.close()
    with ranking(path) as server:
        assert ranked(server, documents=DOCUMENTS)["results"][0]["index"] == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": ["a"], "query": ""}, "query"),
        ({"documents": ["a"], "top_n": 0}, "top_n"),
        ({"documents": ["bell " * 100]}, None),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    server: Served, body: dict[str, Any], param: str | None
) -> None:
    done = ranked(server, **body)
    assert done.status_code == 400
    assert (done.json()["error"]["param"] or "").startswith(param or "")


def test_a_reranker_embeds_nothing_and_the_model_beside_it_does(server: Served) -> None:
    """/v1/embeddings goes on to the main model."""
    done = httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"})
    assert done.json()["model"] == "dure-demo"


def test_a_model_that_does_not_rank_says_so_by_name() -> None:
    with served(state_of(ScriptedEngine())) as server:
        done = ranked(server, documents=DOCUMENTS)
    assert done.status_code == 400
    assert done.json()["error"]["param"] == "model"
    assert "--embedding-model" in done.text
