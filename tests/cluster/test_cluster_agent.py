"""A node's agent, whatever it is asked: its document holds, and nothing is written elsewhere.

TLS stands before it (test_cluster_identity); here the agent itself is asked, as the root could ask it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.websockets import WebSocketDisconnect

from dure.cluster.node.agent import agent_app
from dure.cluster.software import versions
from dure.cluster.trust.record_routes import RecordApp
from dure.engine.compute.gpu import gpus

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
VERBS = {
    ("GET", "/facts"),
    ("POST", "/examination"),
    ("POST", "/setting"),
    ("POST", "/name"),
    ("POST", "/certificate"),
    ("POST", "/leave"),
    ("POST", "/speed"),
    ("GET", "/gpus"),
    ("POST", "/sink"),
    ("GET", "/shards"),
    ("POST", "/shards/{name}"),
    ("DELETE", "/shards/{name}"),
    ("PUT", "/shards/{name}/chunks/{index}"),
    ("POST", "/shards/{name}/finish"),
    ("POST", "/shards/{name}/check"),
}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return agent_app(tmp_path / "node")


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_it_has_these_verbs_and_no_others(app: FastAPI) -> None:
    """Besides the line of a rank, which is no HTTP."""
    paths = app.openapi()["paths"]
    assert {
        (method.upper(), path) for path, methods in paths.items() for method in methods
    } == VERBS


def test_whatever_it_is_asked_it_keeps_to_its_document(app: FastAPI, tmp_path: Path) -> None:
    """With bodies that the document allows, and others; files lie below its own directory only."""
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    found: list[Any] = list(document.get_all_operations())
    for operation in (one.ok() for one in found):
        if operation.path == "/speed":
            continue  # seconds each; see below
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            ask_many(operation, mode)
    assert {path.name for path in tmp_path.iterdir()} <= {"node"}


def ask_many(operation: Any, mode: GenerationMode) -> None:
    @settings(
        max_examples=40,
        deadline=None,
        derandomize="DURE_RANDOM_TESTS" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    with suppress(Unsatisfiable):  # an address without parameters cannot be asked wrongly
        ask()


def test_it_measures_a_type_and_refuses_what_is_none(client: TestClient) -> None:
    told = client.post("/speed", json={"type": "Q4_0"}).json()
    assert told["decode_bytes_per_s"] > 1e6
    assert told["prompt_bytes_per_s"] > 1e6
    for wrong in ("Q9_9", "q4_0", "", "../x"):
        assert client.post("/speed", json={"type": wrong}).status_code in {400, 422}
    assert client.post("/speed", json={"type": "Q4_0", "gpu": "../x"}).status_code in {400, 422}


def test_it_tells_the_gpus_that_llama_cpp_sees(client: TestClient) -> None:
    """In their own words as a fact, and with their free memory when it is asked for that."""
    told = client.get("/gpus").json()["gpus"]
    assert [gpu["description"] for gpu in told] == [gpu.description for gpu in gpus()]
    assert client.get("/facts").json()["platform"]["gpus"] == [gpu["description"] for gpu in told]


def test_it_changes_settings_of_latency_and_no_others(client: TestClient) -> None:
    """A root may not start services here, open the firewall, or write to another file."""
    for name in ("unit:system:ssh", "ufw:10.0.0.0/8", "ntp", "file:/etc/passwd", "gro:--help"):
        assert client.post("/setting", json={"name": name}).status_code == 400, name


def test_a_fault_of_its_own_is_logged_with_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """The root is told where to look; the log has method, path and traceback."""
    app = RecordApp("test", [])

    @app.get("/facts/{name}")
    def facts(name: str) -> None:
        raise ZeroDivisionError(name)

    answer = TestClient(app, raise_server_exceptions=False).get("/facts/a%1Bb")
    assert (answer.status_code, answer.json()) == (
        500,
        {"detail": "something went wrong on this machine: see its log"},
    )
    (record,) = [one for one in caplog.records if one.name.startswith("dure.")]
    assert record.getMessage() == r"GET '/facts/a\x1bb' failed"
    assert "ZeroDivisionError" in (record.exc_text or "")


def test_it_tells_its_versions(client: TestClient) -> None:
    assert client.get("/facts").json()["platform"]["versions"] == versions()


@pytest.mark.parametrize("order", [b"", b"{}", b"\xff" * 100, b"[" * 5000, b'{"job": 1}'])
def test_what_is_no_order_starts_no_rank(client: TestClient, tmp_path: Path, order: bytes) -> None:
    with client.websocket_connect("/rank") as line:
        line.send_bytes(order)
        with pytest.raises(WebSocketDisconnect):
            line.receive_text()
    assert not (tmp_path / "node" / "run").exists()
