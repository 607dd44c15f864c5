"""Asks llama.cpp's quantizer which type each tensor gets in one of its mixtures, without quantizing.

    python -m dure.convert.quantize.llama_types MODEL MIXTURES 0|1

It is asked in a process of its own, since it aborts on some bad files, by a dry run that reads the header
alone; its answer is what it logs. Source: llama.cpp `llama-quant.cpp`.
Refuses to encode: `encoding` does that, to the same bytes.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import msgspec

from dure.errors import ModelError, UsageError
from dure.model.ggml import GgmlType, needs_importance, type_named
from dure.model.gguf import GgufFile

__all__ = ["LlamaTypes", "Mixture", "file_types", "llama_types", "mixture_named", "quantizable"]

_TIMEOUT_S = 300.0
_PREFIX = "LLAMA_FTYPE_MOSTLY_"
_TENSOR = re.compile(r"^\[ *\d+/ *\d+\] (?P<name>\S+) +- \[")
_TYPE = re.compile(r"-> *[\d.]+ MiB \((?P<type>\w+)\)")
_FELL_BACK = re.compile(
    r"^warning: (?P<name>\S+) +- ncols +\d+ not divisible .*required for type +(?P<type>\w+)\)"
)


class Mixture(msgspec.Struct, frozen=True):
    """What llama.cpp's quantizer is asked for.

    name: as in Q4_K_M. pure: every tensor gets the mixture's main type. output, embedding: types of the
    output matrix and of the table of embeddings.
    """

    name: str
    pure: bool = False
    output: str | None = None
    embedding: str | None = None


@dataclass(frozen=True)
class LlamaTypes:
    """What each tensor gets that changes. fell_back: the type that rows of this length cannot have."""

    types: Mapping[str, GgmlType]
    fell_back: Mapping[str, str]


class _Answer(msgspec.Struct):
    types: dict[str, str]
    fell_back: dict[str, str]


@cache
def file_types() -> Mapping[str, int]:
    """Return llama.cpp's mixtures by name: the numbers that `general.file_type` has."""
    import llama_cpp.llama_cpp as bindings

    found = {
        name.removeprefix(_PREFIX): value
        for name, value in vars(bindings).items()
        if name.startswith(_PREFIX) and isinstance(value, int)
    }
    return {"F32": bindings.LLAMA_FTYPE_ALL_F32, **found}


def mixture_named(name: str) -> str:
    """Return a mixture's name as llama.cpp writes it. Raises UsageError if it has none like it."""
    if name.upper() not in file_types():
        raise UsageError(f"--type {name}", f"use one of {', '.join(file_types())}")
    return name.upper()


def llama_types(model: GgufFile, mixture: Mixture, *, has_importances: bool) -> LlamaTypes:
    """Return the type of each tensor that a mixture changes.

    Raises ModelError if llama.cpp refuses, or a type needs an importance matrix and there is none.
    """
    found = _asked(model, [mixture], has_importances=has_importances)[0]
    needing = {one.name for one in found.types.values() if needs_importance(one)}
    if needing and not has_importances:
        raise ModelError(
            f"{mixture.name} has {', '.join(sorted(needing))}, which cannot be made without an importance "
            "matrix",
            "make one with `dure imatrix`, or use Q4_K_M",
        )
    return found


def quantizable(model: GgufFile) -> frozenset[str]:
    """Return the tensors that llama.cpp quantizes at all: no norms, no routers, no small states.

    Raises ModelError if llama.cpp refuses the model.
    """
    both = [Mixture(kind, pure=True) for kind in ("F16", "F32")]  # one of them changes any type
    answers = _asked(model, both, has_importances=False)
    return frozenset(name for answer in answers for name in answer.types)


def _asked(
    model: GgufFile, mixtures: Sequence[Mixture], *, has_importances: bool
) -> list[LlamaTypes]:
    name, wanted = model.paths[0].name, "/".join(one.name for one in mixtures)
    command = [
        *(sys.executable, "-m", "dure.convert.quantize.llama_types", str(model.paths[0])),
        *(msgspec.json.encode(mixtures).decode(), str(int(has_importances))),
    ]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason"]
        raise ModelError(f"{name}: llama.cpp's quantizer refuses to make {wanted} of it: {last[0]}")
    answers = msgspec.json.decode(done.stdout, type=list[_Answer])
    if any(tensor not in model.tensors for answer in answers for tensor in answer.types):
        raise ModelError(f"{name} has tensors with blanks in their names", "get the file again")
    return [
        LlamaTypes(
            {tensor: type_named(one) for tensor, one in answer.types.items()},
            {tensor: one.upper() for tensor, one in answer.fell_back.items()},
        )
        for answer in answers
    ]


class _Log:
    """Reads what llama.cpp logs, line by line."""

    def __init__(self) -> None:
        self.answer = _Answer({}, {})
        self.errors: list[str] = []
        self._line = b""

    def take(self, level: int, text: bytes) -> None:
        if level == _LEVEL_ERROR:
            self.errors.append(text.decode(errors="replace").strip())
        *lines, self._line = (self._line + text).split(b"\n")
        for line in lines:
            self._read(line.decode(errors="replace"))

    def _read(self, line: str) -> None:
        if fell_back := _FELL_BACK.match(line):
            self.answer.fell_back[fell_back["name"]] = fell_back["type"]
        tensor, changed = _TENSOR.match(line), _TYPE.search(line)
        if tensor and changed:
            self.answer.types[tensor["name"]] = changed["type"]


_LEVEL_ERROR = 4
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def _ask(path: str, mixture: Mixture, *, has_importances: bool) -> _Answer:
    import llama_cpp.llama_cpp as bindings

    log = _Log()
    callback = _LogCallback(lambda level, text, _: log.take(level, text or b""))
    bindings.llama_log_set(callback, None)
    params = bindings.llama_model_quantize_default_params()
    params.ftype, params.pure = file_types()[mixture.name], mixture.pure
    params.dry_run, params.nthread = True, 1
    if mixture.output:
        params.output_tensor_type = type_named(mixture.output).id
    if mixture.embedding:
        params.token_embedding_type = type_named(mixture.embedding).id
    if has_importances:  # that there are some is all that a dry run looks at
        entries = (bindings.llama_model_imatrix_data * 2)()
        entries[0].name, entries[0].size = b"-", 1
        entries[0].data = (ctypes.c_float * 1)(1.0)
        params.imatrix = entries
    if bindings.llama_model_quantize(path.encode(), b"", ctypes.byref(params)) != 0:
        sys.exit("; ".join(log.errors) or "no reason")
    return log.answer


def main() -> None:
    """Ask about the file and mixtures of the command line; the answers go to stdout as JSON."""
    path, mixtures, has_importances = sys.argv[1:]
    answers = [
        _ask(path, one, has_importances=bool(int(has_importances)))
        for one in msgspec.json.decode(mixtures, type=list[Mixture])
    ]
    sys.stdout.write(msgspec.json.encode(answers).decode() + "\n")


if __name__ == "__main__":
    main()
