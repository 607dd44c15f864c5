"""Whatever follows, or breaks, our OpenAPI document is answered as the document says, and never with 5xx.

Asked is `dure serve` itself, with its engine and all of its guards. DURE_SCHEMATHESIS_CASES raises the
number of cases, which are shared by all addresses.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import AcceptedNegativeData, FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.serve_process import dure_serve

N_CASES = int(os.environ.get("DURE_SCHEMATHESIS_CASES", "180"))
DIALECTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat")
# What the demo model cannot do, and adapters that are not there.
REFUSED = {
    "/infill": 400,
    "/v1/rerank": 400,
    "/v1/load_lora_adapter": 400,
    "/v1/unload_lora_adapter": 404,
}

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("schemathesis")
    with dure_serve(home, "--ctx", 256, "--lora-dir", home) as running:
        yield running


def test_every_address_keeps_to_the_document(url: str) -> None:
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    results: list[Any] = list(document.get_all_operations())
    operations = [found.ok() for found in results]
    assert {operation.path for operation in operations} >= set(DIALECTS)
    n = math.ceil(N_CASES / 2 / sum(operation.method == "post" for operation in operations))
    allowed: Counter[int] = Counter()
    forbidden: Counter[int] = Counter()
    for operation in operations:  # those without parameters have a single case
        allowed += keep_to_the_document(operation, n, GenerationMode.POSITIVE)
        forbidden += keep_to_the_document(operation, n, GenerationMode.NEGATIVE)
    print(f"what the document allows: {allowed}; what it does not: {forbidden}")  # noqa: T201 - pytest -s
    assert allowed.total() + forbidden.total() >= N_CASES
    assert allowed[200] > allowed.total() // 2, "most of it is never answered, so little is tried"


def test_every_example_of_the_document_is_answered(url: str) -> None:
    """Those of abilities that the demo model has not, and of what is not there, are refused."""
    document = httpx.get(f"{url}/openapi.json").json()
    n = 0
    for path, operation in posts(document):
        for body in examples_of(document, operation):
            answer = httpx.post(url + path, json=body, timeout=120)
            assert answer.status_code == REFUSED.get(path, 200), (path, body, answer.text)
            n += 1
    assert n >= 30


def posts(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The addresses that take a body."""
    paths = document["paths"].items()
    return [(path, methods["post"]) for path, methods in paths if "post" in methods]


def examples_of(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The bodies that are shown; every address has some."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found: list[dict[str, Any]] = schema["examples"]
    return found


def test_types_of_the_document_have_names_for_people(url: str) -> None:
    """No path in our source, and none of what is only known to be refused."""
    names = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]
    assert {"OpenAIChatRequest", "OllamaChatRequest", "MessagesRequest"} <= set(names)
    assert [name for name in names if "__" in name or "Other" in name] == []


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
        answer = case.call(timeout=120)
        statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as found:
            if not is_allowed_after_all(found, case):
                raise

    with suppress(Unsatisfiable):  # an address without parameters cannot be asked wrongly
        ask()
    return statuses


def is_allowed_after_all(found: FailureGroup, case: Any) -> bool:
    """Whether all that is wrong is that schemathesis takes a body for forbidden which is not.

    It breaks one alternative of a message by its role, which may be another alternative's.
    """
    if not all(isinstance(one, AcceptedNegativeData) for one in found.exceptions):
        return False
    document = case.operation.schema.raw_schema
    body = document["paths"][case.path][case.method.lower()]["requestBody"]["content"]
    schema = {**body["application/json"]["schema"], "components": document["components"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(case.body))


@st.composite
def like_an_example(draw: st.DrawFn, operation: Any) -> Any:
    """What the document allows; of a body no more than three fields are not those of an example.

    A body of which every field is arbitrary is nearly always refused by one of them.
    """
    case = draw(operation.as_strategy(GenerationMode.POSITIVE))
    examples = [example for body in operation.body for example in body.examples]
    if examples and not isinstance(case.body, list):
        names = draw(st.sets(st.sampled_from(sorted(case.body)), max_size=3)) if case.body else ()
        changes = {name: as_most_write_it(case.body[name]) for name in names}
        case.body = {**draw(st.sampled_from(examples)), **changes}
    return case


def as_most_write_it(value: Any, *, in_list: bool = False) -> Any:
    """JSON without 3.0 in place of 3 inside of lists, where the server is stricter than the document."""
    if in_list and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [as_most_write_it(part, in_list=True) for part in value]
    if isinstance(value, dict):
        return {name: as_most_write_it(part, in_list=in_list) for name, part in value.items()}
    return value
