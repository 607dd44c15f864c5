"""Chooses a type for every tensor of a model: the smallest error within a size, and within times.

Knows which types a tensor may have, and adds up what each costs. Refuses to know how errors and times were
measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dure.convert.quantize.encoding import Importances
from dure.convert.quantize.output_errors import ErrorTable
from dure.convert.quantize.solver import Option, TooTightError, solve
from dure.errors import UsageError
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import GgufFile, Tensor
from dure.sizes import compared

__all__ = [
    "CANDIDATES",
    "TokenSeconds",
    "TypeChoice",
    "TypeProblem",
    "bits_per_weight",
    "candidates",
    "check_size",
    "group_of",
]

CANDIDATES = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"),
)
"""What is tried. llama.cpp's other types are for models that were trained in them."""

_WANT_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
_STATES = re.compile(r"\.ssm_(?!in\.|out\.|x\.)")  # a few rows that steer a recurrence
_STATES_LEAST_BITS = 8.0
_LAYER_PARTS = 3
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_ALIGNMENT = 32
_LARGE_BLOCK = 256  # of all types below 4 bits

TokenSeconds = Callable[[Tensor, GgmlType], Sequence[float]]
"""What a tensor costs of a token's time if it has a type, on each machine."""


def _bits(type_: GgmlType) -> float:
    return 8 * type_.type_size / type_.block_size


def candidates(
    model: GgufFile,
    quantizable: Iterable[str],
    importances: Importances | None,
    allowed: Sequence[str] = CANDIDATES,
) -> dict[str, tuple[str, ...]]:
    """Return the types that each tensor may have besides its own: smaller ones that its rows can have."""
    types = [type_named(name) for name in allowed]
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(quantizable):
        tensor = model.tensors[name]
        is_weighed = importances is not None and importances.of(name) is not None
        found[name] = tuple(
            type_.name
            for type_ in types
            if tensor.shape[0] % type_.block_size == 0
            and _bits(type_) < _bits(tensor.type)
            and (is_weighed or type_.name not in _WANT_IMPORTANCE)
            and not (_STATES.search(name) and _bits(type_) < _STATES_LEAST_BITS)
        )
    return {name: names for name, names in found.items() if names}


def group_of(name: str, n_layer: int) -> str:
    """Return what a tensor is alike with: the same kind of tensor in a third of the layers."""
    match = _LAYER.fullmatch(name)
    if not match:
        return name.removesuffix(".weight")
    part = min(_LAYER_PARTS - 1, int(match[1]) * _LAYER_PARTS // max(1, n_layer))
    return f"{match[2]} {part + 1}/{_LAYER_PARTS}"


def bits_per_weight(tensors: Iterable[tuple[Tensor, GgmlType]]) -> float:
    """Return the mean bits of a weight, of all tensors with these types."""
    n_bytes, n = 0, 0
    for tensor, type_ in tensors:
        n_bytes += type_.row_bytes(tensor.shape[0]) * tensor.n_rows
        n += tensor.n_elements
    return 8 * n_bytes / n


@dataclass(frozen=True)
class TypeChoice:
    """The types of the tensors that may change, and what that costs.

    error: as the solver sees it. size_bytes: of all tensors. token_s: on each machine, of these tensors.
    """

    types: Mapping[str, GgmlType]
    error: float
    size_bytes: int
    bits_per_weight: float
    token_s: tuple[float, ...] = ()
    gap: float = 0.0

    @property
    def counted(self) -> dict[str, int]:
        """Return how many tensors have each type, the most frequent first."""
        return dict(Counter(type_.name for type_ in self.types.values()).most_common())


class TypeProblem:
    """What can be chosen for a model, and what it costs.

    types: by tensor, those that it may have besides its own. weights: by group, how much an error of it
    counts; 1 if it is not there. token_s: see `TokenSeconds`; None: time does not count. allows: whether
    the cut over machines allows a tensor this type.
    """

    def __init__(
        self,
        model: GgufFile,
        types: Mapping[str, Sequence[str]],
        table: ErrorTable,
        weights: Mapping[str, float],
        n_layer: int,
        token_s: TokenSeconds | None = None,
        allows: Callable[[Tensor, GgmlType], bool] = lambda *_: True,
    ) -> None:
        self._model, self._types, self._table, self._allows = model, types, table, allows
        self._weights, self._n_layer, self._token_s = weights, n_layer, token_s
        self._items = {name: self._options(name, names) for name, names in types.items()}
        others = (t for t in model.tensors.values() if t.name not in types)
        self._fixed_bytes = sum(_padded(tensor, tensor.type) for tensor in others)

    def bytes_at(self, bits: float) -> int:
        """Return the size of all tensors at this mean number of bits a weight."""
        return int(bits * sum(t.n_elements for t in self._model.tensors.values()) / 8)

    @property
    def size_range(self) -> tuple[int, int]:
        """Return the smallest and the largest size of all tensors."""
        sizes = [[one.takes[0] for one in options] for options in self._items.values()]
        least, most = sum(map(min, sizes)), sum(map(max, sizes))
        return self._fixed_bytes + int(least), self._fixed_bytes + int(most)

    @property
    def quickest_s(self) -> float:
        """Return the seconds of a token with the quickest types, on the machine that then is slowest."""
        times = [
            sum(min(one.takes[1 + i] for one in options) for options in self._items.values())
            for i in range(self._n_times)
        ]
        return max(times, default=0.0)

    def token_s(self, types: Mapping[str, GgmlType]) -> tuple[float, ...]:
        """Return the seconds of a token on each machine, of what may change, with these types."""
        if self._token_s is None:
            return ()
        tensors = self._model.tensors
        each = [self._token_s(tensors[name], types[name]) for name in self._items]
        return tuple(map(sum, zip(*each, strict=True)))

    def choose(self, size_bytes: float = float("inf"), token_s: Sequence[float] = ()) -> TypeChoice:
        """Return the best choice within a size of all tensors, and within times of these tensors.

        Raises UsageError if there is none.
        """
        try:
            found = solve(self._items, (size_bytes - self._fixed_bytes, *token_s))
        except TooTightError as error:
            raise self._too_tight(error, size_bytes, token_s) from None
        types = {name: type_named(option.name) for name, option in found.chosen.items()}
        all_types = [(t, types.get(t.name, t.type)) for t in self._model.tensors.values()]
        return TypeChoice(
            types,
            found.cost,
            sum(_padded(tensor, type_) for tensor, type_ in all_types),
            bits_per_weight(all_types),
            tuple(found.taken(1 + i) for i in range(self._n_times)),
            found.gap,
        )

    @property
    def _n_times(self) -> int:
        return len(next(iter(self._items.values()))[0].takes) - 1 if self._items else 0

    def _options(self, name: str, names: Sequence[str]) -> tuple[Option, ...]:
        tensor = self._model.tensors[name]
        weight = self._weights.get(group_of(name, self._n_layer), 1.0)
        errors = {tensor.type.name: 0.0}
        for one in names:
            error = self._table.error(name, one)
            if error is not None:
                errors[one] = weight * error
        legal = {n: e for n, e in errors.items() if self._allows(tensor, type_named(n))}
        return tuple(
            self._option(tensor, type_named(one), error) for one, error in (legal or errors).items()
        )

    def _option(self, tensor: Tensor, type_: GgmlType, cost: float) -> Option:
        times = self._token_s(tensor, type_) if self._token_s else ()
        return Option(type_.name, cost, (_padded(tensor, type_), *times))

    def _too_tight(
        self, error: TooTightError, size_bytes: float, token_s: Sequence[float]
    ) -> UsageError:
        if error.limit == 0:
            least = self._fixed_bytes + error.least
            return _too_small(self._model, self._types, least, size_bytes)
        if error.limit is None:
            return UsageError(
                "no choice of types has this size and this speed at once", "ask for less of one"
            )
        wanted_s = token_s[error.limit - 1]
        return UsageError(
            f"the quickest types take {error.least * 1e3:.1f} ms of a token to read, and "
            f"{wanted_s * 1e3:.1f} ms are left for it",
            "ask for fewer tokens per second, or use more machines",
        )


def check_size(model: GgufFile, types: Mapping[str, Sequence[str]], size_bytes: float) -> None:
    """Check that some choice has this size, before anything is measured. types: see `TypeProblem`.

    Raises UsageError.
    """
    least = sum(
        min(_padded(tensor, one) for one in (tensor.type, *map(type_named, types.get(name, ()))))
        for name, tensor in model.tensors.items()
    )
    if least > size_bytes:
        raise _too_small(model, types, least, size_bytes)


def _too_small(
    model: GgufFile, types: Mapping[str, Sequence[str]], least: float, size_bytes: float
) -> UsageError:
    """Return what to say of a size that no choice has; the cure is what would give smaller types."""
    ragged = Counter(model.tensors[name].shape[0] for name in types)
    ragged = Counter({n: count for n, count in ragged.items() if n % _LARGE_BLOCK})
    cure = "ask for more"
    if ragged:
        n, count = ragged.most_common(1)[0]
        cure += (
            f": in {count} of {len(types)} tensors rows have {n} weights, no multiple of {_LARGE_BLOCK}, "
            "which types below 4 bits need"
        )
    elif not any(_WANT_IMPORTANCE.intersection(names) for names in types.values()):
        cure += ", or give an importance matrix (--imatrix), which smaller types need"
    has, wanted = compared(least, size_bytes)
    return UsageError(f"the smallest types make it {has}, and {wanted} is asked", cure)


def _padded(tensor: Tensor, type_: GgmlType) -> int:
    size = type_.row_bytes(tensor.shape[0]) * tensor.n_rows
    return -(-size // _ALIGNMENT) * _ALIGNMENT
