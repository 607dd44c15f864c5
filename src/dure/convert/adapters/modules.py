"""From modules of transformers and their two factors to changes of llama.cpp's tensors.

Knows, for each architecture, which tensor a module is, in which order its rows lie, and how its experts are
saved: a module each, or all in one parameter. Refuses to know files.
Source: peft 0.21 `ParamWrapper`; llama.cpp `convert_lora_to_gguf.py`, `llama-adapter.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from dure.convert.adapters.base import Base
from dure.convert.adapters.config import AdapterConfig
from dure.convert.adapters.lora import Change, Factors, Floats, per_expert, rotated_pairs
from dure.convert.huggingface.rows import Numbers, TensorRows
from dure.convert.huggingface.safetensors_file import StoredTensor
from dure.errors import ModelError
from dure.model.gguf import TensorSpec
from dure.model.gguf.values import one_line

_LANGUAGE_MODEL = re.compile(r"(model\.)?language_model\.(model\.)?")
_FUSED = re.compile(r"model\.layers\.(?P<layer>\d{1,3})\.mlp\.experts(\.base_layer)*")
_BASE_LAYERS = re.compile(r"(\.base_layer)+$")
_EXPERT = re.compile(
    r"(?P<layer>model\.layers\.\d{1,3}\..+\.experts)\.(?P<number>\d{1,6})\.(?P<part>\w+)"
)


@dataclass(frozen=True)
class _Family:
    """rotated: queries and keys lie in pairs. mixed: gate and up rows of fused experts take turns."""

    rotated: bool = False
    mixed: bool = False


_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(rotated=True),
    "qwen2": _Family(),
    "qwen3": _Family(),
    "qwen3moe": _Family(),
    "gemma3": _Family(),
    "gpt-oss": _Family(mixed=True),
}


@dataclass(frozen=True)
class ModulePair:
    """A module's two factors as stored: a [rank, in], b [out, rank]. module: transformers' name."""

    module: str
    is_embedding: bool
    a: StoredTensor
    b: StoredTensor

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return rows and columns of both. Raises ModelError if one is no matrix."""
        return _shape(self.a), _shape(self.b)

    def read(self) -> Factors:
        """Read both."""
        return Factors(_floats(self.a), _floats(self.b))


def _shape(tensor: StoredTensor) -> tuple[int, int]:
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise ModelError(
            f"the adapter's {one_line(tensor.name)} has the shape {tensor.shape}, no matrix",
            "get the adapter again",
        )
    return tensor.shape[0], tensor.shape[1]


def _floats(tensor: StoredTensor) -> Floats:
    rows = TensorRows(tensor)
    return Numbers(rows).read(0, rows.n_rows)


def changes_of(pairs: Iterable[ModulePair], base: Base, config: AdapterConfig) -> Iterator[Change]:
    """Yield what an adapter's modules change. Raises ModelError if the base cannot be changed so."""
    family = _FAMILIES.get(base.architecture)
    if family is None:
        raise ModelError(
            f"{one_line(base.name)} is of the architecture {one_line(base.architecture)}",
            f"dure converts adapters of {', '.join(_FAMILIES)}",
        )
    experts: dict[str, dict[int, ModulePair]] = {}
    for pair in pairs:
        name = _LANGUAGE_MODEL.sub("model.", pair.module, count=1)
        if fused := _FUSED.fullmatch(name):
            yield from _Fused(pair, base, int(fused["layer"]), config).changes(mixed=family.mixed)
        elif one := _EXPERT.fullmatch(name):
            experts.setdefault(f"{one['layer']}.{one['part']}", {})[int(one["number"])] = pair
        elif pair.is_embedding:
            yield _embedding(pair, base, config)
        else:
            yield _plain(pair, name, base, config, rotated=family.rotated)
    for name, stack in experts.items():
        yield _stacked(stack, base.tensor(_tensor_name(name, base)), config)


def _tensor_name(module: str, base: Base) -> str:
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[base.architecture], base.layers)
    name = names.get_name(f"{module}.weight", (".weight",))
    if name is None:
        raise ModelError(
            f"the adapter changes {one_line(module)}, which llama.cpp's {base.architecture} does not have",
            "name the model that it was trained on with --base",
        )
    return str(name)


def _plain(
    pair: ModulePair, name: str, base: Base, config: AdapterConfig, *, rotated: bool
) -> Change:
    if name == "lm_head" and "output.weight" not in base.tensors:
        raise ModelError(
            f"the adapter changes lm_head, which {one_line(base.name)} shares with its embedding",
            "train it without lm_head",
        )
    target = base.tensor(_tensor_name(name, base))
    (rank, columns), (rows, b_rank) = pair.shapes
    _check(pair, target, (columns, rows), (rank, b_rank))
    read: Callable[[], Factors] = pair.read
    if rotated and name.endswith((".q_proj", ".k_proj")):
        heads = base.heads if name.endswith(".q_proj") else base.kv_heads
        if not heads or rows % (2 * heads):
            raise ModelError(f"{one_line(target.name)} has {rows} rows, which are no {heads} heads")
        read = partial(_rotated, pair, heads)
    return Change(target, rank, config.scale(pair.module, rank), read)


def _rotated(pair: ModulePair, heads: int) -> Factors:
    a, b = pair.read()
    return Factors(a, rotated_pairs(b, heads))


def _embedding(pair: ModulePair, base: Base, config: AdapterConfig) -> Change:
    """Return the change of an embedding, whose rows are tokens: peft has both factors the other way."""
    if "output.weight" not in base.tensors:
        raise ModelError(
            f"the adapter changes the embedding, which {one_line(base.name)} also uses as its output",
            "train it without the embedding, or merge it with peft's `merge_and_unload`",
        )
    target = base.tensor("token_embd.weight")
    (rank, tokens), (columns, b_rank) = pair.shapes
    _check(pair, target, (columns, tokens), (rank, b_rank))
    return Change(target, rank, config.scale(pair.module, rank), partial(_turned, pair))


def _turned(pair: ModulePair) -> Factors:
    a, b = pair.read()
    return Factors(np.ascontiguousarray(b.T), np.ascontiguousarray(a.T))


def _check(
    pair: ModulePair, target: TensorSpec, shape: tuple[int, ...], ranks: tuple[int, int]
) -> None:
    """Check that factors fit a tensor: its columns, its rows (and experts), and each other."""
    if shape != target.shape or ranks[0] != ranks[1] or ranks[0] > max(shape):
        raise ModelError(
            f"the adapter's {one_line(pair.module)} is made for a matrix of {shape} with rank {ranks[0]} "
            f"and {ranks[1]}, and {one_line(target.name)} has the shape {target.shape}",
            "name the model that it was trained on with --base",
        )


def _stacked(stack: Mapping[int, ModulePair], target: TensorSpec, config: AdapterConfig) -> Change:
    """Return the change of experts that are a module each; those without one stay as they are."""
    first = next(iter(stack.values()))
    rank = first.shapes[0][0]
    scales = set()
    n_experts = target.shape[-1] if len(target.shape) == 3 else 0
    for number, pair in stack.items():
        (a_rank, columns), (rows, b_rank) = pair.shapes
        _check(pair, target, (columns, rows, n_experts), (a_rank, b_rank))
        scales.add((a_rank, config.scale(pair.module, a_rank)))
        if number >= n_experts or len(scales) > 1:
            raise ModelError(
                f"the adapter's {one_line(pair.module)} is of no expert, or of another rank or scale than "
                "the others of its layer",
                "merge it with peft's `merge_and_unload`, and import the merged model",
            )
    return Change(target, rank, scales.pop()[1], partial(_read_stack, stack, target, rank))


def _read_stack(stack: Mapping[int, ModulePair], target: TensorSpec, rank: int) -> Factors:
    columns, rows, n_experts = target.shape
    a = np.zeros((n_experts, rank, columns), np.float32)
    b = np.zeros((n_experts, rows, rank), np.float32)
    for number, pair in stack.items():
        a[number], b[number] = pair.read()
    return Factors(a, b)


class _Fused:
    """LoRA on a parameter that holds the matrices of all experts.

    Names do not tell which parameter, shapes do. peft before 0.19 has rows and columns the other way round
    where the parameter is [experts, rows, columns].
    """

    def __init__(self, pair: ModulePair, base: Base, layer: int, config: AdapterConfig) -> None:
        self._pair, self._config = pair, config
        self._gate, self._up, self._down = (
            base.tensor(f"blk.{layer}.ffn_{part}_exps.weight") for part in ("gate", "up", "down")
        )
        if any(len(one.shape) != 3 for one in (self._gate, self._up, self._down)):
            raise ModelError(
                f"{one_line(self._gate.name)} is no stack of experts", "get the base again"
            )
        self._n_embd, self._n_ff, self._n_experts = self._gate.shape

    def changes(self, *, mixed: bool) -> Iterator[Change]:
        """Yield the changes of gate and up, or of down. mixed: as in `_Family`."""
        (a_rows, columns), (rows, b_columns) = self._pair.shapes
        rank, rest = divmod(a_rows, self._n_experts)
        wide, narrow = (self._n_embd, 2 * self._n_ff), (self._n_ff, self._n_embd)
        shape, known = (columns, rows), (wide, narrow)
        turned = not mixed and shape[::-1] in known
        if turned and shape in known:  # a square tells nothing
            turned = self._config.is_before(0, 19)
        shape = shape[::-1] if turned else shape
        if rest or a_rows != b_columns or not rank or shape not in known:
            raise ModelError(
                f"the adapter's {one_line(self._pair.module)} has factors of {self._pair.shapes}, which "
                f"fit no {self._n_experts} experts of {self._n_embd} by {self._n_ff}",
                "name the model that it was trained on with --base",
            )
        parameter = "down_proj" if shape == narrow else "gate_up_proj"
        scale = self._config.scale(f"{_BASE_LAYERS.sub('', self._pair.module)}.{parameter}", rank)
        if shape == narrow:
            yield Change(self._down, rank, scale, partial(self._read, turned, slice(None)))
            return
        halves = (slice(0, None, 2), slice(1, None, 2))
        if not mixed:
            halves = (slice(0, self._n_ff), slice(self._n_ff, None))
        for target, half in zip((self._gate, self._up), halves, strict=True):
            yield Change(target, rank, scale, partial(self._read, turned, half))

    def _read(self, turned: bool, rows: slice) -> Factors:
        a, b = per_expert(*self._pair.read(), self._n_experts)
        if turned:
            a, b = np.ascontiguousarray(b.swapaxes(1, 2)), np.ascontiguousarray(a.swapaxes(1, 2))
        return Factors(a, np.ascontiguousarray(b[:, rows]))
