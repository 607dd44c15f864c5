"""The models on this machine: one directory, readable by people, with a record beside each model.

`owner/repository/file.gguf` has its record in `owner/repository/file.gguf.json`, while it is being
pulled in `….gguf.pull.json`. Files that somebody put there by hand are models too.
Knows nothing about networks.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dure.errors import ModelError, ResourceError, UsageError
from dure.model.gguf import GgufFile, open_gguf
from dure.model.store.choosing import PART, preference_of, tag_of
from dure.model.store.names import Name, UrlName, parse_name, short_name_of
from dure.places import models_directory
from dure.whole_file import write_whole

__all__ = [
    "FileRecord",
    "Library",
    "ModelFacts",
    "Record",
    "StoredModel",
    "facts_at",
    "facts_of",
]


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model: its path below the models directory, and what it must be."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the header of a model says, in a form that is quick to list."""

    architecture: str
    quantization: str
    parameters: int
    context_length: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model came from. `facts` and `pulled_at` (RFC 3339) are there once it is whole."""

    name: str
    source: str
    files: tuple[FileRecord, ...]
    revision: str | None = None
    pulled_at: str | None = None
    facts: ModelFacts | None = None


@dataclass(frozen=True)
class StoredModel:
    """A model that lies in the library, whole or in part."""

    name: str
    paths: tuple[Path, ...]
    size_bytes: int
    record: Record | None = None
    unfinished: bool = False

    @property
    def path(self) -> Path:
        """Return the file that opens it: the first part of a split one."""
        return self.paths[0]

    @property
    def short_name(self) -> str | None:
        """Return the short name that stands for it."""
        return short_name_of(self.name)

    @property
    def names(self) -> set[str]:
        """Return its names, in every way to write them."""
        if self.record is None:
            return {self.name, self.name.removesuffix(".gguf")}
        return {self.name, self.name.removeprefix("hf:"), *filter(None, [self.short_name])}

    @property
    def tag(self) -> str:
        """Return the quantization in its file's name, or ""."""
        return tag_of(self.path.name) or tag_of(f"{self.path.parent.name}/{self.path.name}")

    def is_meant(self, name: Name) -> bool:
        """Return whether a name means this model; a repository means each of its models."""
        if self.record is None:
            return False
        own = parse_name(self.record.name)
        if isinstance(name, UrlName) or isinstance(own, UrlName):
            return name == own
        if (name.repo.lower(), name.revision) != (own.repo.lower(), own.revision):
            return False
        files = {path.name for path in self.paths}
        wanted = name.wanted
        return wanted is None or wanted.upper() == self.tag or wanted.split("/")[-1] in files


def facts_of(gguf: GgufFile) -> ModelFacts:
    """Return what to list of an opened model; the quantization is the name's, or that of most bytes."""
    sizes: Counter[str] = Counter()
    for tensor in gguf.tensors.values():
        sizes[tensor.type.name] += tensor.size_bytes
    architecture = gguf.architecture
    return ModelFacts(
        architecture=architecture,
        quantization=tag_of(gguf.paths[0].name) or (max(sizes, key=sizes.__getitem__, default="")),
        parameters=sum(tensor.n_elements for tensor in gguf.tensors.values()),
        context_length=gguf.int(f"{architecture}.context_length", 0),
    )


class Library:
    """The models below one directory, which need not exist yet."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = (directory or models_directory()).absolute()

    def models(self) -> list[StoredModel]:
        """List every model, pulled or put there by hand, and every pull that was not finished."""
        pulled = [m for path in self._files(".gguf.json") if (m := self._pulled(path))]
        begun = [m for path in self._files(".gguf.pull.json") if (m := self._unfinished(path))]
        known = {path for model in [*pulled, *begun] for path in model.paths}
        firsts = [path for path in self._files(".gguf") if path not in known and _is_first(path)]
        whole = {model.path for model in pulled}  # one that is being pulled again can still be used
        begun = [model for model in begun if model.path not in whole]
        models = [*pulled, *begun, *(self._by_hand(path) for path in firsts)]
        return sorted(models, key=lambda model: model.name)

    def find(self, text: str, *, unfinished: bool = False) -> StoredModel | None:
        """Find the model that a name means, as `dure ls` writes it or as it was pulled, short or long.

        Of several kinds in one repository, the name without a kind means the one most people want.
        """
        models = [model for model in self.models() if unfinished or not model.unfinished]
        if exact := [model for model in models if text in model.names]:
            return exact[0]
        try:
            name = parse_name(text)
        except UsageError:
            return None
        meant = [model for model in models if model.is_meant(name)]
        return min(meant, key=lambda model: preference_of(model.tag), default=None)

    def read(self, first: Path) -> Record | None:
        """Read the record of the model whose first file this is, if it was pulled."""
        return _read(_beside(first, ".json"))

    def read_pull(self, first: Path) -> Record | None:
        """Read the record of an unfinished pull of this file."""
        return _read(_beside(first, ".pull.json"))

    def begin(self, record: Record) -> None:
        """Note that a pull of this model has begun. Raises ResourceError if that cannot be written."""
        self._write(_beside(self.path_of(record.files[0]), ".pull.json"), record)

    def finish(self, record: Record) -> StoredModel:
        """Note that a model is whole. Raises ResourceError if that cannot be written."""
        first = self.path_of(record.files[0])
        self._write(_beside(first, ".json"), record)
        _beside(first, ".pull.json").unlink(missing_ok=True)
        model = self._pulled(_beside(first, ".json"))
        assert model is not None
        return model

    def path_of(self, file: FileRecord) -> Path:
        """Return where a file of a record lies."""
        return self.directory / file.path

    def remove(self, model: StoredModel) -> None:
        """Delete a model's files, their records, and the folders that this empties."""
        for path in model.paths:
            for name in ("", ".part", ".json", ".pull.json"):
                _beside(path, name).unlink(missing_ok=True)
        for folder in model.path.parents:
            if folder == self.directory or self.directory not in folder.parents:
                return
            with contextlib.suppress(OSError):  # it still holds something
                folder.rmdir()

    @contextmanager
    def locked(self, path: str, waits: Callable[[], None]) -> Iterator[None]:
        """Let one process at a time into this block for a path; `waits` is called before waiting.

        Raises ResourceError if the directory cannot be written.
        """
        locks = self.directory / ".locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
            lock = (locks / hashlib.sha256(path.encode()).hexdigest()[:32]).open("w")
        except OSError as error:
            raise _unwritable(locks, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                waits()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _files(self, ending: str) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.rglob(f"*{ending}") if not path.is_dir())

    def _pulled(self, beside: Path) -> StoredModel | None:
        """Return the model of a record; None if its files are gone or changed."""
        record = _read(beside)
        if record is None or not record.files:
            return None
        paths = tuple(self.path_of(file) for file in record.files)
        if not all(path.is_file() for path in paths):
            return None
        return StoredModel(record.name, paths, sum(path.stat().st_size for path in paths), record)

    def _unfinished(self, beside: Path) -> StoredModel | None:
        record = _read(beside)
        if record is None or not record.files:
            return None
        paths = tuple(self.path_of(file) for file in record.files)
        parts = [p for path in paths for p in (path, _beside(path, ".part")) if p.is_file()]
        size = sum(path.stat().st_size for path in parts)
        return StoredModel(record.name, paths, size, record, unfinished=True)

    def _by_hand(self, path: Path) -> StoredModel:
        part = PART.fullmatch(path.name)
        pattern = f"{glob.escape(part['stem'])}-*-of-{part['count']}.gguf" if part else None
        paths = tuple(sorted(path.parent.glob(pattern))) if pattern else (path,)
        name = str(path.relative_to(self.directory))
        return StoredModel(name, paths, sum(p.stat().st_size for p in paths if p.is_file()))

    def _write(self, path: Path, record: Record) -> None:
        data = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        try:
            write_whole(path, data)
        except OSError as error:
            raise _unwritable(path, error) from error


def _is_first(path: Path) -> bool:
    part = PART.fullmatch(path.name)
    return part is None or int(part["number"]) == 1


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"cannot write {path}: {error.strerror}",
        "make room or mend it, or name another directory with DURE_MODELS",
    )


def facts_at(model: StoredModel) -> ModelFacts | None:
    """Return the facts of a stored model, from its record or its header; None if neither is readable."""
    if model.record is not None and model.record.facts is not None:
        return model.record.facts
    try:
        with open_gguf(model.path) as gguf:
            return facts_of(gguf)
    except (ModelError, OSError):
        return None
