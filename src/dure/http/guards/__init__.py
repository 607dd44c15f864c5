"""The guards between the network and the API, one a file, stacked in one place.

Every guard is plain ASGI: it knows one danger, and nothing about what the API does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dure.http.access_log import RequestRecord
from dure.http.guards.access import KeyCheck
from dure.http.guards.asgi import App
from dure.http.guards.body import WholeBody
from dure.http.guards.cors import Cors
from dure.http.guards.faults import Faults
from dure.http.guards.figures import Figures
from dure.http.guards.keys import KeyRing
from dure.http.guards.rate import Rate, RateLimit
from dure.http.guards.recording import Recording
from dure.http.guards.stopping import RunningRequests, Stopping
from dure.http.guards.web_pages import WebPages
from dure.http.metrics import ServerMetrics
from dure.http.settings import ServerSettings, is_public

__all__ = ["guarded"]


def guarded(
    app: App,
    settings: ServerSettings,
    keys: KeyRing,
    running: RunningRequests,
    metrics: ServerMetrics,
    ended: Callable[[RequestRecord], None],
) -> App:
    """Return the API behind all of its guards. ended: gets the record of every request at its end.

    A request goes through them from the first to the last, its answer back again.
    """
    rates = (settings.requests_per_minute, settings.tokens_per_minute)
    requests, tokens = (Rate(rate) if rate is not None else None for rate in rates)
    is_local = not is_public(settings) and settings.unix_socket is None  # browsers know no sockets
    stack: list[Callable[[App], App]] = [
        partial(Recording, ended=ended),
        Faults,
        partial(Cors, origins=settings.cors_origins),
        *([partial(WebPages, origins=settings.cors_origins, keys=keys)] if is_local else []),
        partial(Stopping, running=running),
        partial(KeyCheck, keys=keys),
        partial(Figures, metrics=metrics),
        partial(RateLimit, requests=requests, tokens=tokens),
        partial(WholeBody, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s),
    ]
    for guard in reversed(stack):
        app = guard(app)
    return app
