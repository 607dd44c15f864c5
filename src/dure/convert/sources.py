"""What can be imported: each kind of source, how it is recognized, and how it is opened.

Refuses to know what is in a source, and where a model goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dure.convert import adapters, distributed_llama, huggingface
from dure.convert.model import ConvertedModel
from dure.errors import UsageError
from dure.model.ggml import GgmlType
from dure.model.gguf.values import one_line

__all__ = ["SOURCES", "Asked", "ImportSource", "source_of"]


@dataclass(frozen=True)
class Asked:
    """What may be asked of an import. Not every kind of source has all of it.

    type: of the matrices, the source's own for None. tokenizer: a file that is not beside the model. base:
    the model that an adapter belongs to. merge: write that model with the adapter in it.
    """

    type: GgmlType | None = None
    tokenizer: Path | None = None
    base: Path | None = None
    merge: bool = False

    def check(self, path: Path, *options: str) -> None:
        """Check that no other options than these were given. Raises UsageError."""
        given = {
            "--type": self.type is not None,
            "--tokenizer": self.tokenizer is not None,
            "--base": self.base is not None,
            "--merge": self.merge,
        }
        for option, is_given in given.items():
            if is_given and option not in options:
                raise UsageError(
                    f"{option} means nothing for {one_line(path.name)}", f"leave out {option}"
                )


@dataclass(frozen=True)
class ImportSource:
    """A kind of source.

    kind: as people call it, with an article. is_meant: whether a path is one. opened: yields the model to
    be written. name: what to call the model.
    """

    kind: str
    is_meant: Callable[[Path], bool]
    opened: Callable[[Path, Asked], AbstractContextManager[ConvertedModel]]
    name: Callable[[Path], str]


def _folder(path: Path, asked: Asked) -> AbstractContextManager[ConvertedModel]:
    asked.check(path, "--type")
    return huggingface.convert_folder(path, asked.type)


@contextmanager
def _pair(path: Path, asked: Asked) -> Iterator[ConvertedModel]:
    asked.check(path, "--tokenizer")
    yield distributed_llama.read_pair(path, asked.tokenizer)


@contextmanager
def _adapter(path: Path, asked: Asked) -> Iterator[ConvertedModel]:
    asked.check(path, "--base", "--merge", "--tokenizer", *(["--type"] if asked.merge else []))
    if asked.base is None:
        raise UsageError(
            f"{one_line(path.name)} is an adapter, and every model has its tensors in another order",
            "name the model that it was trained on with --base",
        )
    with _base(asked.base, asked) as model:
        base = adapters.base_of(model)
        with adapters.opened_adapter(path, base) as adapter:
            yield (
                adapters.merged_model(adapter, model)
                if asked.merge
                else adapters.adapter_model(adapter, base)
            )


def _base(path: Path, asked: Asked) -> AbstractContextManager[ConvertedModel]:
    within = Asked(type=asked.type, tokenizer=asked.tokenizer)
    for source in SOURCES:
        if source.is_meant(path):
            return source.opened(path, within)
    within.check(path)
    return adapters.gguf_model(path)


SOURCES = (
    ImportSource(
        "an adapter's folder (with adapter_config.json)",
        adapters.is_adapter,
        _adapter,
        lambda path: path.resolve().name,
    ),
    ImportSource(
        "a Hugging Face folder (with config.json)",
        huggingface.is_folder,
        _folder,
        huggingface.name_of,
    ),
    ImportSource(
        "a model of Distributed Llama (.m)",
        distributed_llama.is_model,
        _pair,
        distributed_llama.name_of,
    ),
)


def source_of(path: Path) -> ImportSource:
    """Return the kind of source that a path is. Raises UsageError if it is none."""
    if not path.exists():
        raise UsageError(f"{one_line(str(path))} does not exist", "check the name")
    for source in SOURCES:
        if source.is_meant(path):
            return source
    kinds = " or ".join(source.kind for source in SOURCES)
    raise UsageError(f"{one_line(str(path))} is nothing that dure imports", f"name {kinds}")
