"""What each type of a tensor costs of a token's time, on each machine, and which types a cut allows. Pure.

A token reads every matrix once, but of a stack of experts only those that are used, and of a table only a
row. Refuses to know how fast machines are, and which types are good.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from types import MappingProxyType

from dure.errors import CutError
from dure.model.architectures import Along, architecture_of, shape_of
from dure.model.cut import CutPlan, plan_cut
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import GgufFile, Tensor

__all__ = ["TypeTimes", "legal_cuts", "read_part", "retyped"]

_TABLES = ("token_embd.weight", "per_layer_token_embd.weight")  # rows of them are looked up
_GRAINS = ("Q4_K", "Q4_0")  # types with blocks of 256 and of 32: one stands for all
_ROW_PARALLEL = (Along.CONTEXT, Along.FFN)


def read_part(model: GgufFile, tensor: Tensor) -> float:
    """Return the part of a tensor that a token reads, on average."""
    if tensor.name in _TABLES:
        is_output = tensor.name == _TABLES[0] and "output.weight" not in model.tensors
        return 1.0 if is_output else 0.0
    if "_exps." in tensor.name and len(tensor.shape) > 2:
        shape = shape_of(model)
        return shape.n_expert_used / shape.n_expert if shape.n_expert else 1.0
    return 1.0


class TypeTimes:
    """The seconds of a token that a tensor takes on each machine if it has a type.

    bytes_per_s: of each machine, by type. plan: how the model is cut over them; None: one machine has all.
    """

    def __init__(
        self,
        model: GgufFile,
        bytes_per_s: Sequence[Mapping[str, float]],
        plan: CutPlan | None = None,
    ) -> None:
        self._model, self._bytes_per_s, self._plan = model, bytes_per_s, plan

    def __call__(self, tensor: Tensor, type_: GgmlType) -> tuple[float, ...]:
        """Return the seconds on each machine; 0 for a type that was not measured."""
        part = read_part(self._model, tensor)
        return tuple(
            part * n_bytes / speeds[type_.name] if type_.name in speeds else 0.0
            for n_bytes, speeds in zip(
                self.read_bytes(tensor, type_), self._bytes_per_s, strict=True
            )
        )

    def read_bytes(self, tensor: Tensor, type_: GgmlType) -> list[int]:
        """Return the bytes of a tensor on each machine, in this type."""
        if self._plan is None:
            return [type_.row_bytes(tensor.shape[0]) * tensor.n_rows]
        sizes = []
        for rank in range(len(self._plan.ranks)):
            row, *rest = self._plan.shape_of(tensor, rank)
            n_rows = 1
            for n in rest:
                n_rows *= n
            sizes.append(-(-row // type_.block_size) * type_.type_size * n_rows)
        return sizes

    def allows(self, tensor: Tensor, type_: GgmlType) -> bool:
        """Return whether the cut lies between blocks of this type."""
        if self._plan is None:
            return True
        rule = self._plan.architecture.rule(tensor.name)
        if rule.axis != 0 or self._plan.span(rule, 0) is None:
            return True
        spans = [self._plan.span(rule, rank) for rank in range(len(self._plan.ranks))]
        return all(span is None or span.start % type_.block_size == 0 for span in spans)


def legal_cuts(model: GgufFile, shares: Sequence[float]) -> list[CutPlan]:
    """Return the cuts over ranks with these shares that some types allow, the freest for types first.

    They differ in the borders of what is cut along rows: blocks of 256 weights stay whole, or of 32.
    Raises CutError if there is none.
    """
    found: list[CutPlan] = []
    for types in _grains(model):
        plan = plan_cut(retyped(model, types), shares)
        if not plan.reencoded and all(plan.ranks != other.ranks for other in found):
            found.append(plan)
    if not found:
        raise CutError(f"no type's blocks fit a cut over {len(shares)} ranks", "use fewer ranks")
    return found


def _grains(model: GgufFile) -> Iterator[Mapping[str, GgmlType]]:
    """Yield types for the matrices that are cut along their rows, of each kind alike."""
    architecture = architecture_of(model)
    kinds = [
        [t for t in model.tensors.values() if architecture.rule(t.name).along is along]
        for along in _ROW_PARALLEL
    ]
    kinds = [[t for t in kind if architecture.rule(t.name).axis == 0] for kind in kinds]
    for names in product(_GRAINS, repeat=len(kinds)):
        types = [type_named(name) for name in names]
        if all(
            tensor.shape[0] % type_.block_size == 0
            for kind, type_ in zip(kinds, types, strict=True)
            for tensor in kind
            if len(tensor.shape) > 1
        ):
            yield {t.name: type_ for kind, type_ in zip(kinds, types, strict=True) for t in kind}


def retyped(model: GgufFile, types: Mapping[str, GgmlType]) -> GgufFile:
    """Return the model as if these tensors had other types; their data cannot be read."""
    view = copy.copy(model)
    view.tensors = MappingProxyType(
        {
            name: replace(tensor, type=types[name])
            if name in types and len(tensor.shape) > 1
            else tensor
            for name, tensor in model.tensors.items()
        }
    )
    return view
