"""One file over HTTP: resumed, checked, and patient with bad connections.

The bytes go into `….part` and are renamed once they are all there and their SHA-256 is right.
Knows ranges, redirects, `Retry-After` and disks. Refuses to know what the file is, or what a hub is:
`Source.refusal` words the final answers 401, 403 and 404.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

import httpx2

from dure.errors import DureError, ModelError, ResourceError
from dure.model.store.watching import Watcher
from dure.places import free_bytes
from dure.sizes import bytes_text, compared
from dure.whole_file import part_of

__all__ = [
    "RETRIED",
    "DroppedError",
    "Patience",
    "Source",
    "check_space",
    "client",
    "download",
    "in_a_row",
    "lost",
    "refused",
    "retry_after",
    "sha256_of",
    "wait_and_report",
]

CHUNK_BYTES = 1 << 20
_CHANGED = "it has changed on the server"
RETRIED = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+|\*)")


@dataclass(frozen=True)
class Source:
    """Where a file comes from, and what it must be. `etag` is what an earlier part of it had."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None
    refusal: Callable[[httpx2.Response], DureError] | None = None


@dataclass(frozen=True)
class Patience:
    """How long to bear a bad connection: n tries without a new byte, with a longer wait each time.

    insists: a server that does not answer is asked again. Larger files are asked for in pieces: content
    networks send no more than some 50 GB at once.
    """

    tries: int = 6
    timeout_s: float = 30.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 300.0
    piece_bytes: int = 32 << 30
    insists: bool = True

    def is_over(self, failures: int, dropped: DroppedError) -> bool:
        """Return whether the n-th failure in a row is the last."""
        return failures >= self.tries or (dropped.is_silence and not self.insists)

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Return the seconds before the next try, after n failures; the server may have asked for some."""
        if asked_s is not None:
            return min(asked_s, self.longest_wait_s)
        wait = min(self.first_wait_s * 2.0 ** (failures - 1), 60.0)
        return wait * random.uniform(0.75, 1.25)  # noqa: S311 - spreads clients, no secret


class DroppedError(Exception):
    """This try failed, and another may succeed.

    asked_s: the server's Retry-After. is_silence: it did not answer at all.
    """

    def __init__(
        self, reason: str, asked_s: float | None = None, *, is_silence: bool = False
    ) -> None:
        super().__init__(reason)
        self.asked_s, self.is_silence = asked_s, is_silence


class _RestartError(Exception):
    """What lies here cannot be resumed."""


def client(patience: Patience) -> httpx2.Client:
    """Make a client that follows redirects, and sends credentials to the first host alone."""
    return httpx2.Client(
        follow_redirects=True,
        timeout=httpx2.Timeout(patience.timeout_s, connect=min(10.0, patience.timeout_s)),
        headers={"accept-encoding": "identity", "user-agent": "dure"},
    )


def check_space(directory: Path, needed_bytes: int) -> None:
    """Check that the disk of a directory, which need not exist yet, has room. Raises ResourceError."""
    free = free_bytes(directory)
    if needed_bytes > free:
        has, needs = compared(free, needed_bytes)
        raise ResourceError(
            f"{directory} has {has} free, but {needs} are still to come",
            "make room, or name another directory with DURE_MODELS",
        )


def download(
    http: httpx2.Client,
    source: Source,
    target: Path,
    *,
    watch: Watcher,
    patience: Patience,
    learn: Callable[[int | None, str | None], None] = lambda _size, _etag: None,
) -> str:
    """Bring `target` here, resuming where an earlier try ended; return its SHA-256.

    `learn` gets size and ETag with the first answer. Raises ResourceError if the connection or the
    disk fails, ModelError if what comes is twice not what was announced; the part stays.
    """
    part = part_of(target)
    for attempt in (1, 2):
        try:
            with _open(part) as file:
                sha256 = _Transfer(http, source, file, target.name, watch, patience, learn).run()
        except OSError as error:
            raise ResourceError(
                f"cannot write {part}: {error.strerror}",
                "make room or mend it, then pull again to go on",
            ) from error
        if source.sha256 in (None, sha256):
            part.replace(target)
            return sha256
        part.unlink(missing_ok=True)
        if attempt == 1:
            watch.note(f"{target.name} came with a wrong checksum and was deleted: once more")
    raise ModelError(
        f"{target.name} came twice with another checksum than announced ({source.sha256}), and was "
        "deleted",
        "the line or the server spoils it, try another network",
    )


def _open(part: Path) -> IO[bytes]:
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    return part.open("r+b")


class _Transfer:
    """Fills one open file; knows how far it is and the SHA-256 so far."""

    def __init__(
        self,
        http: httpx2.Client,
        source: Source,
        file: IO[bytes],
        name: str,
        watch: Watcher,
        patience: Patience,
        learn: Callable[[int | None, str | None], None],
    ) -> None:
        self._http, self._source, self._file, self._name = http, source, file, name
        self._watch, self._patience, self._learn = watch, patience, learn
        self._size, self._etag = source.size_bytes, source.etag
        self._done = 0
        self._digest: Any = hashlib.sha256()

    def run(self) -> str:
        self._reread()
        self._watch.file(self._name, self._size, self._done)
        failures = restarts = 0
        while not self._is_whole():
            before = self._done
            try:
                self._ask()
                if self._size is None:
                    break
                failures = 0 if self._done > before else failures + 1
                if failures >= self._patience.tries:
                    raise self._gave_up("the server sends nothing")
            except _RestartError as restart:
                restarts += 1
                if restarts >= self._patience.tries:
                    raise self._gave_up(str(restart)) from restart
                self._watch.note(f"{self._name}: {restart}: from the beginning")
                self._restart()
            except DroppedError as dropped:
                failures = 1 if self._done > before else failures + 1
                if failures >= self._patience.tries:
                    raise self._gave_up(str(dropped)) from dropped
                self._file.flush()
                wait_and_report(dropped, failures, self._patience, self._watch)
        self._file.flush()
        os.fsync(self._file.fileno())
        return str(self._digest.hexdigest())

    def _gave_up(self, reason: str) -> ResourceError:
        return ResourceError(
            f"{self._name}: {reason}, {in_a_row(self._patience.tries)}",
            f"pull again later, it goes on from {bytes_text(self._done)}",
        )

    def _is_whole(self) -> bool:
        return self._size is not None and self._done == self._size

    def _reread(self) -> None:
        """Resume what an earlier try has left, if it can be of this file."""
        known = self._source.sha256 is not None or self._etag is not None
        length = self._file.seek(0, 2)
        if not known or (self._size is not None and length > self._size):
            self._restart()
            return
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._digest.update(chunk)
        self._done = length

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._done, self._digest = 0, hashlib.sha256()
        self._etag, self._size = None, self._source.size_bytes
        self._watch.file(self._name, self._size, 0)

    def _ask(self) -> None:
        """Make one request, and write all the bytes that come."""
        try:
            with self._http.stream("GET", self._source.url, headers=self._headers()) as response:
                self._check(response)
                self._read(response)
        except (httpx2.InvalidURL, httpx2.TooManyRedirects, httpx2.UnsupportedProtocol) as error:
            raise ResourceError(
                f"{self._name}: the address leads nowhere ({error})", "check it"
            ) from error
        except httpx2.TransportError as error:
            raise lost(error) from error

    def _headers(self) -> dict[str, str]:
        headers, piece = dict(self._source.headers), self._patience.piece_bytes
        if self._size is not None and self._size - self._done > piece:
            headers["range"] = f"bytes={self._done}-{self._done + piece - 1}"
        elif self._done:
            headers["range"] = f"bytes={self._done}-"
        strong = self._etag is not None and not self._etag.startswith("W/")
        if self._done and strong and self._etag and not self._source.sha256:
            headers["if-range"] = self._etag
        return headers

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status in RETRIED:
            raise DroppedError(f"the server answers {status}", retry_after(response))
        if status == 416:
            raise _RestartError(_CHANGED)
        if status not in (200, 206):
            raise refused(self._source, response)
        self._check_range(response)
        if not self._source.sha256:
            etag = response.headers.get("etag")
            if self._done and self._etag and etag and etag != self._etag:
                raise _RestartError(_CHANGED)
            self._etag = etag
        if self._size is None and (length := response.headers.get("content-length", "")).isdigit():
            self._size = self._done + int(length)
            check_space(Path(self._file.name).parent, int(length))
            self._watch.file(self._name, self._size, self._done)
        self._learn(self._size, self._etag)

    def _check_range(self, response: httpx2.Response) -> None:
        if response.status_code == 200:
            if self._done:
                conditional = "if-range" in response.request.headers
                raise _RestartError(
                    _CHANGED if conditional else "the server cannot go on in the middle"
                )
            return
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match["first"]) != self._done:
            raise _RestartError("the server sent another range than was asked for")
        if self._size is not None and match["total"] not in ("*", str(self._size)):
            raise _RestartError(_CHANGED)

    def _read(self, response: httpx2.Response) -> None:
        self._file.seek(self._done)
        for chunk in response.iter_raw():
            if self._size is not None and self._done + len(chunk) > self._size:
                raise ModelError(
                    f"{self._name}: the server sends more than the {self._size} bytes it announced",
                    "try again later",
                )
            self._file.write(chunk)
            self._digest.update(chunk)
            self._done += len(chunk)
            self._watch.advance(len(chunk))


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wait_and_report(
    dropped: DroppedError, failures: int, patience: Patience, watch: Watcher
) -> None:
    """Wait before the next try, and report it. Raises ResourceError if the server asks for too long."""
    if dropped.asked_s is not None and dropped.asked_s > patience.longest_wait_s:
        raise ResourceError(
            f"{dropped}, and asks to wait {dropped.asked_s:.0f} s", "try again then"
        )
    wait_s = patience.wait_s(failures, dropped.asked_s)
    watch.note(f"{dropped}: again in {wait_s:.0f} s (try {failures + 1} of {patience.tries})")
    time.sleep(wait_s)


def in_a_row(failures: int) -> str:
    """Say how often something was tried."""
    return "tried once" if failures == 1 else f"{failures} times in a row"


def lost(error: httpx2.TransportError) -> DroppedError:
    """Describe what happened to a connection, in a few words."""
    if isinstance(error, httpx2.TimeoutException):
        return DroppedError("nothing comes from the server", is_silence=True)
    if isinstance(error, httpx2.ConnectError):
        return DroppedError(f"no connection to the server ({error})", is_silence=True)
    return DroppedError(f"the connection broke ({error})")


def retry_after(response: httpx2.Response) -> float | None:
    """Return the answer's Retry-After in seconds, if it has one; it may be a number or a date.

    A date is one of the server's clock, which the answer has too.
    """
    text = response.headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    then, now = _date(text), _date(response.headers.get("date", ""))
    if then is None:
        return None
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    """Return a date as HTTP writes it; None if it is none."""
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def refused(source: Source, response: httpx2.Response) -> DureError:
    """Return the error of an answer that no patience changes."""
    if source.refusal is not None:
        return source.refusal(response)
    status = response.status_code
    reason, cure = {
        401: ("needs a login, which dure does not have", "download it another way"),
        403: ("may not be read by everybody", "check the address"),
        404: ("is not there", "check the address"),
        410: ("is not there any more", "look for another"),
    }.get(status, (f"cannot be had: the server answers {status}", ""))
    return ResourceError(f"{source.url} {reason}", cure)
