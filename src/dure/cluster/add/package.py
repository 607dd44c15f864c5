"""What other machines install dure from, to get the root's: a file, a directory, or a requirement.

Knows what pip noted when dure was installed here (PEP 610), and which files of a checkout matter.
Refuses to know how it travels.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from dure.errors import UsageError

__all__ = ["Package", "installed_from", "package_of", "recorded"]

_NOT_SENT = {"build", "dist", "venv", "__pycache__"}  # and what begins with a dot: .git, .venv
_MODEL = ".gguf"


@dataclass(frozen=True)
class Package:
    """words: pip's requirement. path: a file or directory here, which is sent first."""

    words: str = ""
    path: Path | None = None

    def __str__(self) -> str:
        return self.words or str(self.path)

    @property
    def file_name(self) -> str:
        """Its name on the other machine; pip reads a wheel's name."""
        assert self.path is not None, "pip's requirements are not sent"
        return "dure.tar.gz" if self.path.is_dir() else self.path.name

    def packed(self, directory: Path) -> Path:
        """Return the one file that is sent; a directory becomes an archive in `directory`."""
        assert self.path is not None, "pip's requirements are not sent"
        if not self.path.is_dir():
            return self.path
        archive = directory / self.file_name
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.add(self.path, "dure", filter=_of_source)
        return archive


def _of_source(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(member.name).name
    if name in _NOT_SENT or name.startswith(".") or name.endswith(_MODEL):
        return None
    member.uid = member.gid = 0  # whoever unpacks it owns it
    member.uname = member.gname = ""
    return member


def package_of(text: str) -> Package:
    """Read `--from`: something that is here, or else pip's requirement. Raises UsageError."""
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "pyproject.toml").is_file():
            raise UsageError(
                f"--from {text}: the directory has no pyproject.toml", "name a checkout"
            )
        return Package(path=path.resolve())
    if path.is_file():
        return Package(path=path.resolve())
    is_name = "://" in text or not ("/" in text or text.endswith((".whl", ".tar.gz")))
    if not text.strip() or text.startswith("-") or not is_name:
        raise UsageError(
            f"--from {text}: no such file",
            "give a wheel, an sdist, a checkout, or what pip takes, as dure==1.0",
        )
    return Package(words=text)


def installed_from() -> Package:
    """Return what the dure that runs here was installed from; else its version in the index."""
    here = distribution("dure")
    return recorded(here.read_text("direct_url.json"), here.version)


def recorded(note: str | None, version: str) -> Package:
    """Read pip's note (direct_url.json); the index if there is none, or what it names is gone."""
    index = Package(words=f"dure=={version}")
    try:
        noted: Any = msgspec.json.decode(note or "{}")
        url, parts = str(noted.get("url", "")), urlsplit(str(noted.get("url", "")))
    except (msgspec.MsgspecError, AttributeError, ValueError):
        return index
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        is_there = path.is_file() or (path / "pyproject.toml").is_file()
        return Package(path=path) if is_there else index
    revision = noted.get("vcs_info", {})
    if revision:
        return Package(words=f"dure @ {revision['vcs']}+{url}@{revision['commit_id']}")
    return Package(words=f"dure @ {url}") if url else index
