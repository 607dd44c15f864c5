"""One upstream as it is now: its connections, its health, its queue, and what its cache holds.

Refuses to know which requests it gets (`router`), and when it is asked how it is (`watching`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from dure.errors import UsageError
from dure.http.guards.asgi import Headers
from dure.pods.way import WayState
from dure.route.addresses import Addresses
from dure.route.client import Client, HttpClient
from dure.route.facts import State, UpstreamFacts, UpstreamSpeed
from dure.route.headers import key_headers
from dure.route.health import UpstreamHealth
from dure.route.here import Absent
from dure.route.key_file import read_key
from dure.route.learning import UpstreamLearned
from dure.route.places import Places
from dure.route.prefixes import Prefixes
from dure.route.upstream import RouteRules, Upstream

__all__ = ["LiveUpstream"]

_NOWHERE = "unix:/nonexistent"  # of a pod that is not reached yet
_CACHE_TOKENS = 32768  # of an upstream that does not say how much it holds
_BYTES_PER_TOKEN = 4
_KNOWN_S = 0.05  # for which a speed is new enough
_PARALLEL = {"house": 4, "pod": 32, "cloud": 256}  # answers at once if an upstream does not say


class LiveUpstream:
    """An upstream and what is known of it at this moment.

    places: of the requests that the router has sent and that have not ended, and of other clients' by the
    upstream's own account. promised_usd: what running ones may cost. is_to_be_measured: if it has not
    answered before. way: whether there is one to it at all; why_closed: why there is none.
    """

    def __init__(
        self,
        upstream: Upstream,
        rules: RouteRules,
        learned: UpstreamLearned,
        here: Client | None = None,
    ) -> None:
        """here: the way to this process' own model.

        Raises UsageError if its key or its certificates cannot be read.
        """
        self.upstream, self.learned = upstream, learned
        self._here = here or Absent()
        self._rules = rules
        self._secret = read_key(Path(upstream.key_file)) if upstream.key_file else b""
        self._url = upstream.url or _NOWHERE
        self._client = self._connected(self._url)
        self.way: WayState = "open" if upstream.pod is None else "broken"
        self.why_closed = "" if upstream.pod is None else "is not looked for yet"
        self.health = UpstreamHealth()
        self.addresses = Addresses()
        self.places = Places()
        self._known: tuple[tuple[object, ...], UpstreamSpeed] | None = None
        self._known_s = 0.0
        self.is_to_be_measured = upstream.measure and upstream.in_house and upstream.is_free
        self.promised_usd = 0.0
        self.prefixes = Prefixes(self._cache_bytes())

    @property
    def client(self) -> Client:
        """Its connections."""
        return self._client

    @property
    def name(self) -> str:
        """Its name in the rules."""
        return self.upstream.name

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it serves, as the rules or it itself say."""
        return self.upstream.models or self.learned.models

    @property
    def default_model(self) -> str:
        """What it is asked for if the router chooses the model; "" if it need not be told."""
        return self.upstream.model or next(iter(self.models), "")

    @property
    def context(self) -> int | None:
        """The tokens of one request, None if not known."""
        return self.upstream.context or self.learned.context

    @property
    def parallel(self) -> int:
        """Answers at once."""
        return self.upstream.parallel or self.learned.parallel or _PARALLEL[self.upstream.kind]

    def move(self, url: str) -> None:
        """Speak to it at another address from now on, as after a start that gave it one."""
        if url != self._url:
            self._client.close()
            self.addresses.forget()
            self._url, self._client = url, self._connected(url)

    def learn_shape(self) -> None:
        """Take over what it said of its context and its slots."""
        self.prefixes.most_bytes = self._cache_bytes()

    def key_headers(self) -> Headers:
        """Return the headers that show the key it wants, none if it wants none."""
        return key_headers(self._secret)

    def state(self, now_s: float) -> State:
        """Return how it is."""
        if self.health.rest_until_s > now_s:
            return "cooling"
        if self.way == "out":
            return "out"
        if self.health.status == "down":
            return "asleep" if self.upstream.wake else "off"
        return "loading" if self.health.status == "loading" else "up"

    def facts(
        self, path: str, hashes: Sequence[bytes], tokens_per_byte: float, spent_usd: float
    ) -> UpstreamFacts:
        """Return what a decision needs to know. path: of the request; hashes: of its prompt."""
        now_s = time.monotonic()
        state = self.state(now_s)
        active = len(self.places) + self.places.others
        speed = self._speed(now_s)
        self.places.parallel = self.parallel
        self.places.prompt_crowd = speed.prompt_crowd
        self.places.answer_crowd = speed.answer_crowd
        ahead = self.places.ahead(now_s, self.learned.requests.ratio(1.0))
        seen = self.prefixes.known_bytes(hashes) * tokens_per_byte
        return UpstreamFacts(
            state=state,
            speed=speed,
            ready_s=self._ready_s(state, now_s),
            why=self.health.why,
            running=min(active, self.parallel),
            waiting=max(0, active - self.parallel),
            parallel=self.parallel,
            turn_s=ahead.turn_s,
            beside=ahead.beside,
            cached_tokens=self.learned.cached(int(seen)),
            speaks=not self.addresses.lacks(path),
            models=self.models,
            context=self.context,
            spent_usd=spent_usd + self.promised_usd,
            start_s=self.learned.start_s,
        )

    def _speed(self, now_s: float) -> UpstreamSpeed:
        """Return its speeds: worked out anew if an answer was learned from, not for every one of many."""
        learned = self.learned
        seen = (learned.prompts.sums, learned.answers.sums, learned.late)
        if self._known is None or (
            now_s - self._known_s > _KNOWN_S
            and any(one is not other for one, other in zip(self._known[0], seen, strict=True))
        ):
            self._known, self._known_s = (seen, learned.speed(self.upstream)), now_s
        return self._known[1]

    def _ready_s(self, state: State, now_s: float) -> float:
        if state == "cooling":
            return self.health.rest_until_s - now_s
        start_s = self.learned.start_s or self.upstream.start_s
        return (start_s or 10.0) if state == "loading" else 0.0

    def _cache_bytes(self) -> int:
        tokens = (self.context or 0) * self.parallel or _CACHE_TOKENS
        return tokens * _BYTES_PER_TOKEN

    def _connected(self, url: str) -> Client:
        upstream = self.upstream
        if upstream.is_here:
            return self._here
        try:
            return HttpClient(
                url,
                ca_file=str(Path(upstream.ca_file).expanduser()) if upstream.ca_file else None,
                connect_s=self._rules.connect_s,
                silence_s=self._rules.silence_s,
            )
        except OSError as error:
            raise UsageError(
                f"the certificates of {upstream.name} in {upstream.ca_file} cannot be read:"
                f" {error.strerror or error}",
                "name a file of certificates in PEM in ca-file",
            ) from None
