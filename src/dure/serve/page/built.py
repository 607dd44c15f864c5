"""The built files of the page, as they came with the package.

Knows where they lie and how browsers may keep them. Refuses to know what they do.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePath

from fastapi import Response

__all__ = ["POLICY", "asset", "index"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_KINDS = {".js": "text/javascript", ".css": "text/css"}  # a machine's own table may say otherwise
_REFUSED = re.compile(r"q=0(\.0*)?")  # the weight of an encoding that a client does not take
_FOR_EVER = "public, max-age=31536000, immutable"  # its name changes with what it holds


def index() -> Response | None:
    """Return the page, None if it was not built."""
    page = _read("index.html")
    if page is None:
        return None
    headers = {**_SAFE, "cache-control": "no-cache", "vary": "accept"}
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


def asset(name: str, accept_encoding: str = "") -> Response | None:
    """Return a file of the page, gzipped if the browser takes that; None if there is none of that name."""
    content = _read(f"assets/{name}")
    if content is None:
        return None
    kind = _KINDS.get(PurePath(name).suffix, "application/octet-stream")
    headers = {**_SAFE, "cache-control": _FOR_EVER, "vary": "accept-encoding"}
    if _takes_gzip(accept_encoding):
        content, headers = _gzipped(name), {**headers, "content-encoding": "gzip"}
    return Response(content, media_type=kind, headers=headers)


def _read(name: str) -> bytes | None:
    return _files().get(name)


def _takes_gzip(accept_encoding: str) -> bool:
    for each in accept_encoding.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() == "gzip":
            return _REFUSED.fullmatch(weight.strip()) is None
    return False


@cache
def _gzipped(name: str) -> bytes:
    """Return a file of the page that is there; it is the same at every call."""
    return gzip.compress(_files()[f"assets/{name}"], mtime=0)


@cache
def _files() -> Mapping[str, bytes]:
    """Return all files of the page by name, none if it was not built."""
    root = files("dure.serve.page").joinpath("static")
    found: dict[str, bytes] = {}
    for folder, prefix in ((root, ""), (root.joinpath("assets"), "assets/")):
        if folder.is_dir():
            found |= {
                f"{prefix}{one.name}": one.read_bytes() for one in folder.iterdir() if one.is_file()
            }
    return found
