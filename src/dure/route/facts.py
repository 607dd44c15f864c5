"""What is known when a request is routed: of the request, and of each upstream at this moment.

Values that are written into the router's log, so that a decision can be made again later. Refuses to
know where they come from.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dure.route.crowding import Beside, Crowd

__all__ = ["RequestFacts", "State", "UpstreamFacts", "UpstreamSpeed"]

State = Literal["up", "loading", "asleep", "off", "cooling", "out"]
"""out: it does not answer, and cannot be started."""


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request asks for.

    model: "" if any will do. prompt_tokens: estimated, or counted if exact. answer_tokens: expected.
    key: the name of the caller's key. target: the upstream that it names. skip: upstreams that have
    failed to answer this request already. difficulty: the chance that a weaker model's answer will not
    do; None: not guessed.
    """

    dialect: str
    model: str = ""
    prompt_tokens: int = 0
    exact: bool = False
    answer_tokens: int = 0
    tools: bool = False
    vision: bool = False
    key: str = ""
    private: bool = False
    target: str = ""
    skip: tuple[str, ...] = ()
    difficulty: float | None = None


class UpstreamSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast an upstream is with one request alone. overhead_s: of every answer, however short.

    prompt_crowd, answer_crowd: how much a prompt, and an answer, is slowed down by others beside it.
    late: times as long as all this says, as answers take that begin after it.
    """

    prompt_per_s: float
    answer_per_s: float
    overhead_s: float = 0.0
    prompt_crowd: Crowd = Crowd()
    answer_crowd: Crowd = Crowd()
    late: float = 1.0
    measured: bool = False


class UpstreamFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an upstream is doing.

    ready_s: until it takes requests: the rest of its start, or of its cool-down. turn_s: until one of its
    places is free for this request. beside: what goes on there then. parallel: answers at once. context
    None: not known. cached_tokens: of this prompt. speaks: it has the address of this request. spent_usd:
    today. start_s: what its starts have taken; None if there was none.
    """

    state: State = "up"
    speed: UpstreamSpeed
    ready_s: float = 0.0
    why: str = ""
    running: int = 0
    waiting: int = 0
    parallel: int = 1
    turn_s: float = 0.0
    beside: Beside = Beside()
    cached_tokens: int = 0
    speaks: bool = True
    models: tuple[str, ...] = ()
    context: int | None = None
    spent_usd: float = 0.0
    start_s: float | None = None
