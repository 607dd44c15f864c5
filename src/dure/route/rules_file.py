"""Reads the rules of a router from a TOML file: its table `[route]`, as the configuration file has it.

Knows how the file is written, and what is wrong with it: the line, the key, the cure. Refuses to know
what the rules mean.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec

from dure.errors import ResourceError, UsageError
from dure.route.upstream import MAC, Guessing, Kind, RouteRules, Upstream

__all__ = ["parse_rules", "read_rules"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_POD = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_POD_START_S = 120.0  # from stopped to the first answer, as long as nothing was measured
_EXAMPLE = 'write [route.upstreams.NAME] with url = "http://HOST:8080" for each server'
_NOT_OF_PODS = {
    "url": "leave one out: the tunnel to the pod is dure's",
    "wake": "leave wake out: dure starts the pod itself",
    "ca-file": "leave ca-file out: ssh is what proves the pod",
}
_WRITTEN = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "str": "a text in quotes",
    "array": "a list",
}


def read_rules(path: Path) -> RouteRules:
    """Return the rules of a file. Raises UsageError naming line, key and cure; ResourceError."""
    try:
        return parse_rules(path.read_bytes().decode(), str(path))
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text", "write it as TOML, in UTF-8") from None


def parse_rules(text: str, source: str) -> RouteRules:
    """Return the rules of a text. source: how errors name it. Raises UsageError."""
    try:
        table = tomllib.loads(text).get("route", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: {error}", "write it as TOML") from None
    return _Reader(text, source).rules(table)


class _Reader:
    """Turns one file's table into rules; knows the text, so that errors can name a line."""

    def __init__(self, text: str, source: str) -> None:
        self._lines, self._source = text.splitlines(), source

    def rules(self, table: Mapping[str, Any]) -> RouteRules:
        own = {key: value for key, value in table.items() if not _is_command(key, value)}
        upstreams = own.pop("upstreams", {})
        if not isinstance(upstreams, dict) or not upstreams:
            raise UsageError(f"{self._source} names no upstream", _EXAMPLE)
        given: RouteRules = self._typed(RouteRules, own, "route", without=("upstreams",))
        found = tuple(self._upstream(name, values) for name, values in upstreams.items())
        rules: RouteRules = msgspec.structs.replace(given, upstreams=found)
        if len([one for one in found if one.is_here]) > 1:
            raise UsageError(
                f'{self._source}: two upstreams have url = "here"',
                "a server has one model of its own",
            )
        self._check_positive(rules, "route", ("worth-usd-per-s", "longest-wait-s", "silence-s"))
        self._check_positive(rules, "route", ("connect-s", "daily-usd", "difficulty-threshold"))
        self._check_positive(rules, "route", ("pods-hourly-usd", "pods-daily-usd"))
        if rules.difficulty_threshold > 1:
            cure = "give a number above 0, 1 at most"
            problem = f"is {rules.difficulty_threshold:g}"
            raise self._error("route", "difficulty-threshold", problem, cure)
        strengths = {one.strength for one in found}
        if rules.difficulty != "off" and len(strengths) == 1:
            cure = "give the upstreams with stronger models a higher strength"
            raise self._error("route", "difficulty", "all upstreams have the same strength", cure)
        return rules

    def _upstream(self, name: str, values: Any) -> Upstream:
        section = f"route.upstreams.{name}"
        if not _NAME.fullmatch(name) or not isinstance(values, dict):
            raise self._error(section, "", "is no upstream", _EXAMPLE)
        if "url" not in values and "pod" not in values:
            raise self._error(section, "", "has no url", _EXAMPLE)
        found: Upstream = self._typed(
            Upstream, {**values, "name": name}, section, without=("name",)
        )
        if found.pod is None:
            self._check_url(found, section)
        if found.pod is None and "kind" not in values and not _is_private(found.url):
            cure = f'say kind = "cloud", "pod", or "house" if {_host(found.url)} is in your house'
            raise self._error(section, "url", f"{found.url} may be outside your house", cure)
        self._check_start(found, section)
        found = self._as_pod(found, values, section)
        self._check_positive(found, section, ("prompt-per-s", "answer-per-s", "start-s"))
        self._check_positive(found, section, ("context", "parallel", "daily-usd"))
        prices = [key for key in found.__struct_encode_fields__ if key.startswith("usd-per-")]
        self._check_positive(found, section, prices, zero=True)
        return found

    def _as_pod(self, upstream: Upstream, values: Mapping[str, Any], section: str) -> Upstream:
        """Return an upstream of the ledger with what goes without saying; another one as it is."""
        if upstream.pod is None:
            return upstream
        if not _POD.fullmatch(upstream.pod):
            cure = "give the name that `dure pod ls` shows"
            raise self._error(section, "pod", f"{upstream.pod!r} is no name of a pod", cure)
        for key, cure in _NOT_OF_PODS.items():
            if key in values:
                raise self._error(section, key, "does not go with pod", cure)
        if "kind" in values and upstream.kind != "pod":
            cure = "leave kind out: a rented machine is never in the house"
            raise self._error(section, "kind", f"is {upstream.kind!r}", cure)
        start_s = upstream.start_s or _POD_START_S
        return msgspec.structs.replace(upstream, kind="pod", start_s=start_s)

    def _typed(
        self, kind: Any, values: Mapping[str, Any], section: str, *, without: Iterable[str]
    ) -> Any:
        known = set(kind.__struct_encode_fields__)
        spelt = {key.replace("_", "-"): value for key, value in values.items()}
        for key in spelt:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=2)
                names = " or ".join(near) or ", ".join(sorted(known - set(without)))
                cure = f"did you mean {names}?" if near else f"there are {names}"
                raise self._error(section, key, "no such key", cure)
        try:
            return msgspec.convert(spelt, kind)
        except msgspec.ValidationError as error:
            raise self._mistyped(section, spelt, str(error)) from None

    def _mistyped(self, section: str, values: Mapping[str, Any], text: str) -> UsageError:
        found = re.search(r"\$\.([a-z-]+)", text)
        key = found[1] if found else ""
        if key == "kind":
            return self._error(section, key, "no such kind", f"give {', '.join(get_args(Kind))}")
        if key == "difficulty":
            return self._error(
                section, key, "no such mode", f"give {', '.join(get_args(Guessing))}"
            )
        wanted = re.search(r"`([a-z]+)", text)
        cure = f"give {_WRITTEN.get(wanted[1] if wanted else '', 'another value')}"
        return self._error(section, key, f"is {values.get(key)!r}", cure)

    def _check_url(self, upstream: Upstream, section: str) -> None:
        parts = urlsplit(upstream.url)
        if upstream.is_here:
            if upstream.kind != "house" or upstream.wake or upstream.key_file:
                cure = "leave out kind, wake and key-file"
                raise self._error(section, "url", "is this very server", cure)
            return
        if parts.path.rstrip("/").endswith("/v1"):
            cure = "leave /v1 out: the paths of requests have it"
            raise self._error(section, "url", f"{upstream.url} ends with /v1", cure)
        if parts.scheme == "unix" or (parts.scheme in ("http", "https") and parts.hostname):
            if not (parts.username or parts.password or parts.query):
                return
            cure = "put the key into a file, and name it in key-file"
            raise self._error(section, "url", "holds more than an address", cure)
        cure = 'give "http://HOST:PORT" or "https://HOST"'
        raise self._error(section, "url", f"{upstream.url!r} is no address", cure)

    def _check_start(self, upstream: Upstream, section: str) -> None:
        if upstream.wake is None:
            return
        if not MAC.fullmatch(upstream.wake):
            cure = 'give the address of its network card, as "d8:3a:dd:01:02:03"'
            raise self._error(section, "wake", f"{upstream.wake!r} is no MAC address", cure)
        if upstream.start_s is None:
            cure = "add start-s = 40, the seconds from waking to its first answer"
            raise self._error(section, "wake", "needs start-s", cure)

    def _check_positive(
        self, values: msgspec.Struct, section: str, keys: Iterable[str], *, zero: bool = False
    ) -> None:
        for key in keys:
            value = getattr(values, key.replace("-", "_"))
            if value is not None and not (value > 0 or (zero and value == 0)):
                raise self._error(section, key, f"is {value:g}", "give a number above 0")

    def _error(self, section: str, key: str, problem: str, cure: str) -> UsageError:
        line = _line_of(self._lines, section, key)
        place = f"{self._source}, line {line}" if line else self._source
        return UsageError(f"{place}: [{section}] {f'{key} ' if key else ''}{problem}", cure)


def _is_command(key: str, value: Any) -> bool:
    """Return whether a table below `[route]` holds the options of one of its commands."""
    return isinstance(value, dict) and key != "upstreams"


def _line_of(lines: list[str], section: str, key: str) -> int:
    """Return the line of a key, or of its table if it has none of its own; 0 if neither is found."""
    table, found = "", 0
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("["):
            table = re.sub(r"[\s\"'\[\]]", "", text.partition("#")[0])
            found = number if table == section else found
        elif key and table == section and text.partition("=")[0].strip().replace("_", "-") == key:
            return number
    return found


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _is_private(url: str) -> bool:
    """Return whether only this house's network can have such an address."""
    host = _host(url)
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_private
    except ValueError:
        is_local = "." not in host or host.endswith((".local", ".lan", ".home.arpa", ".internal"))
        return url.startswith("unix:") or is_local
