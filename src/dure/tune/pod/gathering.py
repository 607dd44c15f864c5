"""What travels to a pod: the files of examples, the code of functions, and a base that lies here.

Each has a place below the run's folder there, under the name that it has here. Checks what can be checked
before any of it travels. Refuses to know how it travels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dure.errors import UsageError
from dure.model.gguf import open_gguf
from dure.tune.base import folder as folders
from dure.tune.base import gguf as ggufs
from dure.tune.data.generated import is_generated, writer_named
from dure.tune.data.records import read_records
from dure.tune.pod.job import CODE, GIVEN
from dure.tune.settings import TuneMethod, TuneSettings

__all__ = ["Luggage", "check_data", "luggage_of"]

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")


@dataclass(frozen=True)
class Luggage:
    """What travels. files: where each goes below the run's folder, and where it is here.

    settings: as the pod has them. names: paths there, and what they are called here.
    """

    files: dict[str, Path]
    settings: TuneSettings
    names: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def check_data(settings: TuneSettings) -> int:
    """Read every example of the files; return their number. Raises UsageError that names the line."""
    n = 0
    for name in settings.data:
        if is_generated(name):
            writer_named(name)
        else:
            n += sum(1 for _ in read_records(Path(name)))
    return n


def luggage_of(settings: TuneSettings, *, base_is_here: bool, weights: bool = True) -> Luggage:
    """Return what travels. weights: those of the base too. Raises UsageError."""
    files, names = dict[str, Path](), dict[str, str]()

    def packed(path: Path, place: str) -> str:
        files[f"{GIVEN}/{place}"] = path
        names[f"{GIVEN}/{place}"] = str(path)
        return f"{GIVEN}/{place}"

    data = []
    for number, name in enumerate(settings.data):
        if is_generated(name):
            files |= {f"{CODE}/{place}": path for place, path in _code_of(name)}
            data.append(name)
        else:
            data.append(packed(Path(name), f"data/{number}/{Path(name).name}"))
    moved = replace(settings, data=tuple(data))
    if settings.config is not None:
        moved = replace(moved, config=Path(packed(settings.config, "config/config.json")))
    if settings.chat_template is not None:
        template = packed(settings.chat_template, f"template/{settings.chat_template.name}")
        moved = replace(moved, chat_template=Path(template))
    if base_is_here:
        place = f"{GIVEN}/base/{_name(settings.base)}"
        wanted = weights and settings.method is not TuneMethod.SCRATCH
        files |= {f"{GIVEN}/base/{one}": path for one, path in _base(settings.base, wanted)}
        names[place] = str(settings.base)
        moved = replace(moved, base=Path(place))
    return Luggage(files, moved, names)


def _base(base: Path, weights: bool) -> Iterator[tuple[str, Path]]:
    """Yield the files of a base, each with its place. Raises UsageError if it is none."""
    name = _name(base)
    if ggufs.is_meant(base):
        with open_gguf(base) as gguf:
            parts = [Path(part) for part in gguf.paths]
        yield from ((name if one == base else one.name, one) for one in parts)
        return
    if not folders.is_meant(base):
        raise UsageError(
            f"{base} is no model that can be tuned",
            "name a Hugging Face folder, with config.json and safetensors in it, or a GGUF file",
        )
    for path in sorted(base.iterdir()):
        is_weight = path.name.endswith(_WEIGHTS)
        if path.name.startswith(".") or not path.is_file() or path.suffix in _OTHER_WEIGHTS:
            continue
        if weights or not is_weight:
            yield f"{name}/{path.name}", path


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _code_of(name: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of the package in which a function of --data lies. Raises UsageError."""
    top = name.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None or not (found.origin or found.submodule_search_locations):
        raise UsageError(f"--data {name} has no files that could be copied", "use a file")
    if not found.submodule_search_locations:
        assert found.origin is not None
        yield Path(found.origin).name, Path(found.origin)
        return
    for place in found.submodule_search_locations:
        root = Path(place)
        for path in sorted(root.rglob("*")):
            hidden = any(
                part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts
            )
            if path.is_file() and not hidden:
                yield f"{top}/{path.relative_to(root)}", path
