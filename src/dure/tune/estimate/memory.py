"""The memory of a step, by arithmetic: its operations are run on tensors that have shapes and no content.

Every tensor is counted while it lives: weights, what the forward pass keeps, gradients, what comes and
goes. The optimizer's state is added, which is there from the first step on, and on a processor what its
allocator keeps between tensors.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dure.tune.data.rows import row_of
from dure.tune.estimate.estimates import MemoryEstimate
from dure.tune.loop.allocator import give_back
from dure.tune.loop.learner import blank_model
from dure.tune.loop.losses import Arith, RowBatch, RowLoss, rounded
from dure.tune.loop.optimizers import optimizer_of
from dure.tune.optimizer.kept import state_bytes
from dure.tune.settings import TuneSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Shapes", "memory_of", "program_bytes", "shapes_of"]

_SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
_WORKSPACE = 64 << 20  # what the libraries keep for matrices of a usual size


@dataclass(frozen=True)
class Shapes:
    """The rows of one pass. rows; tokens of each; counted: tokens whose loss counts, in all rows."""

    rows: int
    tokens: int
    counted: int


def program_bytes(settings: TuneSettings, arithmetic: Arith) -> int:
    """Return the memory of this process without a model: a very small one learns once, so that all
    libraries are there, with what they keep.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama", **_SMALL)
    model = blank_model(config, settings, arithmetic)
    learned = np.ones(256, np.float32)
    row = row_of([(np.zeros(256, np.int32), learned * (np.arange(256) > 0))] * 2)
    loss, optimizer = RowLoss(model, arithmetic, pack=True), optimizer_of(model, settings)
    loss.of(loss.batch([row])).backward()
    optimizer.step()
    give_back()
    return _WORKSPACE + int(psutil.Process(os.getpid()).memory_info().rss)


def memory_of(
    config: PretrainedConfig,
    settings: TuneSettings,
    arithmetic: Arith,
    shapes: Shapes,
    program: int,
) -> MemoryEstimate:
    """Return the memory of a run. program: of the process without the model."""
    here = Arith(torch.device("cpu"), arithmetic.dtype)  # where the fake tensors say that they are
    with torch.device("meta"):
        model = blank_model(config, settings, here)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _place(model)
        parameters = list(model.parameters())
        learned = [p for p in parameters if p.requires_grad]
        held = {s._cdata: s.nbytes() for s in map(_storage, [*parameters, *model.buffers()])}
        loss = RowLoss(model, here, pack=True, is_plain=_is_plain(config))
        with _Living(held) as living:
            for _ in range(min(2, settings.accumulate)):
                loss.of(_batch(shapes)).backward()
    return MemoryEstimate(
        weights=sum(p.numel() for p in parameters),
        learned=sum(p.numel() for p in learned),
        weight_bytes=sum(held.values()),
        pass_bytes=living.peak,
        state_bytes=sum(state_bytes(p.shape, p.dtype, settings.state) for p in learned),
        program=program,
    )


def _place(model: nn.Module) -> None:
    """Let all tensors of a model on the meta device say that they are on the processor."""
    placed: dict[int, Tensor] = {}  # a tied weight is one

    def empty(tensor: Tensor) -> Tensor:
        found = placed.get(id(tensor))
        if found is None:
            found = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                found = nn.Parameter(found, requires_grad=tensor.requires_grad)
            placed[id(tensor)] = found
        return found

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = empty(tensor)


def _is_plain(config: Any) -> bool:
    caps = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    return not any(getattr(config, name, None) for name in caps)


def _batch(shapes: Shapes) -> RowBatch:
    ids = torch.zeros(shapes.rows, shapes.tokens, dtype=torch.int64)
    counted = torch.zeros(shapes.counted, dtype=torch.int64)
    mask = torch.zeros(shapes.rows, 1, shapes.tokens, shapes.tokens, dtype=torch.bool)
    return RowBatch(ids, ids, counted, counted, torch.zeros(shapes.counted), mask)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


class _Living(TorchDispatchMode):  # type: ignore[misc]  # torch is not followed
    """Counts the bytes of tensors that are made in its block, while they live. held: not counted."""

    def __init__(self, held: dict[int, int]) -> None:
        super().__init__()
        self._known, self._now, self.peak = set(held), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it makes."""
        if func is torch.ops.aten._grouped_mm.default:
            made = _grouped_product(*args, **(kwargs or {}))
        else:
            made = func(*args, **(kwargs or {}))
        for tensor in _tensors_in(made):
            self._count(_storage(tensor))
        return made

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _grouped_product(
    a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """Return a tensor for the products of groups, as experts have them: torch's own refuses float32 if it
    has no content.

    Each of a and b is a matrix, whose rows or columns are cut at offs, or has one for each group.
    """
    if a.dim() == b.dim() == 2:
        assert offs is not None
        return a.new_empty(len(offs), a.shape[0], b.shape[1])
    return a.new_empty(*(a.shape[:1] if a.dim() == b.dim() else ()), a.shape[-2], b.shape[-1])


def _tensors_in(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, list | tuple):
        for one in made:
            yield from _tensors_in(one)


def shapes_of(rows: Any, settings: TuneSettings) -> Shapes:
    """Return the shapes of the largest pass among rows."""
    longest = max(len(row) for row in rows)
    counted = max(int(np.count_nonzero(row.weights)) for row in rows)
    n = min(settings.batch, len(rows))
    return Shapes(n, rounded(longest), rounded(n * counted))
