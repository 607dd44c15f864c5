"""What the dashboard shows: a row for each question that a person asks, in the order in which they ask.

Knows dure's metrics (docs/metrics.md) and PromQL. Refuses to know Grafana's JSON.
"""

from __future__ import annotations

from dashboard.panel import Panel, Row

__all__ = ["ROWS"]

SERVER = '{instance=~"$instance"}'
MODEL = '{instance=~"$instance",model=~"$model"}'
NODE = '{instance=~"$instance",node=~"$node"}'
OVER = "[$__rate_interval]"
NAMED = " * on (instance, model, rank) group_left (node) dure_rank_info"
STEPS = f" / on (instance, model) group_left () rate(dure_steps_total{MODEL}{OVER})"
RANK = "rank {{rank}}, {{node}}"
TOKENS, PER_MINUTE = "suffix: tok/s", "suffix: /min"


def rate(metric: str, labels: str = MODEL) -> str:
    """Return how quickly a counter grows, a second."""
    return f"rate({metric}{labels}{OVER})"


def by_rank(metric: str) -> str:
    """Return a counter of ranks as its mean in a step, with the rank's machine."""
    return f"{rate(metric)}{NAMED}{STEPS}"


def quantiles(metric: str, *fractions: float) -> tuple[tuple[str, str], ...]:
    """Return quantiles of a histogram of answers, by model."""
    grouped = f"sum by (instance, model, le) ({rate(f'{metric}_bucket')})"
    return tuple(
        (f"histogram_quantile({fraction}, {grouped})", f"{{{{model}}}}, {fraction:.0%}")
        for fraction in fractions
    )


SLOWEST = f"max by (instance, model) ({rate('dure_compute_seconds_total')})"
EXCHANGE = f"min by (instance, model) ({rate('dure_sync_seconds_total')})"
ALL_STEPS = f"sum by (instance, model) ({rate('dure_steps_total')})"
STEP_S = f"sum by (instance, model) ({rate('dure_step_seconds_total')})"
COMPUTED = f"({rate('dure_generated_tokens_total')} + {rate('dure_prompt_tokens_total')})"
PER_TOKEN = f" / on (instance, model) group_left () {COMPUTED}"
# Only the choice of servers: a part of the machines has not made the tokens.
WATTS = f"sum by (instance) (avg_over_time(dure_node_power_watts{SERVER}{OVER}))"
JOULES = (
    f"{WATTS} / on (instance) (sum by (instance) ({rate('dure_generated_tokens_total', SERVER)}) > 0)"
    f" and on (instance) (count by (instance) (dure_node_power_watts{SERVER})"
    f" == count by (instance) (dure_node_up{SERVER}))"
)

UP = Row(
    title="Is it up?",
    height=5,
    panels=(
        Panel(
            title="Servers",
            tells="Whether Prometheus gets an answer from each server and router.",
            queries=((f"up{SERVER} and on (instance) dure_http_hung_up_total", "{{instance}}"),),
            kind="stat",
            width=4,
            states=(("no answer", "red"), ("up", "green")),
        ),
        Panel(
            title="Engines",
            tells="Whether each model is loaded and answers. Not ready: it loads, restarts or has failed.",
            queries=((f"dure_up{MODEL}", "{{model}}"),),
            kind="stat",
            width=4,
            states=(("not ready", "red"), ("ready", "green")),
        ),
        Panel(
            title="Engine started again",
            tells="How often in the time shown. Answers go on where they stopped, but each start costs"
            " seconds.",
            queries=(
                (f"round(increase(dure_engine_restarts_total{MODEL}[$__range]))", "{{model}}"),
            ),
            kind="stat",
            width=3,
            decimals=0,
        ),
        Panel(
            title="Machines lost",
            tells="Nodes that do not answer their root now.",
            queries=((f"count(dure_node_up{NODE} == 0) or vector(0)", "lost"),),
            kind="stat",
            width=3,
            decimals=0,
        ),
        Panel(
            title="Alerts",
            tells="What somebody should look at. Each alert's description in Prometheus names the cure.",
            queries=(("ALERTS", ""),),
            kind="table",
            width=10,
        ),
    ),
)

SPEED = Row(
    title="How fast is it?",
    panels=(
        Panel(
            title="Generation",
            tells="Tokens generated a second, all answers together. Falls to 0 while nobody asks.",
            queries=((rate("dure_generated_tokens_total"), "{{model}}"),),
            unit=TOKENS,
        ),
        Panel(
            title="Prompts",
            tells="Prompt tokens computed a second. Those that the prefix cache has are not among them.",
            queries=((rate("dure_prompt_tokens_total"), "{{model}}"),),
            unit=TOKENS,
        ),
        Panel(
            title="Answers that ended, by reason",
            tells="stop and length are good ends; cancelled: the client hung up; error: the answer"
            " failed.",
            queries=((f"60 * {rate('dure_answers_total')}", "{{model}}, {{reason}}"),),
            unit=PER_MINUTE,
            stacked=True,
        ),
        Panel(
            title="First token",
            tells="From the request to the first token: the wait for its turn, and the prompt.",
            queries=quantiles("dure_first_token_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            title="Token to token",
            tells="What a reader sees of the speed: the time from one token of an answer to the next.",
            queries=quantiles("dure_next_token_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            title="Whole answer",
            tells="From the request to the answer's end. Long answers take long: compare with Token to"
            " token.",
            queries=quantiles("dure_answer_seconds", 0.5, 0.95),
            unit="s",
        ),
    ),
)

WAITING = Row(
    title="Who waits?",
    panels=(
        Panel(
            title="Running and waiting",
            tells="Requests that are being answered, and those in the queue. A router has no queue of its"
            " own.",
            queries=(
                (f"dure_requests_running{MODEL}", "{{instance}}: running"),
                (f"dure_requests_waiting{MODEL}", "{{instance}}: waiting"),
            ),
        ),
        Panel(
            title="Waiting, by key",
            tells="Whose requests wait. A key is named as in the key file; nameless ones have none.",
            queries=((f"dure_key_requests_waiting{MODEL}", "{{model}}, key {{key}}"),),
            stacked=True,
        ),
        Panel(
            title="Wait before the prompt",
            tells="From the request to the start of its prefill. If it is most of First token, too many"
            " ask.",
            queries=quantiles("dure_queue_seconds", 0.5, 0.95),
            unit="s",
        ),
        Panel(
            title="Tokens, by key",
            tells="Who uses the server: prompt and generated tokens a second.",
            queries=(
                (
                    f"{rate('dure_key_generated_tokens_total')} + {rate('dure_key_prompt_tokens_total')}",
                    "{{model}}, key {{key}}",
                ),
            ),
            unit=TOKENS,
            stacked=True,
        ),
        Panel(
            title="Pauses, by key",
            tells="How often an answer stood still for a key that had had less than its share.",
            queries=((f"60 * {rate('dure_key_pauses_total')}", "{{model}}, key {{key}}"),),
            unit=PER_MINUTE,
        ),
        Panel(
            title="HTTP requests, by status",
            tells="429: somebody was sent away, by a limit or a full queue. 5xx: it is our fault. 0: hung"
            " up.",
            queries=(
                (
                    f"60 * sum by (instance, status) ({rate('dure_http_requests_total', SERVER)})",
                    "{{instance}}: {{status}}",
                ),
            ),
            unit=PER_MINUTE,
            stacked=True,
        ),
    ),
)

TOKEN = Row(
    title="Where does the time of a token go?",
    panels=(
        Panel(
            title="A step, in parts",
            tells="A step computes a token of every running answer. Compute: of the slowest rank, for"
            " which all others wait. Exchange: what even that rank waits for sums, so the network's"
            " part. Rest: choosing tokens, and messages between processes. What grows here is where"
            " to look on.",
            queries=(
                (f"{SLOWEST} / {ALL_STEPS}", "{{model}}: compute of the slowest rank"),
                (f"{EXCHANGE} / {ALL_STEPS}", "{{model}}: exchange"),
                (
                    f"clamp_min({STEP_S} - {SLOWEST} - {EXCHANGE}, 0) / {ALL_STEPS}",
                    "{{model}}: rest",
                ),
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            title="Compute of a step, by rank",
            tells="If one rank is above the others it is too slow for its share: throttled, disturbed, or"
            " the shares are wrong. If all are up, steps have more tokens, or all machines are slow.",
            queries=((by_rank("dure_compute_seconds_total"), RANK),),
            unit="s",
        ),
        Panel(
            title="Wait in exchanges, by rank",
            tells="The rank that waits least is the one the others wait for. If all wait long and alike,"
            " it is the network.",
            queries=((by_rank("dure_sync_seconds_total"), RANK),),
            unit="s",
        ),
        Panel(
            title="Taken by other programs, by rank",
            tells="Threads' worth of processor time that a rank wanted while it worked and did not get. 0"
            " on a machine of its own.",
            queries=(
                (
                    f"{rate('dure_lost_thread_seconds_total')}{NAMED} / on (instance, model) group_left ()"
                    f" {rate('dure_step_seconds_total')}",
                    RANK,
                ),
            ),
            unit="suffix: threads",
        ),
        Panel(
            title="Threads, by rank",
            tells="Threads that generate now: fewer than usual while other programs need the processors.",
            queries=((f"dure_threads{MODEL}{NAMED}", RANK),),
            decimals=0,
        ),
        Panel(
            title="Bytes of a token, by rank",
            tells="What a rank sends to the others for each token. It depends on the model and the number"
            " of ranks alone, so a change means another model or another cut.",
            queries=(
                (
                    f"{rate('dure_sent_bytes_total')}{NAMED}{PER_TOKEN}",
                    RANK,
                ),
            ),
            unit="bytes",
        ),
        Panel(
            title="Tokens in a step",
            tells="Prompt and generated tokens computed at once. Many tokens make a step longer, and each"
            " token cheaper.",
            queries=((f"{COMPUTED} / {rate('dure_steps_total')}", "{{model}}"),),
        ),
        Panel(
            title="Sent, by rank",
            tells="Compare it with what the link can carry: near that, the network is the limit.",
            queries=((f"8 * {rate('dure_sent_bytes_total')}{NAMED}", RANK),),
            unit="bps",
        ),
        Panel(
            title="Peak memory, by rank",
            tells="The most that a rank's process ever had.",
            queries=((f"dure_peak_memory_bytes{MODEL}{NAMED}", RANK),),
            unit="bytes",
        ),
    ),
)

MACHINES = Row(
    title="How are the machines?",
    panels=(
        Panel(
            title="Answers",
            tells="When a machine was lost, and when it came back.",
            queries=((f"dure_node_up{NODE}", "{{node}}"),),
            kind="state-timeline",
            states=(("lost", "red"), ("up", "green")),
        ),
        Panel(
            title="Throttled",
            tells="A throttled machine is slow, and all others wait for it: cool it, or give it a better"
            " supply.",
            queries=((f"dure_node_throttled{NODE}", "{{node}}"),),
            kind="state-timeline",
            states=(("full speed", "green"), ("throttled", "red")),
        ),
        Panel(
            title="Temperature",
            tells="Boards slow down at 80 to 85 °C. A machine without a sensor has no line.",
            queries=((f"dure_node_temperature_celsius{NODE}", "{{node}}"),),
            unit="celsius",
        ),
        Panel(
            title="Power",
            tells="What a machine draws, as far as its sensor reaches: all of it, its board without what"
            " hangs on it, or its processor alone. A machine whose sensor is missing or forbidden has no"
            " line.",
            queries=((f"dure_node_power_watts{NODE}", "{{node}}, {{of}}"),),
            unit="watt",
        ),
        Panel(
            title="Energy of a token",
            tells="Joules of all machines for each generated token, with the prompts and the pauses"
            " between. Only if every machine has a sensor; what these do not reach is not counted.",
            queries=((JOULES, "{{instance}}"),),
            unit="joule",
        ),
        Panel(
            title="Clock",
            tells="Of the processor. A clock that falls under load is heat, voltage or a governor that"
            " saves.",
            queries=((f"dure_node_clock_hertz{NODE}", "{{node}}"),),
            unit="hertz",
        ),
        Panel(
            title="Load",
            tells="Processes that want a core, over a minute. Far above a rank's threads: other programs"
            " run.",
            queries=((f"dure_node_load{NODE}", "{{node}}"),),
        ),
        Panel(
            title="Memory left",
            tells="Below a few hundred megabytes a machine swaps, or ends processes.",
            queries=((f"dure_node_memory_available_bytes{NODE}", "{{node}}"),),
            unit="bytes",
        ),
        Panel(
            title="Disk used",
            tells="Of the disk with the shards.",
            queries=(
                (
                    f"1 - dure_node_disk_free_bytes{NODE} / dure_node_disk_bytes{NODE}",
                    "{{node}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Network",
            tells="Received, and sent (below zero), by device.",
            queries=(
                (f"8 * {rate('dure_node_link_received_bytes_total', NODE)}", "{{node}} {{device}}"),
                (f"-8 * {rate('dure_node_link_sent_bytes_total', NODE)}", "{{node}} {{device}}"),
            ),
            unit="bps",
        ),
        Panel(
            title="Link errors",
            tells="Errors and drops. Any that keep coming are a bad cable, a bad port or an overrun"
            " buffer.",
            queries=((f"60 * {rate('dure_node_link_errors_total', NODE)}", "{{node}} {{device}}"),),
            unit=PER_MINUTE,
        ),
    ),
)

SAVED = Row(
    title="What is saved: prefix cache and drafts",
    panels=(
        Panel(
            title="Prefix cache: found",
            tells="The part of prompt tokens that need not be computed. High if prompts begin alike.",
            queries=(
                (
                    f"{rate('dure_prefix_cache_hits_total')} / {rate('dure_prefix_cache_queries_total')}",
                    "{{model}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="KV cache",
            tells="Used by running answers, kept for prompts to come. At 100 % used, requests wait.",
            queries=(
                (f"dure_kv_positions_used{MODEL} / dure_kv_positions{MODEL}", "{{model}}: used"),
                (f"dure_kv_positions_kept{MODEL} / dure_kv_positions{MODEL}", "{{model}}: kept"),
            ),
            unit="percentunit",
            stacked=True,
        ),
        Panel(
            title="Drafts accepted",
            tells="Of the draft tokens of answers that ended. Each accepted one saved a step.",
            queries=(
                (
                    f"{rate('dure_accepted_drafts_total')} / {rate('dure_drafted_tokens_total')}",
                    "{{model}}",
                ),
            ),
            unit="percentunit",
        ),
    ),
)

ROUTER = Row(
    title="Where does the router send, and what does it cost?",
    panels=(
        Panel(
            title="Requests, by upstream",
            tells="Who answers.",
            queries=(
                (
                    f"60 * sum by (instance, target) ({rate('dure_route_requests_total', SERVER)})",
                    "{{target}}",
                ),
            ),
            unit=PER_MINUTE,
            stacked=True,
        ),
        Panel(
            title="Requests, by reason",
            tells="Why they went there; docs/router.md explains the reasons.",
            queries=(
                (
                    f"60 * sum by (instance, reason) ({rate('dure_route_requests_total', SERVER)})",
                    "{{reason}}",
                ),
            ),
            unit=PER_MINUTE,
            stacked=True,
        ),
        Panel(
            title="Upstreams",
            tells="Which take requests. One that sleeps is started when it is wanted.",
            queries=((f"dure_route_up{SERVER} + 2 * dure_route_asleep{SERVER}", "{{target}}"),),
            kind="state-timeline",
            states=(("down", "red"), ("up", "green"), ("asleep", "blue")),
        ),
        Panel(
            title="Spent today",
            tells="What the answers of each upstream have cost since midnight.",
            queries=((f"dure_route_spent_usd{SERVER}", "{{target}}"),),
            unit="currencyUSD",
            stacked=True,
            width=12,
        ),
        Panel(
            title="Of the day's limit",
            tells="At 100 % an upstream is asked no more today. (all): of the limit of all together.",
            queries=(
                (
                    f"dure_route_spent_usd{SERVER} / on (instance, target) dure_route_limit_usd{SERVER}",
                    "{{target}}",
                ),
                (
                    f"sum by (instance) (dure_route_spent_usd{SERVER}) / on (instance)"
                    ' dure_route_limit_usd{instance=~"$instance",target="(all)"}',
                    "all",
                ),
            ),
            unit="percentunit",
            width=12,
        ),
    ),
)

PODS = Row(
    title="What do rented pods cost?",
    panels=(
        Panel(
            title="Dollars an hour",
            tells="Of each pod that may cost something; a stopped one pays for its disk.",
            queries=((f"dure_pod_hourly_usd{SERVER}", "{{pod}} ({{gpu}})"),),
            unit="currencyUSD",
            stacked=True,
        ),
        Panel(
            title="Spent, of the limit",
            tells="At 100 % a pod is terminated.",
            queries=((f"dure_pod_spent_usd{SERVER} / dure_pod_limit_usd{SERVER}", "{{pod}}"),),
            unit="percentunit",
        ),
        Panel(
            title="Until its end",
            tells="A running pod is terminated then at the latest, by its hours or its money.",
            queries=((f"dure_pod_end_timestamp_seconds{SERVER} - time()", "{{pod}}"),),
            unit="s",
        ),
    ),
)

PROCESS = Row(
    title="The server's own process",
    panels=(
        Panel(
            title="Processor",
            tells="Cores that the server takes beside its ranks: HTTP, texts, grammars.",
            queries=((rate("process_cpu_seconds_total", SERVER), "{{instance}}"),),
            unit="suffix: cores",
        ),
        Panel(
            title="Memory",
            tells="Resident memory of the server, without its engine.",
            queries=((f"process_resident_memory_bytes{SERVER}", "{{instance}}"),),
            unit="bytes",
        ),
        Panel(
            title="Files and connections",
            tells="Of the most that the system allows.",
            queries=((f"process_open_fds{SERVER} / process_max_fds{SERVER}", "{{instance}}"),),
            unit="percentunit",
        ),
    ),
)

ROWS: tuple[Row, ...] = (UP, SPEED, WAITING, TOKEN, MACHINES, SAVED, ROUTER, PODS, PROCESS)
