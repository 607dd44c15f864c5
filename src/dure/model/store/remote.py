"""A model that lies elsewhere: its header is read over HTTP, in ranges, and its weights stay there.

Refuses to know what a header says; `model.gguf` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from dure.errors import DureError, ResourceError
from dure.model.gguf import GgufFile, open_gguf
from dure.model.store.choosing import choose
from dure.model.store.download import (
    RETRIED,
    DroppedError,
    Patience,
    Source,
    client,
    in_a_row,
    lost,
    refused,
    retry_after,
    wait_and_report,
)
from dure.model.store.hub import Hub
from dure.model.store.names import HubName, Name
from dure.model.store.pull import plan_of_url
from dure.model.store.watching import SilentWatcher, Watcher

__all__ = ["opened_remote", "sizes_of"]

_FIRST_BYTES = 1 << 16
LOOKING = Patience(tries=3, timeout_s=5.0, longest_wait_s=3.0, insists=False)
"""Of a command that only looks: it says within seconds what is wrong, and can be typed again."""

AT_ONCE = 8
_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+)")


@contextmanager
def opened_remote(
    name: Name, watch: Watcher, patience: Patience = LOOKING, hub: Hub | None = None
) -> Iterator[GgufFile]:
    """Open a model at the hub, or at an address, without bringing it here.

    Raises UsageError for a name that is not there, ResourceError if the network fails or the server gives
    no parts of files, ModelError if it is no model.
    """
    sources = _sources(name, watch, patience, hub)
    with client(patience) as http:

        def opened(path: Path) -> _RemoteFile:
            return _RemoteFile(http, sources[path], path.name, watch, patience)

        with open_gguf(next(iter(sources)), opened) as gguf:
            yield gguf


def _sources(name: Name, watch: Watcher, patience: Patience, hub: Hub | None) -> dict[Path, Source]:
    """Return where the model's files are, by the path that each would have here."""
    if isinstance(name, HubName):
        hub = hub or Hub()
        listing = hub.listing(name, watch, patience)
        files = choose(f"hf:{name.repo}", listing.files, name.wanted).files
        return {Path(name.repo) / one.path: hub.source(listing, one) for one in files}
    plan = plan_of_url(name, None)
    paths = (Path(file.path) for file in plan.record.files)
    return dict(zip(paths, plan.sources, strict=True))


class _RemoteFile:
    """A file over HTTP, of which only those bytes come that are read."""

    def __init__(
        self, http: httpx2.Client, source: Source, name: str, watch: Watcher, patience: Patience
    ) -> None:
        self._http, self._source, self._name = http, source, name
        self._watch, self._patience = watch, patience
        self.size = 0
        self._first = self._bytes(0, _FIRST_BYTES)

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill `target` from byte `offset`. Raises ResourceError, and the hub's refusals."""
        end = offset + len(target)
        data = (
            self._first[offset:end] if end <= len(self._first) else self._bytes(offset, len(target))
        )
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Do nothing: the connection is of all files."""

    def _bytes(self, offset: int, n: int) -> bytes:
        failures = 0
        while True:
            try:
                return self._asked(offset, n)
            except DroppedError as dropped:
                failures += 1
                if self._patience.is_over(failures, dropped):
                    raise ResourceError(
                        f"{self._name}: {dropped}, {in_a_row(failures)}", "try again later"
                    ) from dropped
                wait_and_report(dropped, failures, self._patience, self._watch)

    def _asked(self, offset: int, n: int) -> bytes:
        headers = {**self._source.headers, "range": f"bytes={offset}-{offset + n - 1}"}
        try:
            with self._http.stream("GET", self._source.url, headers=headers) as response:
                self._check(response, offset, n)
                return self._body(response, n)
        except (httpx2.InvalidURL, httpx2.TooManyRedirects, httpx2.UnsupportedProtocol) as error:
            raise ResourceError(
                f"{self._name}: the address leads nowhere ({error})", "check it"
            ) from error
        except httpx2.TransportError as error:
            raise lost(error) from error

    def _body(self, response: httpx2.Response, n: int) -> bytes:
        """Return the answer's n bytes, or fewer. Raises ResourceError if there are more."""
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > n:
                raise ResourceError(
                    f"{self._name}: the server sends more than the part it was asked for",
                    "pull it, to see what it is",
                )
        return bytes(data)

    def _check(self, response: httpx2.Response, offset: int, n: int) -> None:
        """Check that the answer is the part that was asked for, and learn how large the file is."""
        if response.status_code in RETRIED:
            status = response.status_code
            raise DroppedError(f"the server answers {status}", retry_after(response))
        if response.status_code not in (200, 206):
            raise refused(self._source, response)
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        length = response.headers.get("content-length", "")
        if found is not None and int(found["first"]) == offset:
            size = int(found["total"])
        elif offset == 0 and length.isdigit() and int(length) <= n:
            size = int(length)  # all of it
        else:
            raise ResourceError(
                f"{self._name}: the server gives no parts of files", "pull it, to see what it is"
            )
        if self.size not in (0, size):
            raise ResourceError(f"{self._name} has changed on the server", "try again")
        self.size = size


def sizes_of(
    names: Sequence[HubName], hub: Hub | None = None
) -> tuple[list[int | None], DureError | None]:
    """Return the bytes of models at the hub, asking for all at once; None of one that it does not tell.

    Returns also the first thing that went wrong. Raises nothing.
    """
    hub, problems = hub or Hub(), list[DureError]()

    def size(name: HubName) -> int | None:
        if any(isinstance(problem.__cause__, DroppedError) for problem in problems):
            return None  # the hub is out of reach: it would keep each of them waiting
        try:
            listing = hub.listing(name, SilentWatcher(), LOOKING)
            return choose(f"hf:{name.repo}", listing.files, name.wanted).size_bytes or None
        except DureError as error:
            error.problem = error.problem.removeprefix(f"{name}: ")
            problems.append(error)
            return None

    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        sizes = list(threads.map(size, names))
    return sizes, next(iter(problems), None)
