"""Prepares a choice of types for a model: asks what may change, and measures what is not known yet.

Knows where figures and encoded tensors are kept. Refuses to know commands and machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dure.convert.quantize.choosing import TokenSeconds, TypeProblem, candidates, check_size
from dure.convert.quantize.kept_tensors import KeptTensors
from dure.convert.quantize.llama_types import quantizable
from dure.convert.quantize.output_errors import ErrorTable, Progress, measure_errors
from dure.convert.quantize.swap_files import left_folders, scratch_folder
from dure.convert.quantize.writing import ImportanceFile
from dure.kept_work import KeptWork, work_in
from dure.model.architectures import shape_of
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile, Tensor
from dure.places import cache_directory

__all__ = ["Search", "kept_of_searches"]

_TENSORS, _SWAPS = "tensors", "swaps-"


def _directory() -> Path:
    return cache_directory() / "quantize"


def kept_of_searches() -> list[KeptWork]:
    """Return what the cache keeps of all models: figures, encoded tensors, and what was left behind."""
    directory = _directory()
    return [
        *work_in("tables of a quantizer", directory.glob("*.json")),
        *work_in("quantized tensors", (directory / _TENSORS).glob("*")),
        *work_in("models that a killed quantizer left", left_folders(directory, _SWAPS)),
    ]


@dataclass(frozen=True)
class Search:
    """A model, its importance matrix, and the types that may be chosen."""

    model: GgufFile
    importance: ImportanceFile | None
    allowed: Sequence[str]
    threads: int
    directory: Path

    @classmethod
    def here(
        cls,
        model: GgufFile,
        importance: ImportanceFile | None,
        allowed: Sequence[str],
        threads: int,
    ) -> Search:
        """Return a search that keeps its figures in the cache."""
        return cls(model, importance, allowed, threads, _directory())

    @cached_property
    def key(self) -> str:
        """What the figures depend on."""
        of = self.importance.sha256[:16] if self.importance else "even"
        return f"{self.model.fingerprint[:32]}-{of}"

    @cached_property
    def types(self) -> Mapping[str, Sequence[str]]:
        """By tensor, the types that it may have besides its own. Raises ModelError."""
        importances = self.importance.importance if self.importance else None
        return candidates(self.model, quantizable(self.model), importances, self.allowed)

    @cached_property
    def table(self) -> ErrorTable:
        """What was measured so far."""
        return ErrorTable(self.directory / f"{self.key}.json")

    def measure(self, time_s: float, progress: Progress) -> None:
        """Measure the errors that are not known yet; see `measure_errors`."""
        measure_errors(
            self.model,
            self.importance.importance if self.importance else None,
            self.types,
            self.table,
            threads=self.threads,
            time_s=time_s,
            progress=progress,
        )

    def problem(
        self,
        weights: Mapping[str, float],
        token_s: TokenSeconds | None = None,
        allows: Callable[[Tensor, GgmlType], bool] = lambda *_: True,
    ) -> TypeProblem:
        """Return what can be chosen, with all that was measured; see `TypeProblem`."""
        n_layer = shape_of(self.model).n_layer
        return TypeProblem(self.model, self.types, self.table, weights, n_layer, token_s, allows)

    def check_size(self, size_bytes: float) -> None:
        """Check that some choice has this size; see `check_size`. Raises UsageError."""
        check_size(self.model, self.types, size_bytes)

    @property
    def possible_types(self) -> list[str]:
        """Return the names of all types that some tensor may have, its own too."""
        own = {self.model.tensors[name].type.name for name in self.types}
        return sorted(own.union(*self.types.values()))

    def scratch(self) -> AbstractContextManager[Path]:
        """Make a folder for swaps until a block ends."""
        return scratch_folder(self.directory, _SWAPS)

    def kept(self, file_bytes: int) -> KeptTensors:
        """Return where encoded tensors are kept beside a file of this size."""
        return KeptTensors(self.directory / _TENSORS, reserved_bytes=file_bytes)
