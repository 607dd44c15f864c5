"""RunPod as a `PodProvider`: its REST API v2.

Knows URLs, bodies and what each status means. Waits as `Retry-After` says. Refuses to repeat a request
that may have made something, and to write the key anywhere but into the header.
Source: RunPod's API reference v2, August 2026.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from dure.errors import UsageError
from dure.pods.keys import AccountKey
from dure.pods.money import Money
from dure.pods.provider import (
    ConflictError,
    GpuOffer,
    LostAnswerError,
    NetworkVolume,
    Pod,
    PodError,
    PodSpec,
)
from dure.pods.runpod_values import offer_of, pod_of, request_of, volume_of

__all__ = ["ENDPOINT", "RunPod", "endpoint"]

ENDPOINT = "https://api.runpod.io"
T = TypeVar("T")
_TIMEOUT_S = 30.0
_ATTEMPTS = 5
_LONGEST_WAIT_S = 60.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def endpoint() -> str:
    """Return where the API is: RUNPOD_API_BASE_URL, or RunPod's own. Raises UsageError.

    Without TLS only this machine is spoken to: the key would be readable on the way.
    """
    given = os.environ.get("RUNPOD_API_BASE_URL", "").strip().rstrip("/").removesuffix("/v2")
    url = given or ENDPOINT
    if not re.match(r"https://|http://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?(/|$)", url):
        raise UsageError(
            f"RUNPOD_API_BASE_URL is {url}", "use https://, or http:// to this machine alone"
        )
    return url


class RunPod:
    """The account that a key belongs to. wait: how a pause is made."""

    def __init__(
        self, key: AccountKey, url: str = "", wait: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint = url or endpoint()
        self._key, self._wait, self._now = key, wait, time.time()
        self._http = httpx2.Client(
            base_url=f"{self.endpoint}/v2",
            headers={"authorization": f"Bearer {key.secret}", "user-agent": "dure"},
            timeout=httpx2.Timeout(_TIMEOUT_S, connect=10.0),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ------------------------------------------------------------ reading

    def gpus(self, cloud: str = "", count: int = 1) -> list[GpuOffer]:
        """List kinds of GPUs with prices and availability."""
        asked = {"include": "AVAILABILITY", "product": "POD", "count": str(count)}
        found = self._ask(
            "GET", "/catalog/gpus", params={**asked, **({"cloud": cloud} if cloud else {})}
        )
        return [offer_of(one) for one in _list(found.json(), "gpus")]

    def now(self) -> float:
        """Return the provider's time at its last answer."""
        return self._now

    def pods(self) -> list[Pod]:
        """List every pod of the account."""
        return [pod_of(one) for one in _list(self._ask("GET", "/pods").json(), "pods")]

    def pod(self, pod_id: str) -> Pod | None:
        """Return a pod; None if the provider has no such pod."""
        response = self._ask("GET", _path(pod_id), allowed=(404,))
        return None if response.status_code == 404 else pod_of(response.json())

    def billed(self, pod_id: str) -> Money:
        """Return what was billed for a pod so far; the records lag behind."""
        asked = {"podId": pod_id, "bucketSize": "hour"}
        records = _list(self._ask("GET", "/billing/pods", params=asked).json(), "records")
        mine = [
            Money.of(r.get("totalAmount", 0)) for r in records if r.get("podId", pod_id) == pod_id
        ]
        return sum(mine, Money())

    def network_volumes(self) -> list[NetworkVolume]:
        """List network volumes; the documentation does not say what the answer calls its list."""
        found = self._ask("GET", "/network-volumes").json()
        lists = [name for name, value in found.items() if isinstance(value, list)]
        listed = _list(found, lists[0] if len(lists) == 1 else "network volumes")
        return [volume_of(one) for one in listed]

    def logs(
        self, pod_id: str, after: str = "", silence_s: float | None = None
    ) -> Iterator[tuple[str, str]]:
        """Yield each line of a pod's log with its id, as server-sent events bring them."""
        headers = {"accept": "text/event-stream", **({"last-event-id": after} if after else {})}
        patience = httpx2.Timeout(_TIMEOUT_S, read=silence_s)
        url = f"{_path(pod_id)}/logs"
        try:
            with (
                _told(self._key, f"GET {url}", safe=True),
                self._http.stream("GET", url, headers=headers, timeout=patience) as response,
            ):
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response, f"GET {url}", self._key)
                yield from _events(response.iter_lines(), after)
        except _SilenceError:
            return

    # ------------------------------------------------------------ changing

    def create(self, spec: PodSpec) -> Pod:
        """Make a pod. Raises LostAnswerError if there may be one all the same."""
        return _made(self._ask("POST", "/pods", json=request_of(spec)), pod_of)

    def create_network_volume(self, name: str, size: int, data_center: str) -> NetworkVolume:
        """Make a network volume. Raises LostAnswerError if there may be one all the same."""
        body = {"name": name, "size": size, "dataCenter": data_center}
        response = self._ask("POST", "/network-volumes", json=body)
        return _made(response, volume_of)

    def delete_network_volume(self, volume_id: str) -> None:
        """Ask for a volume's end; silent if it is gone already."""
        self._ask("DELETE", _path(volume_id, "network-volumes"), allowed=(404,))

    def set_env(self, pod_id: str, env: Mapping[str, str]) -> Pod:
        """Replace the environment of a pod."""
        return pod_of(self._ask("PATCH", _path(pod_id), json={"env": dict(env)}).json())

    def start(self, pod_id: str) -> None:
        """Start a stopped pod."""
        self._act(pod_id, "start")

    def stop(self, pod_id: str) -> None:
        """Ask for a stop."""
        self._act(pod_id, "stop")

    def terminate(self, pod_id: str) -> None:
        """Ask for the end of a pod; silent if it is gone already."""
        self._ask("DELETE", _path(pod_id), allowed=(404,))

    def _act(self, pod_id: str, action: str) -> None:
        self._ask("POST", f"{_path(pod_id)}/action", json={"action": action})

    # ------------------------------------------------------------ one request

    def _ask(
        self, method: str, path: str, *, allowed: tuple[int, ...] = (), **request: Any
    ) -> httpx2.Response:
        """Send a request; wait and repeat it if it was turned away unread (429)."""
        what, is_safe = f"{method} {path}", method == "GET"
        for attempt in range(_ATTEMPTS):
            last = attempt + 1 == _ATTEMPTS
            try:
                with _told(self._key, what, safe=is_safe):
                    response = self._http.request(method, path, **request)
            except PodError:
                if last or not is_safe:
                    raise
                self._wait(2.0**attempt)
                continue
            self._now = _date(response)
            if response.status_code < 300 or response.status_code in allowed:
                return response
            refused = response.status_code == 429
            if last or not (refused or (is_safe and response.status_code >= 500)):
                raise _refusal(response, what, self._key)
            self._wait(_pause(response, attempt))
        raise AssertionError("the last attempt returns or raises")


class _SilenceError(Exception):
    """Nothing came for as long as the caller waits."""


def _events(lines: Iterator[str], name: str) -> Iterator[tuple[str, str]]:
    """Yield the data of server-sent events, each with the last id."""
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except httpx2.ReadTimeout:
            raise _SilenceError from None
        if line.startswith("id:"):
            name = line[3:].strip()
        elif line.startswith("data:"):
            yield name, line[5:].removeprefix(" ")


def _made(response: httpx2.Response, read: Callable[[Any], T]) -> T:
    """Return what an answer says was made. Raises LostAnswerError if it cannot be read."""
    try:
        return read(response.json())
    except (PodError, ValueError) as error:
        raise LostAnswerError(
            f"POST {response.url.path}: it was made, and the answer cannot be read: {error}",
            "see `dure pod ls`",
        ) from None


def _path(its_id: str, kind: str = "pods") -> str:
    """Return the path of a pod or volume. Raises PodError for an id that could mean another path."""
    if not _ID.fullmatch(its_id):
        raise PodError(f"{its_id!r} is no id of a {'pod' if kind == 'pods' else 'network volume'}")
    return f"/{kind}/{its_id}"


def _list(found: Any, name: str) -> list[dict[str, Any]]:
    """Return a list of an answer. Raises PodError: a list that is missing is not an empty one."""
    listed = found.get(name) if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise PodError(f"the provider's answer has no list of {name}", "look for a newer dure")
    return listed


def _date(response: httpx2.Response) -> float:
    """Return the provider's time of an answer; ours if it does not say."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _pause(response: httpx2.Response, attempt: int) -> float:
    try:
        wanted = float(response.headers.get("retry-after", ""))
    except ValueError:
        wanted = 2.0**attempt
    return min(max(wanted, 0.0), _LONGEST_WAIT_S)


@contextmanager
def _told(key: AccountKey, what: str, *, safe: bool) -> Iterator[None]:
    """Make our errors of those of the connection. safe: the request changes nothing."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
        raise PodError(
            f"the provider does not answer ({what}): {_without(key, str(error))}",
            "check the network; nothing was asked for",
        ) from None
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = _without(key, str(error)) or type(error).__name__
        if safe:
            raise PodError(f"the provider's answer did not come ({what}): {reason}") from None
        raise LostAnswerError(
            f"the provider's answer was lost ({what}), so it may have been done: {reason}",
            "see `dure pod ls`",
        ) from None


def _without(key: AccountKey, text: str) -> str:
    return text.replace(key.secret, "…")


_MEANINGS = {  # status: what it means, the cure
    400: (
        "the provider has no capacity, or a rule forbids it",
        "try another GPU or cloud: `dure pod gpus`",
    ),
    401: ("the key is not accepted", "make a new one at https://console.runpod.io/user/settings"),
    402: ("the account has no balance", "add credit at https://console.runpod.io/user/billing"),
    403: ("the key may not do this", "give the key read and write access to pods"),
    404: ("there is no such thing", "see `dure pod ls`"),
    410: ("this version of the API is gone", "look for a newer dure"),
    422: ("the provider does not understand the request", "look for a newer dure, or report it"),
    429: ("too many requests", "wait a minute"),
}


def _refusal(response: httpx2.Response, what: str, key: AccountKey) -> PodError:
    """Return the error that an answer means."""
    status = response.status_code
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    told = "; ".join(
        [str(body.get("detail") or body.get("title") or ""), *map(str, body.get("errors") or [])]
    )
    detail = f" ({_without(key, told.strip('; '))[:300]})" if told.strip("; ") else ""
    if status == 409:
        actions = tuple(map(str, body.get("actions") or ()))
        now = f"it allows {', '.join(actions)} now" if actions else "see `dure pod show`"
        return ConflictError(f"{what}: not possible as it is now{detail}", now, actions=actions)
    if status >= 500 and not what.startswith("GET"):
        return LostAnswerError(
            f"{what}: the provider failed ({status}), so it may have been done{detail}",
            "see `dure pod ls`",
            status=status,
        )
    meaning, cure = _MEANINGS.get(status, (f"the provider answered {status}", "try again later"))
    return PodError(f"{what}: {meaning}{detail}", cure, status=status)
