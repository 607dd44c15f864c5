"""What a user says of the servers behind a router, and by which rules it chooses among them.

Plain values with the names of the configuration file. Refuses to know how a server is doing, and where
the values were written.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

__all__ = ["HERE", "Guessing", "Kind", "RouteRules", "Upstream"]

Kind = Literal["house", "pod", "cloud"]
HERE = "here"  # instead of a URL: the model of the very server that routes
Guessing = Literal["off", "shadow", "on"]
MAC = re.compile(r"(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}", re.IGNORECASE)


class Upstream(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """A server that may answer.

    url: where its APIs begin, as `http://desk:8080`, without `/v1`; `unix:PATH` for a socket;
    `here` for the model that `dure serve` itself serves.
    pod: instead of it, the name of a pod in the ledger, which is reached through ssh and started by dure.
    kind: in the house, a rented machine, or somebody's service. Private requests stay in the house.
    key_file: a file with the key that it wants. ca_file: certificates that it is checked with.
    model: what it is asked for if a client leaves the choice to the router; the first of its models.
    models: names that it serves; none: it is asked. context, parallel: tokens of one request, and answers
    at once; None: it is asked.
    usd_per_hour: while it answers, and while it starts; a pod's is in the ledger. wake: the network
    card's address of a machine that sleeps. start_s: from waking or starting to the first answer; needed
    to wake it.
    prompt_per_s, answer_per_s: tokens, believed until they are measured. measure: with two requests of the
    router's own, if it is in the house and free. strength: of its model; a question that is thought to be
    too hard goes to the strongest of those that may answer.
    """

    name: str
    url: str = ""
    pod: str | None = None
    kind: Kind = "house"
    key_file: str | None = None
    ca_file: str | None = None
    model: str | None = None
    models: tuple[str, ...] = ()
    context: int | None = None
    parallel: int | None = None
    max_waiting: int = 16
    tools: bool = True
    vision: bool = False
    usd_per_hour: float = 0.0
    usd_per_million_prompt_tokens: float = 0.0
    usd_per_million_answer_tokens: float = 0.0
    daily_usd: float | None = None
    wake: str | None = None
    start_s: float | None = None
    prompt_per_s: float = 200.0
    answer_per_s: float = 20.0
    measure: bool = True
    strength: int = 1

    @property
    def is_here(self) -> bool:
        """Whether it is the model of the server that routes."""
        return self.url == HERE

    @property
    def in_house(self) -> bool:
        """Whether what it is sent stays in the house."""
        return self.kind == "house"

    @property
    def is_free(self) -> bool:
        """Whether its answers cost nothing."""
        return not (
            self.usd_per_hour
            or self.usd_per_million_prompt_tokens
            or self.usd_per_million_answer_tokens
        )

    def usd(self, seconds: float, prompt_tokens: float, answer_tokens: float) -> float:
        """Return what an answer costs that keeps it busy for these seconds."""
        of_tokens = (
            prompt_tokens * self.usd_per_million_prompt_tokens
            + answer_tokens * self.usd_per_million_answer_tokens
        )
        return seconds * self.usd_per_hour / 3600 + of_tokens / 1e6


class RouteRules(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """How a router chooses.

    worth_usd_per_s: what it may cost that an answer is finished a second sooner.
    daily_usd: what all answers of a day may cost. None: unlimited.
    private_keys: names of keys whose requests stay in the house; `*` for all, those without a key too.
    longest_wait_s: an upstream at which a request would wait longer for its turn is full.
    silence_s: an upstream that sends nothing for so long has hung. connect_s: to reach it at all.
    pods_hourly_usd, pods_daily_usd: what all rented pods together may cost, for one of them to be started.
    difficulty: whether it is guessed how hard questions are: not at all, only for the log, or to route by.
    difficulty_threshold: the chance that a weaker model's answer will not do, from which on it is too hard.
    upstreams: in the order of preference if nothing else decides.
    """

    worth_usd_per_s: float = 0.001
    daily_usd: float | None = None
    private_keys: tuple[str, ...] = ()
    longest_wait_s: float = 120.0
    silence_s: float = 300.0
    connect_s: float = 3.0
    pods_hourly_usd: float = 2.0
    pods_daily_usd: float = 20.0
    difficulty: Guessing = "off"
    difficulty_threshold: float = 0.7
    upstreams: tuple[Upstream, ...] = ()

    def is_private(self, key: str) -> bool:
        """Return whether requests with the key of this name stay in the house."""
        return "*" in self.private_keys or key in self.private_keys

    @property
    def has_own_model(self) -> bool:
        """Whether the server that routes by them serves a model itself."""
        return any(one.is_here for one in self.upstreams)

    def is_weak(self, upstream: Upstream) -> bool:
        """Return whether another upstream has a stronger model."""
        return any(one.strength > upstream.strength for one in self.upstreams)

    def upstream(self, name: str) -> Upstream | None:
        """Return an upstream by name."""
        return next((one for one in self.upstreams if one.name == name), None)
