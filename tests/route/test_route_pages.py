"""What a router answers itself, and that no address of `dure serve` is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import ollama
import openai
import pytest
from fastapi.routing import APIRoute

from dure.http.ollama_release import OLLAMA_VERSION
from dure.route.dialects import DIALECTS
from dure.route.pages import PAGES
from dure.serve import anthropic, docs, responses
from dure.serve import ollama as ollama_dialect
from dure.serve.app import OPENAI
from dure.serve.page import routes as page
from tests.support.dure_server import Home, Serving
from tests.support.routing import Routing, routing, upstream
from tests.support.scripted_upstream import ScriptedUpstream, scripted

NOT_ROUTED = {
    "GET /docs": "describes the API of one server; the router's address gives the same APIs",
    **dict.fromkeys(
        (
            "GET /page/assets/{name}",
            "GET /page/feed",
            "POST /page/requests/{request_id}/cancel",
            "GET /page/history",
            "GET /page/models",
            "POST /page/models/pull",
            "POST /page/models/quantize",
            "POST /page/models/cut",
            "POST /page/models/tune",
            "POST /page/work/{work_id}/stop",
            "POST /page/trace",
        ),
        "the page of one server",
    ),
    "GET /slots": "of one server: its own address tells them",
    "GET /tokenizer_info": "of one model, and a GET does not say which",
    "GET /lora-adapters": "adapters belong to one server",
    "POST /lora-adapters": "changes one server for all its clients",
    "POST /v1/load_lora_adapter": "changes one server for all its clients",
    "POST /v1/unload_lora_adapter": "changes one server for all its clients",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server of the demo model."""
    with Home(tmp_path_factory.mktemp("server")).serving() as one:
        yield one


@pytest.fixture(scope="module")
def plain() -> Iterator[ScriptedUpstream]:
    """An upstream of another model that has no API of Ollama's."""
    with scripted(("small",)) as one:
        one.absent = ("/api/show", "/api/ps")
        yield one


@pytest.fixture(scope="module")
def router(
    server: Serving, plain: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Routing]:
    """A router before both, and one that is off."""
    rules = upstream("dure", server.url, tools=False)
    rules += upstream("plain", plain.url, context=512, vision=True, parallel=3, measure=False)
    rules += upstream("off", "http://127.0.0.1:1", models=["dure-demo"], measure=False)
    with routing(tmp_path_factory.mktemp("router"), rules) as found:
        yield found


def addresses() -> set[str]:
    """All addresses of `dure serve`, each with its method."""
    dialects = (responses.router(), anthropic.router(), ollama_dialect.router())
    return {
        f"{method} {route.path}"
        for router in (*OPENAI, *dialects, docs.router, page.router)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def test_every_address_of_a_server_is_routed_or_answered(router: Routing) -> None:
    """Or there is a reason why it is not."""
    answered = {f"POST {path}" for path in DIALECTS} | {f"GET {path}" for path in PAGES}
    answered |= {"GET /v1/models/{model:path}", "GET /models/{model:path}"}
    assert addresses() - answered == set(NOT_ROUTED)
    assert answered - addresses() == set(), "a router speaks nothing that dure serve does not"
    for address in NOT_ROUTED:
        method, path = address.split()
        answer = httpx.request(method, f"{router.url}{path}")
        assert (answer.status_code, "a router has" in answer.text) == (404, True)


def test_models_are_found_by_name(router: Routing) -> None:
    """With their servers; what nobody serves is 404."""
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none") as client:
        assert client.models.retrieve("dure-demo").to_dict()["upstreams"] == ["dure", "off"]
        assert client.models.retrieve("auto").id == "auto"
        with pytest.raises(openai.NotFoundError, match="no upstream serves 'none'"):
            client.models.retrieve("none")


def test_a_router_is_an_upstream_itself(router: Routing, server: Serving) -> None:
    """Its properties tell another one its longest context, and the places of all that are up."""
    own = httpx.get(f"{server.url}/props").json()
    told = httpx.get(f"{router.url}/props").json()
    n_ctx = own["default_generation_settings"]["n_ctx"]
    assert told["default_generation_settings"]["n_ctx"] == max(n_ctx, 512)
    assert told["total_slots"] == own["total_slots"] + 3
    assert told["modalities"]["vision"]
    assert httpx.get(f"{router.url}/").text.startswith("dure is running")


def test_ollamas_client_sees_what_is_loaded(router: Routing, server: Serving) -> None:
    """As the upstreams tell it; of one that does not, what it serves; of one that is off, nothing."""
    with ollama.Client(router.url) as client, ollama.Client(server.url) as direct:
        found, (own,) = client.ps().models, direct.ps().models
    assert found[0] == own
    assert [(one.model, one.context_length) for one in found[1:]] == [("small", 512)]
    models = httpx.get(f"{router.url}/api/ps").json()["models"]
    assert [one["upstreams"] for one in models] == [["dure"], ["plain"]]
    assert httpx.get(f"{router.url}/api/version").json() == {"version": OLLAMA_VERSION}


def test_ollamas_client_is_shown_a_model(router: Routing, server: Serving) -> None:
    """By who serves it; what no server describes, and `auto`, by the router from what it knows."""
    with ollama.Client(server.url) as direct:
        own = direct.show("dure-demo")
    with ollama.Client(router.url) as client:
        assert client.show("dure-demo") == client.show("dure-demo:latest") == own
        for _ in range(2):  # the second time the router knows that nobody is to be asked
            small = client.show("small")
            assert small.capabilities == ["completion", "tools", "vision"]
            assert (small.modelinfo or {})["unknown.context_length"] == 512
        every = client.show("auto")
        assert every.capabilities == ["completion", "tools", "vision"]
        assert (every.modelinfo or {})["unknown.context_length"] >= 512
        with pytest.raises(ollama.ResponseError, match="no upstream serves 'none'"):
            client.show("none")
    by_name = httpx.post(f"{router.url}/api/show", json={"name": "dure-demo"}).json()
    assert by_name["model_info"] == own.modelinfo
