"""Writes what was decided and how it went, one line of JSON a request, and reads it again.

A line has no prompt, no answer and no secret. The file is moved aside when it is full, and the oldest
are deleted. Refuses to know what lines are for: `replay` and `report` do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from dure.errors import ResourceError
from dure.http.log_sink import LogSink
from dure.route.decision import Decision
from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.judging import AnswerVerdict, How
from dure.route.prediction import RoutePrediction

__all__ = [
    "DecisionLog",
    "JudgedLine",
    "RouteOutcome",
    "RoutedLine",
    "read_log",
    "read_verdicts",
]

Line = TypeVar("Line")
_MOST_BYTES = 16 * 1024 * 1024
_N_OLD = 4


class RouteOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a routed request went. status: of its answer; 0 if the client left before. usd: its price.

    whole: the answer came to its end. finish_s: from the request to the end of its answer.
    """

    status: int = 0
    whole: bool = False
    first_s: float = 0.0
    finish_s: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cached_tokens: int | None = None
    usd: float = 0.0


class RoutedLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request: what was known, what was decided, how it went."""

    time: float
    id: str
    path: str
    request: RequestFacts
    facts: Mapping[str, UpstreamFacts]
    target: str = ""
    reason: str = ""
    refusal: str = ""
    predictions: Mapping[str, RoutePrediction] = {}
    outcome: RouteOutcome | None = None

    @classmethod
    def of(
        cls,
        id_path: tuple[str, str],
        request: RequestFacts,
        facts: Mapping[str, UpstreamFacts],
        decision: Decision,
        outcome: RouteOutcome | None = None,
    ) -> RoutedLine:
        """Return the line of a request. id_path: its id and its address."""
        return cls(
            time=time.time(),
            id=id_path[0],
            path=id_path[1],
            request=request,
            facts=facts,
            target=decision.target,
            reason=decision.reason or "",
            refusal=decision.refusal or "",
            predictions=decision.predictions,
            outcome=outcome,
        )


class JudgedLine(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a weaker upstream's answer did. judged: its request's id. how: that is known.

    difficulty: the chance that it would not, as guessed when it was given.
    """

    time: float
    judged: str
    good: bool
    how: How
    difficulty: float

    @classmethod
    def of(cls, verdict: AnswerVerdict) -> JudgedLine:
        """Return the line of a verdict."""
        return cls(
            time=time.time(),
            judged=verdict.asked.id,
            good=verdict.good,
            how=verdict.how,
            difficulty=verdict.asked.difficulty,
        )


class DecisionLog:
    """The log of a running router. Use it as a context: its end writes the rest."""

    def __init__(self, path: Path, most_bytes: int = _MOST_BYTES) -> None:
        """Raises ResourceError if it cannot be written."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise ResourceError(f"cannot write {path}: {error.strerror}") from error
        self._path, self._most_bytes = path, most_bytes
        self._n_bytes = path.stat().st_size
        self._sink = LogSink(path)
        self._encode = msgspec.json.Encoder().encode

    def write(self, line: RoutedLine | JudgedLine) -> None:
        """Queue a line; never waits for the disk."""
        text = self._encode(line).decode()
        self._n_bytes += len(text) + 1
        if self._n_bytes > self._most_bytes:
            self._rotate()
            self._n_bytes = len(text) + 1
        self._sink.write(text)

    def __enter__(self) -> DecisionLog:
        self._sink.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._sink.__exit__(None, None, None)

    def _rotate(self) -> None:
        """Move the file aside; the sink opens a new one by itself."""
        for number in range(_N_OLD, 0, -1):
            newer = self._path if number == 1 else _old(self._path, number - 1)
            if newer.exists():
                newer.replace(_old(self._path, number))
        self._path.touch(mode=0o600)


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def read_log(path: Path) -> Iterator[RoutedLine]:
    """Yield the requests of a log and of those moved aside, oldest first; a line cut short is left out.

    Raises ResourceError if there is none.
    """
    return _read(path, RoutedLine)


def read_verdicts(path: Path) -> Iterator[JudgedLine]:
    """Yield what a log has of answers that did or did not, oldest first. Raises ResourceError."""
    return _read(path, JudgedLine)


def _read(path: Path, kind: type[Line]) -> Iterator[Line]:
    files = [one for number in range(_N_OLD, 0, -1) if (one := _old(path, number)).exists()]
    decode = msgspec.json.Decoder(kind).decode
    try:
        for file in [*files, path]:
            with file.open("rb") as lines:
                for line in lines:
                    try:
                        yield decode(line)
                    except (msgspec.MsgspecError, UnicodeDecodeError):
                        continue
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error
