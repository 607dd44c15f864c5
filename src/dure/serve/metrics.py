"""Metrics of the engine and its answers, under our names, vLLM's and llama-server's.

Knows what is counted and what it is called elsewhere. Refuses to know where values are observed.
Every name is explained in docs/metrics.md, which a test compares with what is really written.
Sources of the other names: llama.cpp `tools/server/server-task.cpp`; vLLM `vllm/v1/metrics/loggers.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dure.cluster.root.survey import NodeReport
from dure.errors import NotReadyError
from dure.generate.request import EngineStats, OwnerStats, Timings
from dure.http.access_log import RequestRecord
from dure.http.metrics import (
    MAX_OWNERS,
    OTHERS,
    REQUEST_S,
    Histogram,
    Labels,
    MetricsPage,
    RequestMetrics,
    counted,
    counter,
    gauge,
    histogram,
)
from dure.places import pods_directory
from dure.pods.metrics import pod_metrics
from dure.serve.cluster_watch import node_metrics
from dure.serve.engine import Engine
from dure.serve.page.machines import node_of
from dure.serve.state import ADDRESS

__all__ = ["Metrics"]

_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5),
    *(10, 20, 40, 80, 160, 640, 2560),
)
_NEXT_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
_TOKENS = tuple(factor * 10**power for power in range(6) for factor in (1, 2, 5))


class Metrics(Collector):
    """Counts what a server observes, and collects what its engine counts. Used from one thread.

    model: as clients name it; it labels every metric of the model. nodes: gives the latest reports of
    the cluster's nodes.
    """

    def __init__(
        self, engine: Engine, model: str, nodes: Callable[[], Sequence[NodeReport]] = tuple
    ) -> None:
        self._engine, self._model, self._nodes = engine, model, nodes
        self._first_token, self._next_token = Histogram(_FIRST_TOKEN_S), Histogram(_NEXT_TOKEN_S)
        self._request, self._queue = Histogram(REQUEST_S), Histogram(REQUEST_S)
        self._prefill, self._decode = Histogram(REQUEST_S), Histogram(REQUEST_S)
        self._prompt_length, self._length = Histogram(_TOKENS), Histogram(_TOKENS)
        self._finished: Counter[str] = Counter()
        self._longest = 0
        self._http = RequestMetrics()
        self.observe_next_token: Callable[[float], None] = self._next_token.observe
        self.observe_http: Callable[[RequestRecord], None] = self._http.observe
        self._page = MetricsPage(self)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return self._page.text()

    # What is observed; `observe_next_token(seconds)` is a histogram's own, for speed

    def observe_first_token(self, seconds: float) -> None:
        """Count an answer's time to first token."""
        self._first_token.observe(seconds)

    def observe_answer(self, reason: str, seconds: float, timings: Timings | None = None) -> None:
        """Count an answer that has ended: why (stop, length, cancelled, error), and how long it took."""
        self._finished[reason] += 1
        self._request.observe(seconds)
        if timings:
            self._queue.observe(timings.queue_s)
            self._prefill.observe(timings.prompt_s)
            self._decode.observe(timings.generate_s)
            self._prompt_length.observe(timings.prompt_tokens)
            self._length.observe(timings.tokens)
            self._longest = max(self._longest, timings.prompt_tokens + timings.tokens)

    # What is collected

    def collect(self) -> Iterable[Metric]:
        """Yield every metric, as prometheus_client asks for them."""
        stats = self._engine.stats
        yield from self._ours(stats)
        yield from self._as_vllm(stats)
        yield from self._as_llama_server(stats)
        yield from node_metrics(self._nodes())
        yield from pod_metrics(pods_directory())

    def _ours(self, stats: EngineStats) -> Iterator[Metric]:
        model = {"model": self._model}
        yield gauge("dure_up", "Whether the engine is ready", self._is_ready(), model)
        text = "How often the engine was started again"
        yield counter("dure_engine_restarts", text, self._engine.restarts, model)
        yield from self._model_info()
        yield from _engine_figures(stats, model)
        yield from _rank_figures(stats, model)
        yield from _key_figures(stats, model)
        yield counted(
            "dure_answers", "Answers that ended, by reason", ("reason",), self._finished, model
        )
        yield histogram(
            "dure_first_token_seconds", "Request to first token", self._first_token, model
        )
        yield histogram("dure_next_token_seconds", "Token to token", self._next_token, model)
        yield histogram("dure_answer_seconds", "Request to end of answer", self._request, model)
        yield histogram("dure_queue_seconds", "Wait before the prompt's start", self._queue, model)
        yield from self._http.collect()

    def _model_info(self) -> Iterator[Metric]:
        try:
            info = self._engine.info
        except NotReadyError:
            return
        labels = {
            "model": self._model,
            "architecture": info.architecture,
            "type": info.file_type,
            "ranks": str(info.n_ranks),
            "context": str(info.n_ctx),
        }
        yield gauge("dure_model_info", "The model that runs, in its labels", 1, labels)
        names = ("model", "rank", "node")
        ranks = GaugeMetricFamily("dure_rank_info", "The machine of a rank", labels=names)
        for rank, place in enumerate(info.places):
            ranks.add_metric((self._model, str(rank), node_of(place)), 1)
        yield ranks

    def _is_ready(self) -> bool:
        return self._engine.state == "ready"

    def _as_vllm(self, stats: EngineStats) -> Iterator[Metric]:
        model, usage = {"model_name": self._model}, stats.kv_used / max(1, stats.kv_total)
        prompt = stats.prompt_tokens + stats.cache_hits
        yield gauge("vllm:num_requests_running", "Requests being answered", stats.running, model)
        yield gauge("vllm:num_requests_waiting", "Requests that wait", stats.waiting, model)
        yield gauge("vllm:kv_cache_usage_perc", "Used part of the KV cache, 0 to 1", usage, model)
        for name, text, value in (
            ("prefix_cache_queries", "Prompt tokens looked up", stats.cache_queries),
            ("prefix_cache_hits", "Prompt tokens found in the cache", stats.cache_hits),
            ("prompt_tokens", "Prompt tokens, cached ones too", prompt),
            ("generation_tokens", "Tokens generated", stats.generated_tokens),
            ("spec_decode_num_draft_tokens", "Draft tokens proposed", stats.drafted),
            ("spec_decode_num_accepted_tokens", "Draft tokens accepted", stats.accepted),
        ):
            yield counter(f"vllm:{name}", text, value, model)
        reasons = Counter({_VLLM_REASONS[reason]: n for reason, n in self._finished.items()})
        yield counted(
            "vllm:request_success", "Answers that ended", ("finished_reason",), reasons, model
        )
        for name, text, values in (
            ("time_to_first_token_seconds", "Request to first token", self._first_token),
            ("inter_token_latency_seconds", "Token to token", self._next_token),
            ("e2e_request_latency_seconds", "Request to end of answer", self._request),
            ("request_queue_time_seconds", "Wait before the prompt's start", self._queue),
            ("request_prefill_time_seconds", "Time of the prompt", self._prefill),
            ("request_decode_time_seconds", "Time after the prompt", self._decode),
            ("request_prompt_tokens", "Tokens of a prompt", self._prompt_length),
            ("request_generation_tokens", "Tokens of an answer", self._length),
        ):
            yield histogram(f"vllm:{name}", text, values, model)

    def _as_llama_server(self, stats: EngineStats) -> Iterator[Metric]:
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens computed", stats.prompt_tokens),
            ("prompt_tokens_cached", "Prompt tokens found in the cache", stats.cache_hits),
            ("prompt_seconds", "Time spent on prompts", stats.prompt_s),
            ("tokens_predicted", "Tokens generated", stats.generated_tokens),
            ("tokens_predicted_seconds", "Time spent generating", stats.generate_s),
            ("n_decode", "Steps of the model", stats.steps),
        ):
            yield counter(f"llamacpp:{name}", text, value)
        prompt_per_s = _per(stats.prompt_tokens, stats.prompt_s)
        generated_per_s = _per(stats.generated_tokens, stats.generate_s)
        per_step = _per(stats.generated_tokens, stats.steps)
        for name, text, value in (
            ("n_tokens_max", "Longest prompt and answer so far", self._longest),
            ("prompt_tokens_seconds", "Prompt tokens a second", prompt_per_s),
            ("predicted_tokens_seconds", "Generated tokens a second", generated_per_s),
            ("requests_processing", "Requests being answered", stats.running),
            ("requests_deferred", "Requests that wait", stats.waiting),
            ("n_busy_slots_per_decode", "Tokens generated a step", per_step),
        ):
            yield gauge(f"llamacpp:{name}", text, value)


_VLLM_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort", "error": "error"}


def _engine_figures(stats: EngineStats, model: Labels) -> Iterator[Metric]:
    for name, text, value in (
        ("requests_running", "Requests being answered", stats.running),
        ("requests_waiting", "Requests that wait", stats.waiting),
        ("kv_positions_used", "Positions of the KV cache that answers use", stats.kv_used),
        ("kv_positions_kept", "Positions kept for prompts that begin alike", stats.kv_kept),
        ("kv_positions", "Positions of the KV cache", stats.kv_total),
        ("sequences_held", "Sequences of requests and of the prefix cache", stats.sequences_held),
    ):
        yield gauge(f"dure_{name}", text, value, model)
    for name, text, total in (
        ("prompt_tokens", "Prompt tokens computed", stats.prompt_tokens),
        ("prompt_seconds", "Time spent on prompts", stats.prompt_s),
        ("generated_tokens", "Tokens generated", stats.generated_tokens),
        ("generate_seconds", "Time spent generating", stats.generate_s),
        ("prefix_cache_queries", "Prompt tokens looked up", stats.cache_queries),
        ("prefix_cache_hits", "Prompt tokens found in the cache", stats.cache_hits),
        ("steps", "Steps of the model", stats.steps),
        ("step_seconds", "Time spent in steps", stats.step_s),
        ("drafted_tokens", "Draft tokens proposed", stats.drafted),
        ("accepted_drafts", "Draft tokens accepted", stats.accepted),
    ):
        yield counter(f"dure_{name}", text, total, model)


def _rank_figures(stats: EngineStats, model: Labels) -> Iterator[Metric]:
    labels = ("model", "rank")
    for kind, name, text, values in (
        (GaugeMetricFamily, "threads", "Threads that generate now", stats.threads),
        (
            CounterMetricFamily,
            "compute_seconds",
            "Time in steps without exchanges",
            stats.compute_s,
        ),
        (CounterMetricFamily, "lost_thread_seconds", "Taken by other programs", stats.lost_s),
        (CounterMetricFamily, "sync_seconds", "Time in exchanges", stats.sync_s),
        (CounterMetricFamily, "sent_bytes", "Sent to other ranks", stats.bytes_sent),
        (GaugeMetricFamily, "peak_memory_bytes", "Most held", stats.peak_bytes),
    ):
        family = kind(f"dure_{name}", text, labels=labels)
        for rank, value in enumerate(values):
            family.add_metric((model["model"], str(rank)), value)
        yield family


def _key_figures(stats: EngineStats, model: Labels) -> Iterator[Metric]:
    """Yield the figures of every key; addresses, which stand for clients without one, count together."""
    totals: dict[str, Counter[str]] = {}
    ranks: dict[str, OwnerStats] = {}
    for owner in stats.owners:
        name = "" if owner.name.startswith(ADDRESS) else owner.name
        if name not in totals and len(totals) >= MAX_OWNERS:
            name = OTHERS
        else:
            ranks[name] = owner
        total = totals.setdefault(name, Counter())
        total.update({figure: getattr(owner, figure) for figure, *_ in _KEY_FIGURES})
    for figure, name, text, family in _KEY_FIGURES:
        metric = family(f"dure_key_{name}", text, labels=("model", "key"))
        for key, total in totals.items():
            metric.add_metric((model["model"], key), total[figure])
        yield metric
    for figure, text in (("weight", "Its part beside other keys"), ("priority", "-1, 0 or 1")):
        metric = GaugeMetricFamily(f"dure_key_{figure}", text, labels=("model", "key"))
        for key, owner in ranks.items():
            metric.add_metric((model["model"], key), getattr(owner, figure))
        yield metric


_KEY_FIGURES = (
    ("running", "requests_running", "Requests being answered", GaugeMetricFamily),
    ("waiting", "requests_waiting", "Requests that wait", GaugeMetricFamily),
    ("prompt_tokens", "prompt_tokens", "Prompt tokens computed", CounterMetricFamily),
    ("generated_tokens", "generated_tokens", "Tokens generated", CounterMetricFamily),
    ("pauses", "pauses", "Answers paused for others", CounterMetricFamily),
)


def _per(amount: float, of: float) -> float:
    return amount / of if of else 0.0
