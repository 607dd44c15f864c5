"""Bring a model here, whole: from a name to files, a record, and a header that was read.

Wires names, hub, download and library together. Interrupted at any point, the next pull of the same
name goes on; two pulls of one name at once wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx2
import msgspec

from dure.errors import ModelError, UsageError
from dure.model.gguf import open_gguf
from dure.model.store.choosing import PART, choose
from dure.model.store.download import Patience, Source, check_space, client, download, sha256_of
from dure.model.store.hub import Hub
from dure.model.store.library import FileRecord, Library, Record, StoredModel, facts_of
from dure.model.store.names import HubName, Name, UrlName
from dure.model.store.watching import Watcher
from dure.sizes import bytes_text
from dure.whole_file import part_of

__all__ = ["Pulled", "plan_of_url", "pull"]


@dataclass(frozen=True)
class Pulled:
    """A model that lies here now. `fresh` is whether anything had to be brought; `reused_bytes` came
    from the hub's cache on this machine."""

    model: StoredModel
    fresh: bool
    reused_bytes: int = 0


@dataclass(frozen=True)
class _Plan:
    """What is to be brought: a record as far as it is known, and a source for every file."""

    record: Record
    sources: tuple[Source, ...]
    cached: Callable[[FileRecord], Path | None]


def pull(
    name: Name,
    library: Library,
    watch: Watcher,
    patience: Patience | None = None,
    sha256: str | None = None,
    hub: Hub | None = None,
) -> Pulled:
    """Bring a model into the library, or go on with it; `sha256` is what a file at an address must be.

    Raises UsageError for a name that is not there, ResourceError if network, disk or permissions
    fail, ModelError if what comes is no whole model.
    """
    patience = patience or Patience()
    if isinstance(name, HubName):
        plan = _plan_of_hub(name, hub or Hub(), watch, patience)
    else:
        plan = plan_of_url(name, sha256)
    _check_paths(library, plan.record)
    with library.locked(
        plan.record.name,
        lambda: watch.note(f"another process is pulling {plan.record.name}: waiting"),
    ):
        return _pull(plan, library, watch, patience)


def _plan_of_hub(name: HubName, hub: Hub, watch: Watcher, patience: Patience) -> _Plan:
    listing = hub.listing(name, watch, patience)
    variant = choose(f"hf:{name.repo}", listing.files, name.wanted)
    whole = HubName(name.repo, variant.label, name.revision)
    if name.wanted is None:
        watch.note(f"{name}: taking {variant.label}, {bytes_text(variant.size_bytes)}")
    folder = f"{name.repo}@{name.revision}" if name.revision else name.repo
    files = {f"{folder}/{file.path}": file for file in variant.files}
    record = Record(
        name=str(whole),
        source=f"{hub.endpoint}/{name.repo}",
        revision=listing.commit,
        files=tuple(
            FileRecord(path=path, size_bytes=file.size_bytes, sha256=file.sha256)
            for path, file in files.items()
        ),
    )

    def cached(file: FileRecord) -> Path | None:
        return hub.cached(name.repo, files[file.path])

    return _Plan(record, tuple(hub.source(listing, file) for file in variant.files), cached)


def plan_of_url(name: UrlName, sha256: str | None) -> _Plan:
    """Plan one file at an address, or all parts of a split one."""
    parts = urlsplit(name.url)
    host = parts.netloc.rpartition("@")[2]
    addresses = _all_parts(parts.path)
    if sha256 is not None and len(addresses) > 1:
        raise UsageError(f"--sha256 is of one file, but {name} is one of {len(addresses)} parts")
    files = tuple(FileRecord(path=f"{host}{unquote(path)}", sha256=sha256) for path in addresses)
    first = parts._replace(netloc=host, path=addresses[0], query="", fragment="").geturl()
    sources = tuple(
        Source(url=parts._replace(path=path).geturl(), sha256=sha256) for path in addresses
    )
    return _Plan(Record(name=first, source=first, files=files), sources, lambda _file: None)


def _all_parts(path: str) -> list[str]:
    """Return the paths of all parts of a split model, of which this is one; or this alone."""
    match = PART.fullmatch(path)
    if match is None:
        return [path]
    numbers = range(1, int(match["count"]) + 1)
    return [f"{match['stem']}-{number:05}-of-{match['count']}.gguf" for number in numbers]


def _check_paths(library: Library, record: Record) -> None:
    """Check that paths from a listing or an address stay below the library, and belong to one model."""
    for file in record.files:
        parts = PurePosixPath(file.path).parts
        if file.path.startswith("/") or ".." in parts or "\0" in file.path or "\\" in file.path:
            raise UsageError(f"{record.name}: {file.path!r} is no path that dure writes to")
    other = library.read(library.path_of(record.files[0]))
    if other is not None and other.name != record.name and other.source != record.source:
        raise UsageError(
            f"{record.name} would overwrite {other.name}, which has the same path",
            f"remove that first, with `dure rm {other.name}`",
        )


def _pull(plan: _Plan, library: Library, watch: Watcher, patience: Patience) -> Pulled:
    before = library.read(library.path_of(plan.record.files[0]))
    if before is not None and (model := _still_right(before, plan.record, library)):
        return Pulled(model, fresh=False)
    bringing = _Bringing(plan, library, watch, patience)
    bringing.check_space()
    files = bringing.all_files()
    record = msgspec.structs.replace(plan.record, files=files)
    verified = all(file.sha256 for file in plan.record.files)
    model = _finish(record, library, verified=verified)
    return Pulled(model, fresh=True, reused_bytes=bringing.reused_bytes)


def _still_right(before: Record, wanted: Record, library: Library) -> StoredModel | None:
    """Return the model that lies here already, if it is what the other side has now."""
    known = {file.path: file.sha256 for file in before.files}
    if any(file.path not in known for file in wanted.files):
        return None
    if any(file.sha256 and file.sha256 != known[file.path] for file in wanted.files):
        return None
    return library.find(before.name)


class _Bringing:
    """The files of one pull, brought one after the other."""

    def __init__(self, plan: _Plan, library: Library, watch: Watcher, patience: Patience) -> None:
        self._plan, self._library, self._watch, self._patience = plan, library, watch, patience
        begun = library.read_pull(library.path_of(plan.record.files[0]))
        self._begun = {file.path: file for file in begun.files} if begun is not None else {}
        self._record = plan.record
        self.reused_bytes = 0

    def check_space(self) -> None:
        """Check that the disk has room for what is still to come. Raises ResourceError."""
        missing = [
            (file.size_bytes or 0) - _length(part_of(self._library.path_of(file)))
            for file in self._record.files
            if _length(self._library.path_of(file)) != file.size_bytes
            and self._plan.cached(file) is None
        ]
        check_space(self._library.directory, sum(max(0, size) for size in missing))

    def all_files(self) -> tuple[FileRecord, ...]:
        """Bring every file that is not here; return their records, with the checksums that were found."""
        self._library.begin(self._record)
        with client(self._patience) as http:
            pairs = zip(self._record.files, self._plan.sources, strict=True)
            return tuple(self._file(http, file, source) for file, source in pairs)

    def _file(self, http: httpx2.Client, file: FileRecord, source: Source) -> FileRecord:
        target = self._library.path_of(file)
        if file.sha256 and _length(target) == file.size_bytes and sha256_of(target) == file.sha256:
            return file
        blob = self._plan.cached(file)
        if blob is not None and self._reuse(blob, file, target):
            return file
        begun = self._begun.get(file.path)
        if begun is not None and begun.sha256 != file.sha256:
            part_of(target).unlink(missing_ok=True)  # the beginning of another file
            begun = None
        sha256 = download(
            http,
            replace(source, etag=begun.etag if begun else None),
            target,
            watch=self._watch,
            patience=self._patience,
            learn=lambda size, etag: self._learn(file, size, etag),
        )
        return FileRecord(path=file.path, size_bytes=_length(target), sha256=sha256)

    def _learn(self, file: FileRecord, size_bytes: int | None, etag: str | None) -> None:
        """Keep what the first answer said, so that a later pull can tell whether the file is the same."""
        learnt = msgspec.structs.replace(file, size_bytes=size_bytes, etag=etag)
        files = tuple(learnt if one.path == file.path else one for one in self._record.files)
        if files != self._record.files:
            self._record = msgspec.structs.replace(self._record, files=files)
            self._library.begin(self._record)

    def _reuse(self, blob: Path, file: FileRecord, target: Path) -> bool:
        """Link a file of the hub's cache, if its bytes are right."""
        self._watch.note(f"{target.name} is in the Hugging Face cache: checking it")
        if sha256_of(blob) != file.sha256:
            self._watch.note(f"{blob} is damaged: downloading instead")
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(blob.resolve(), target)
        except OSError:  # on another disk
            target.symlink_to(blob.resolve())
        self.reused_bytes += file.size_bytes or 0
        return True


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _finish(record: Record, library: Library, *, verified: bool) -> StoredModel:
    """Read the header. An unreadable model is kept only if its checksum says that it is right."""
    paths = [library.path_of(file) for file in record.files]
    try:
        with open_gguf(paths[0]) as gguf:
            facts = facts_of(gguf)
    except ModelError as error:
        if verified:
            raise ModelError(
                f"{record.name} came as its repository has it, but dure cannot read it: {error.problem}",
                error.cure,
            ) from error
        library.remove(StoredModel(record.name, tuple(paths), 0, record))
        raise ModelError(
            f"{record.name} is no model, and was deleted: {error.problem}", error.cure
        ) from error
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return library.finish(msgspec.structs.replace(record, facts=facts, pulled_at=now))
