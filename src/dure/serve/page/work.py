"""Work on models that the page shows: what it has begun itself, and what other processes have noted.

Knows threads and progress. Refuses to know where models come from: `store.pull` does.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dure.errors import BusyError, DureError, ResourceError, UsageError
from dure.model.store import Library, parse_name
from dure.model.store.names import without_secrets
from dure.model.store.watching import Watcher
from dure.places import shard_directory
from dure.serve.page.sentences import SaidSentence, said
from dure.serve.page.started import StartedCommands
from dure.whole_file import write_whole
from dure.work_notes import WorkNote, WorkWriter, interrupt, is_shown, noted_work, work_facts

__all__ = ["Works"]

log = logging.getLogger(__name__)

_MOST_RUNNING = 2
_DOING = {"pull": "pulling", "quantize": "quantizing", "cut": "cutting", "tune": "tuning"}
_EXAMPLES = "examples.jsonl"
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class _StoppedError(Exception):
    """Ends a pull within its thread."""


class _Pull(Watcher):
    """One model that is being pulled. Called from its own thread, read from the server's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.writer = WorkWriter("pull", without_secrets(name))
        self.is_to_stop = False
        self._done = 0

    @property
    def is_running(self) -> bool:
        return self.writer.note.state == "running"

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:  # noqa: ARG002 (a Watcher)
        self._done = done_bytes
        self.writer.begin("", size_bytes, "bytes", done_bytes)

    def advance(self, n_bytes: int) -> None:
        self._end_if_asked()
        self._done += n_bytes
        self.writer.reach(self._done)

    def note(self, text: str) -> None:
        self._end_if_asked()  # while the network is gone, no byte comes that would
        self.writer.tell(text)

    def _end_if_asked(self) -> None:
        if self.is_to_stop:
            raise _StoppedError


class Works:
    """The work that is shown. tell: gets a sentence when a pull ends, and whether it failed."""

    def __init__(
        self, tell: Callable[[SaidSentence, bool], None] = lambda _said, _failed: None
    ) -> None:
        self._pulls: dict[str, _Pull] = {}
        self._tell = tell
        self._commands = StartedCommands(self._ended)

    def pull(self, name: str) -> dict[str, Any]:
        """Begin to pull a model, and return its work. Raises UsageError for what is no name, BusyError."""
        parsed = parse_name(name)
        self._pulls = {key: one for key, one in self._pulls.items() if is_shown(one.writer.note)}
        running = [one for one in self._pulls.values() if one.is_running]
        if (same := next((one for one in running if one.name == name), None)) is not None:
            return _pull_shown(same)
        if len(running) >= _MOST_RUNNING:
            raise BusyError(f"{len(running)} models are being pulled", "wait, or stop one of them")
        pull_ = _Pull(name)
        self._pulls[pull_.writer.note.id] = pull_

        def pulled() -> None:
            from dure.model.store.pull import pull

            try:
                pull(parsed, Library(), pull_)
                pull_.writer.end("done")
            except _StoppedError:
                pull_.writer.end("stopped")
            except DureError as error:
                pull_.writer.end("failed", error.problem, error.cure)
            except Exception as error:
                log.exception("a bug of ours: pulling %s failed", name)
                pull_.writer.end("failed", f"{type(error).__name__}: {error}")
            self._ended(pull_.writer.note)

        threading.Thread(target=pulled, name=f"pull {name}", daemon=True).start()
        return _pull_shown(pull_)

    def quantize(self, model: Path, target_bpw: float) -> dict[str, Any]:
        """Begin to write a smaller file of a model into the library. Raises as `start` does."""
        words = ("quantize", str(model), "--target-bpw", f"{target_bpw:g}")
        return work_facts(self._commands.start(words, Library().directory))

    def cut(self, model: Path, n_ranks: int) -> dict[str, Any]:
        """Begin to cut a model; the shards are those that `--ranks` finds. Raises as `start` does."""
        out = shard_directory()
        words = ("cut", str(model), "--ranks", str(n_ranks), "--out", str(out))
        return work_facts(self._commands.start(words, out))

    def tune(self, model: Path, name: str, examples: str, epochs: float) -> dict[str, Any]:
        """Begin to tune a model into a folder of the library, or go on. Raises as `start` does.

        examples: in JSONL; they stay in that folder. Raises UsageError for a name that cannot be had, and
        ResourceError.
        """
        folder = _prepared(Library().directory, name, examples.encode())
        words = ("tune", str(model), "--data", _EXAMPLES, "--epochs", f"{epochs:g}", "--gguf")
        return work_facts(self._commands.start((*words, "--out", str(folder)), folder))

    def close(self) -> None:
        """Stop what runs in processes of its own; pulls end with this one."""
        self._commands.close()

    def stop(self, work_id: str) -> bool:
        """Stop work soon; return False if there is none. Raises UsageError for a load."""
        if (own := self._pulls.get(work_id)) is not None:
            own.is_to_stop = True
            return True
        noted = next((one for one in noted_work() if one.id == work_id), None)
        if noted is None or noted.state != "running":
            return False
        if not noted.stop_signal:
            raise UsageError(
                f"process {noted.pid} does more than this, and is not stopped from here",
                "stop it where it was started",
            )
        return interrupt(noted)

    def shown(self) -> list[dict[str, Any]]:
        """Return all as the page reads them, the newest first. Reads files."""
        own = [_pull_shown(one) for one in self._pulls.values() if is_shown(one.writer.note)]
        others = [one for one in noted_work() if one.pid != os.getpid()]
        return [*reversed(own), *map(work_facts, others)]

    def _ended(self, note: WorkNote) -> None:
        facts = {"doing": _DOING.get(note.kind, note.kind), "name": note.name}
        if note.state == "failed":
            facts |= {"reason": note.error, "cure": note.cure}
        self._tell(said(f"work_{note.state}", facts), note.state == "failed")


def _prepared(library: Path, name: str, examples: bytes) -> Path:
    """Return a folder with these examples, which need not be new if it has them already."""
    if not _FOLDER.fullmatch(name):
        raise UsageError(f"the name {name!r}", "use letters, digits, dots, hyphens and underscores")
    folder = library / name
    there = folder / _EXAMPLES
    try:
        if folder.exists() and not (there.exists() and there.read_bytes() == examples):
            raise UsageError(
                f"{name} is there already, made of something else", "give another name"
            )
        write_whole(there, examples)
    except OSError as error:
        raise ResourceError(
            f"{there} cannot be written: {error.strerror}", f"see whether {folder} can be written"
        ) from error
    return folder


def _pull_shown(pull: _Pull) -> dict[str, Any]:
    return {**work_facts(pull.writer.note), "can_stop": pull.is_running and not pull.is_to_stop}
