"""The server's figures: their names, their values, and what is measured of an answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dure.cluster.root.membership import Member
from dure.cluster.root.survey import NodeReport
from dure.errors import ContextError, EngineError
from dure.generate.request import (
    Done,
    Event,
    Failed,
    PrefillProgress,
    RankPlace,
    Request,
    Timings,
    Token,
)
from dure.hardware.health import Health, Link, Power
from dure.http.access_log import RequestRecord, current_record
from dure.http.metrics import Histogram
from dure.serve.measured import MeasuredEngine
from dure.serve.metrics import Metrics
from tests.support.guarded_server import ScriptedEngine, serving, wait_for
from tests.support.serve_process import dure_serve

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
TIMINGS = Timings(
    queue_s=0.5, prompt_tokens=3, cached_tokens=1, prompt_s=0.125, tokens=2, generate_s=0.25
)
DONE = Done("a", "stop", TIMINGS, 9)
ANSWER = (PrefillProgress("a", 3, 1, 3, 0.1), Token("a", 5), Token("a", 6), DONE)


def samples(text: str) -> Iterator[Sample]:
    """What Prometheus' own parser makes of the page."""
    for family in text_string_to_metric_families(text):
        yield from family.samples


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The one sample of that name and these labels, whatever its other labels are."""
    found = [
        sample.value
        for sample in samples(metrics.text().decode())
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return float(found[0])


def run(
    metrics: Metrics, events: Sequence[Event], *, cancel_after: int = 99, leave_after: int = 99
) -> RequestRecord:
    """The record of a request whose answer was these events, read as a route reads them."""

    async def request() -> RequestRecord:
        record = RequestRecord("r")
        current_record.set(record)
        engine = MeasuredEngine(ScriptedEngine(events), metrics, "m")
        answer = engine.submit(Request(id="a", prompt=[1, 2, 3]))
        seen = 0
        async for _ in answer:
            seen += 1
            if seen == cancel_after:
                answer.cancel()
            if seen == leave_after:
                break
        for action in record.at_end:
            action()
        return record

    return asyncio.run(request())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(ScriptedEngine(), "m")


# Names


def test_every_name_is_explained_and_every_explained_name_is_there(metrics: Metrics) -> None:
    """docs/metrics.md names what is written, with its type, and nothing else but what a router writes."""
    metrics.observe_answer("stop", 1.0)
    metrics.observe_http(RequestRecord("x", method="GET", status=200))
    told = set(re.findall(r"^\| `([^`]+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    written = re.findall(r"^# TYPE (\S+) (\w+)$", metrics.text().decode(), re.MULTILINE)
    assert len(written) == len(set(written))
    assert set(written) == {
        (name, kind) for name, kind in told if not name.startswith("dure_route_")
    }


def test_the_page_is_what_prometheus_reads(metrics: Metrics) -> None:
    """No line is lost on its parser, and no series is there twice."""
    text = metrics.text().decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    read = list(samples(text))
    assert len(read) == len(lines)
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in read]
    assert len(keys) == len(set(keys))
    assert "_created" not in text


def test_the_same_quantity_has_the_same_value_under_every_name(metrics: Metrics) -> None:
    """Ours, vLLM's and llama-server's."""
    for value_wanted, *names in (
        (1, "dure_requests_running", "vllm:num_requests_running", "llamacpp:requests_processing"),
        (2, "dure_requests_waiting", "vllm:num_requests_waiting", "llamacpp:requests_deferred"),
        (30, "dure_prompt_tokens_total", "llamacpp:prompt_tokens_total"),
        (40, "dure_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"),
        (40, "vllm:prompt_tokens_total"),
        (10, "dure_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"),
        (10, "llamacpp:prompt_tokens_cached_total", "llamacpp:n_decode_total"),
        (20, "vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"),
        (0.25, "vllm:kv_cache_usage_perc"),
        (60, "llamacpp:prompt_tokens_seconds"),
        (5, "llamacpp:predicted_tokens_seconds"),
        (2, "llamacpp:n_busy_slots_per_decode"),
    ):
        assert [value(metrics, name) for name in names] == [value_wanted] * len(names)
    assert value(metrics, "dure_sync_seconds_total", rank="1") == 0.5


def test_each_rank_tells_its_time_and_its_machine(metrics: Metrics) -> None:
    """What it computed, waited, and lost to other programs; a rank of no node is on the root."""
    assert value(metrics, "dure_compute_seconds_total", rank="0") == 4
    assert value(metrics, "dure_compute_seconds_total", rank="1") == 3.75
    assert value(metrics, "dure_lost_thread_seconds_total", rank="1") == 1.5
    assert value(metrics, "dure_engine_restarts_total") == 3
    engine = ScriptedEngine()
    places = (RankPlace("", "home", 1, 1), RankPlace("pi-1", "raspberrypi", 1, 1))
    engine.info = msgspec.structs.replace(engine.info, places=places)
    for rank, node in (("0", "dure-root"), ("1", "pi-1")):
        assert value(Metrics(engine, "m"), "dure_rank_info", rank=rank, node=node) == 1


def test_the_servers_own_machine_is_told_like_a_node(tmp_path: Path) -> None:
    """Also without a cluster: the same names, and the label that is the root's everywhere."""
    with dure_serve(tmp_path) as url:
        found = [
            sample
            for sample in samples(httpx.get(f"{url}/metrics").text)
            if sample.labels.get("node") == "dure-root"
        ]
    values = {sample.name: sample.value for sample in found}
    assert values["dure_node_up"] == 1
    assert values["dure_node_memory_available_bytes"] > 0
    assert values["dure_node_disk_free_bytes"] > 0
    assert values["dure_node_throttled"] in {0, 1}
    assert values["dure_node_load"] >= 0


def test_nodes_are_told_with_what_their_sensors_say() -> None:
    """One that answers, without a temperature sensor; and one that does not answer."""
    link = Link("eth0", ("10.0.0.2",), 1000, 3, 50, 60)
    now = Health(
        None, ("throttled",), 1500.0, 0.5, 9.0, 100, 200, (link,), 800, Power(6.5, "board")
    )
    reports = [
        NodeReport(Member("pi-1", "10.0.0.2", 1, 1, 0.0), health=now),
        NodeReport(Member("pi-2", "10.0.0.3", 1, 1, 0.0), "does not answer"),
    ]
    metrics = Metrics(ScriptedEngine(), "m", lambda: reports)
    assert value(metrics, "dure_node_up", node="pi-1") == 1
    assert value(metrics, "dure_node_up", node="pi-2") == 0
    assert value(metrics, "dure_node_throttled", node="pi-1") == 1
    assert value(metrics, "dure_node_clock_hertz", node="pi-1") == 1.5e9
    assert value(metrics, "dure_node_disk_bytes", node="pi-1") == 800
    assert value(metrics, "dure_node_power_watts", node="pi-1", of="board") == 6.5
    assert value(metrics, "dure_node_link_errors_total", node="pi-1", device="eth0") == 3
    assert not any(
        sample.name == "dure_node_temperature_celsius"
        for sample in samples(metrics.text().decode())
    )


# Histograms


def test_a_histogram_counts_a_bound_as_below_it() -> None:
    """Prometheus' `le` is less or equal."""
    histogram = Histogram((1, 2))
    for seconds in (0.5, 1, 1.5, 2, 3):
        histogram.observe(seconds)
    assert list(histogram.buckets()) == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert (histogram.count, histogram.total) == (5, 8)


# Answers


def test_an_answer_is_measured_and_recorded(metrics: Metrics) -> None:
    """First token, next tokens, the whole; and the record of its request has the same."""
    record = run(metrics, ANSWER)
    assert value(metrics, "dure_first_token_seconds_count") == 1
    assert value(metrics, "vllm:inter_token_latency_seconds_count") == 1
    assert value(metrics, "vllm:e2e_request_latency_seconds_count") == 1
    assert value(metrics, "dure_queue_seconds_sum") == 0.5
    assert value(metrics, "dure_answers_total", reason="stop") == 1
    assert value(metrics, "vllm:request_prompt_tokens_sum") == 3
    assert value(metrics, "vllm:request_generation_tokens_sum") == 2
    assert value(metrics, "vllm:request_prefill_time_seconds_sum") == 0.125
    assert value(metrics, "vllm:request_decode_time_seconds_sum") == 0.25
    assert value(metrics, "llamacpp:n_tokens_max") == 5
    assert (record.model, record.finish_reason) == ("m", "stop")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (3, 1, 2)
    assert record.ttft_s is not None


def test_an_answer_that_its_reader_cuts_at_a_stop_string_has_stopped(metrics: Metrics) -> None:
    """It was cancelled at the engine, but is complete for the client; later tokens are nobody's."""
    record = run(metrics, ANSWER, cancel_after=2)
    assert (record.finish_reason, record.completion_tokens) == ("stop", 1)
    assert value(metrics, "vllm:request_success_total", finished_reason="stop") == 1


def test_an_answer_that_nobody_reads_on_was_cancelled(metrics: Metrics) -> None:
    """It is counted when its request ends, and the engine is told to stop."""
    assert run(metrics, ANSWER, leave_after=2).finish_reason == "cancelled"
    assert value(metrics, "vllm:request_success_total", finished_reason="abort") == 1
    assert value(metrics, "dure_answers_total", reason="cancelled") == 1


def test_an_answer_that_fails_is_an_error(metrics: Metrics) -> None:
    """Whatever came before."""
    failed = run(metrics, (*ANSWER[:2], Failed("a", EngineError("gone").record())))
    assert failed.finish_reason == "error"
    assert value(metrics, "dure_answers_total", reason="error") == 1


def test_a_prompt_above_the_servers_own_limit_is_refused(metrics: Metrics) -> None:
    """Before the engine sees it; one of just that length is taken, embeddings too."""
    inner = ScriptedEngine(ANSWER)
    engine = MeasuredEngine(inner, metrics, "m", max_prompt_tokens=3)
    engine.submit(Request(id="a", prompt=[1, 2, 3]))
    with pytest.raises(ContextError) as error:
        engine.submit(Request(id="b", prompt=[1, 2, 3, 4]))
    assert (error.value.n_prompt, error.value.n_ctx) == (4, 3)
    assert len(inner.answers) == 1
    with pytest.raises(ContextError):
        asyncio.run(engine.embed([[1], [1, 2, 3, 4]]))


# HTTP


def test_requests_are_counted_by_key_and_status(tmp_path: Path) -> None:
    """The page is behind the key check; what is refused is counted too."""
    with serving(tmp_path / "log", api_keys=("alice:secret",)) as server:
        key = {"x-api-key": "secret"}
        httpx.post(f"{server.url}/x", headers=key)
        httpx.post(f"{server.url}/x")
        httpx.request("BREW", f"{server.url}/x", headers=key)
        with httpx.stream("GET", f"{server.url}/stream?100000", headers=key) as answer:
            next(answer.iter_lines())
        server.log(3)
        wait_for(lambda: value(server.metrics, "dure_http_hung_up_total") == 1)
        text = httpx.get(f"{server.url}/metrics", headers=key)
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        counted = {
            (s.labels["method"], s.labels["status"], s.labels["key"]): s.value
            for s in samples(text.text)
            if s.name == "dure_http_requests_total"
        }
    assert counted["POST", "200", "alice"] == 1
    assert counted["POST", "401", ""] == 1
    assert "secret" not in text.text


def test_the_number_of_series_does_not_grow_with_what_callers_send(metrics: Metrics) -> None:
    """Methods, paths and names of keys are bounded."""
    for i in range(1000):
        metrics.observe_http(
            RequestRecord("x", method=f"M{i}", path=f"/{i}", owner=f"k{i}", status=404)
        )
    series = [s for s in samples(metrics.text().decode()) if s.name == "dure_http_requests_total"]
    assert len(series) <= 201
    assert json.dumps([s.labels for s in series]).count("(others)") == 1


def test_ignored_fields_are_counted_by_name_and_unknown_ones_together(tmp_path: Path) -> None:
    """A real server: a client cannot make up labels of a metric."""
    with dure_serve(tmp_path) as url:
        asked = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}
        asked |= {"metadata": {"a": "b"}, "made_up": 1}
        httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).raise_for_status()
        page = httpx.get(f"{url}/metrics").text
    counted = {
        s.labels["field"]: s.value for s in samples(page) if s.name == "dure_ignored_fields_total"
    }
    assert counted == {"metadata": 1, "(unknown)": 1}
    assert "made_up" not in page
