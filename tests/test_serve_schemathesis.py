"""Whatever follows, or breaks, our OpenAPI document is answered as the document says, and never with 5xx.

DURE_SCHEMATHESIS_CASES raises the number of cases, which are shared by all addresses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from serving import ScriptedEngine, Served, served, state_of

N_CASES = int(os.environ.get("DURE_SCHEMATHESIS_CASES", "150"))

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(state_of(ScriptedEngine())) as running:
        yield running


def test_every_address_keeps_to_the_document(server: Served) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    results: list[Any] = list(document.get_all_operations())
    operations = [found.ok() for found in results]
    assert len(operations) >= 14
    for operation in operations:
        keep_to_the_document(operation, max(1, N_CASES // len(operations)))


def keep_to_the_document(operation: Any, n_cases: int) -> None:
    """Ask one address, half of the time for what the document allows, half for what it does not."""
    for mode in GenerationMode:

        @settings(
            max_examples=max(1, n_cases // 2),
            deadline=None,
            derandomize="DURE_SCHEMATHESIS_CASES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        with suppress(Unsatisfiable):  # an address without parameters cannot be asked wrongly
            ask()
