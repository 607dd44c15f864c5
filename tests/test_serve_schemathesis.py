"""Whatever follows, or breaks, our OpenAPI document is answered as the document says, and never with 5xx.

Asked is `dure serve` itself, with its engine and all of its guards. DURE_SCHEMATHESIS_CASES raises the
number of cases, which are shared by all addresses.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from serve_process import dure_serve

N_CASES = int(os.environ.get("DURE_SCHEMATHESIS_CASES", "180"))
DIALECTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options = ("--ctx", 256, "--max-body", 1)
    with dure_serve(tmp_path_factory.mktemp("schemathesis"), *options) as running:
        yield running


def test_every_address_keeps_to_the_document(url: str) -> None:
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    results: list[Any] = list(document.get_all_operations())
    operations = [found.ok() for found in results]
    assert {operation.path for operation in operations} >= set(DIALECTS)
    allowed: Counter[int] = Counter()
    for operation in operations:
        n = max(2, N_CASES // len(operations))
        allowed += keep_to_the_document(operation, n // 2, GenerationMode.POSITIVE)
        keep_to_the_document(operation, n // 2, GenerationMode.NEGATIVE)
    print(f"answers to what the document allows: {dict(allowed)}")  # noqa: T201 - pytest -s
    assert allowed[200] > allowed.total() // 2, "most of it is never answered, so little is tried"


def keep_to_the_document(operation: Any, n_cases: int, mode: GenerationMode) -> Counter[int]:
    """Ask one address for what the document allows, or does not; the statuses of the answers."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=n_cases,
        deadline=None,
        derandomize="DURE_SCHEMATHESIS_CASES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(like_an_example(operation) if mode.is_positive else operation.as_strategy(mode))
    def ask(case: Any) -> None:
        answer = case.call_and_validate(checks=CHECKS, timeout=120)
        statuses[answer.status_code] += 1
        if mode.is_positive and answer.status_code==400: print(case.method, case.path, str(answer.json())[:250], str(case.body)[:300])

    with suppress(Unsatisfiable):  # an address without parameters cannot be asked wrongly
        ask()
    return statuses


@st.composite
def like_an_example(draw: st.DrawFn, operation: Any) -> Any:
    """What the document allows; of a body no more than three fields are not those of an example.

    A body of which every field is arbitrary is nearly always refused by one of them.
    """
    case = draw(operation.as_strategy(GenerationMode.POSITIVE))
    if isinstance(case.body, dict) and (examples := examples_of(operation)):
        names = draw(st.sets(st.sampled_from(sorted(case.body)), max_size=3)) if case.body else ()
        changes = {name: case.body[name] for name in names}
        case.body = {**draw(st.sampled_from(examples)), **changes}
    return case


def examples_of(operation: Any) -> list[dict[str, Any]]:
    """The examples that the document shows of an address's body."""
    (body,) = operation.body
    found: list[dict[str, Any]] = body.definition["schema"].get("examples", [])
    return found
