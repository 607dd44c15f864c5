"""Which files of a repository make one model, and which model is meant. Pure.

Knows how quantizations are written in file names and which one most people want.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dure.errors import ModelError, UsageError
from dure.sizes import bytes_text

__all__ = ["PART", "RemoteFile", "Variant", "choose", "preference_of", "tag_of", "variants_of"]

# What is taken if nothing is asked for: small without hurting, then what is nearest to it.
_WANTED = (
    *("Q4_K_M", "Q4_0", "MXFP4", "Q4_K_S", "Q4_1", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q5_0"),
    *("Q6_K", "Q8_0", "BF16", "F16", "F32"),
)
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_TAG = re.compile(
    r"(?:^|[-._/])(?P<tag>(?:UD-)?(?:I?Q\d\w*|TQ\d_\d|B?F16|F32|MXFP4\w*|NVFP4))$", re.IGNORECASE
)
_NO_MODEL = re.compile(r"(mmproj|imatrix|ggml-vocab)", re.IGNORECASE)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its path there, its size, and the SHA-256 the repository states."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Variant:
    """One model of a repository: all its files in order, and its quantization or "" ."""

    files: tuple[RemoteFile, ...]
    tag: str

    @property
    def label(self) -> str:
        """Return what to ask for to get it: the quantization, or the file."""
        return self.tag or self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files, as far as their sizes are known."""
        return sum(file.size_bytes or 0 for file in self.files)


def tag_of(path: str) -> str:
    """Return the quantization that a file's name ends in, in capitals, or ""."""
    part = PART.fullmatch(path)
    stem = part["stem"] if part else re.sub(r"\.gguf$", "", path, flags=re.IGNORECASE)
    if match := _TAG.search(stem):
        return match["tag"].upper()
    folder = stem.rpartition("/")[0]  # as in Q4_K_M/model-00001-of-00003.gguf
    match = _TAG.search(folder)
    return match["tag"].upper() if match else ""


def variants_of(files: Sequence[RemoteFile]) -> list[Variant]:
    """Return the models in a listing, in its order. A split model whose parts are not all there is none."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.path.lower().endswith(".gguf") and not _NO_MODEL.search(file.path.split("/")[-1]):
            part = PART.fullmatch(file.path)
            key = f"{part['stem']}-of-{part['count']}" if part else file.path
            groups.setdefault(key, []).append(file)
    found = [Variant(tuple(group), tag_of(group[0].path)) for group in groups.values()]
    return [variant for variant in found if _is_whole(variant)]


def _is_whole(variant: Variant) -> bool:
    numbers = [PART.fullmatch(file.path) for file in variant.files]
    first = numbers[0]
    if first is None:
        return True
    wanted = range(1, int(first["count"]) + 1)
    return [int(part["number"]) for part in numbers if part] == list(wanted)


def choose(name: str, files: Sequence[RemoteFile], wanted: str | None) -> Variant:
    """Choose the model that is meant by a file, by a quantization, or by nothing.

    Raises UsageError, listing what there is, if nothing or several fit; ModelError if the
    repository has no GGUF at all.
    """
    variants = variants_of(files)
    if not variants:
        raise ModelError(
            f"{name} has no GGUF file",
            "look for a repository of the same model with GGUF in its name",
        )
    if wanted is None:
        found = [variants[0]] if len(variants) == 1 else _by_preference(variants)
    elif wanted.lower().endswith(".gguf"):
        found = [v for v in variants if any(_is_named(file, wanted) for file in v.files)]
    else:
        found = [variant for variant in variants if variant.tag == wanted.upper()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{name} has several", f"name the file, one of {_paths(found)}")
    asked = f"has no {wanted}" if wanted else "has many kinds"
    raise UsageError(f"{name} {asked}", f"add one of {_labels(variants)}")


def _is_named(file: RemoteFile, wanted: str) -> bool:
    return wanted in (file.path, file.path.split("/")[-1])


def preference_of(tag: str) -> int:
    """Return the rank of a quantization among those that people want: 0 comes first."""
    return _WANTED.index(tag) if tag in _WANTED else len(_WANTED)


def _by_preference(variants: Sequence[Variant]) -> list[Variant]:
    best = min(preference_of(variant.tag) for variant in variants)
    return [v for v in variants if preference_of(v.tag) == best] if best < len(_WANTED) else []


def _labels(variants: Sequence[Variant]) -> str:
    return ", ".join(f":{v.label} ({bytes_text(v.size_bytes)})" for v in variants)


def _paths(variants: Sequence[Variant]) -> str:
    return ", ".join(f":{variant.files[0].path}" for variant in variants)
