"""What a person may call a model: short names, `hf:` names and addresses.

Knows how names are written and the table of short ones. Refuses to know what is on this machine
or on any other: no I/O but reading the table.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from dure.errors import UsageError

__all__ = [
    "HubName",
    "Name",
    "UrlName",
    "near_names",
    "parse_name",
    "short_name_of",
    "short_names",
    "without_secrets",
]

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"  # an owner or a repository
_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[^\s:]+))?(?::(?P<wanted>[^\s:]+))?")
_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_SHORT = re.compile(r"(?P<short>[^\s:/]+(?::[^\s:/]+)?)(?::(?P<wanted>[^\s:/]+))?")


@dataclass(frozen=True)
class HubName:
    """A model in a Hugging Face repository; `wanted` is a file or a quantization, None lets us choose."""

    repo: str
    wanted: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        wanted = f":{self.wanted}" if self.wanted else ""
        return f"hf:{self.repo}{revision}{wanted}"


@dataclass(frozen=True)
class UrlName:
    """A GGUF file at an http(s) address."""

    url: str

    def __str__(self) -> str:
        return self.url


Name = HubName | UrlName


@cache
def short_names() -> Mapping[str, str]:
    """Return the table of short names: `qwen3:0.6b` to the `hf:` name it stands for."""
    text = (resources.files("dure.model.store") / "short_names.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return MappingProxyType(
        {
            f"{family}:{size}": name
            for family, sizes in table.items()
            for size, name in sizes.items()
        }
    )


def short_name_of(name: str) -> str | None:
    """Return the short name that stands for this `hf:` name, or None."""
    return next((short for short, full in short_names().items() if full == name), None)


def parse_name(text: str) -> Name:
    """Return what a name stands for. Raises UsageError, with near names, if it stands for nothing."""
    if text.startswith(("http://", "https://")):
        return _address(text)
    bare = text.removeprefix("hf:")
    for host in _HUB_HOSTS:
        bare = bare.removeprefix(f"{host}/")
    if match := _HUB.fullmatch(bare):
        return HubName(match["repo"], match["wanted"], match["revision"])
    if text.startswith("hf:") or "/" in text:
        raise UsageError(
            text,
            "write it as hf:owner/repository, with :Q4_K_M or :file.gguf behind it to choose",
        )
    return _short(text)


def without_secrets(text: str) -> str:
    """Return a name fit to be shown to others: an address without its user, password and query."""
    if not text.startswith(("http://", "https://")):
        return text
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _short(text: str) -> HubName:
    match = _SHORT.fullmatch(text)
    short = match["short"].lower() if match else text.lower()
    if match is None or short not in short_names():
        raise UsageError(f"{text}: there is no model of this name", _near(short))
    name = parse_name(short_names()[short])
    assert isinstance(name, HubName)
    return HubName(name.repo, match["wanted"] or name.wanted)


def near_names(short: str) -> list[str]:
    """Return the short names that may have been meant, three at most and the nearest first."""
    known, short = list(short_names()), short.lower()
    family = short.partition(":")[0]
    near = [name for name in known if name.partition(":")[0] == family]
    near = near or [name for name in known if name.startswith(short)]
    return difflib.get_close_matches(short, near or known, n=3, cutoff=0.0 if near else 0.5)


def _near(short: str) -> str:
    """Return the names that may have been meant, as a cure."""
    if near := near_names(short):
        return f"did you mean {' or '.join(near)}?"
    return "`dure ls` shows those on this machine, hf:owner/repository names others"


def _address(text: str) -> Name:
    """Parse a web address; one of a hub's file or repository is taken for what it shows."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # both may be malformed
    except ValueError:
        host = None
    if not host:
        raise UsageError(f"{text}: this is no address")
    if host in _HUB_HOSTS:
        return _hub_address(text, unquote(parts.path).strip("/").split("/"))
    if not unquote(parts.path).lower().endswith(".gguf"):
        raise UsageError(f"{text}: the address of a model ends in .gguf", "name the file itself")
    return UrlName(text)


def _hub_address(text: str, path: list[str]) -> HubName:
    repo = "/".join(path[:2])
    if len(path) == 2 and _HUB.fullmatch(repo):
        return HubName(repo)
    if len(path) > 4 and path[2] in ("blob", "resolve") and path[-1].endswith(".gguf"):
        revision = path[3] if path[3] != "main" else None
        return HubName(repo, "/".join(path[4:]), revision)
    raise UsageError(text, "name the repository, as hf:owner/repository, or one of its .gguf files")
