"""The model of a run as its processes share it: a copy in each, or divided among them.

What is small learns as a copy in each process, and gradients are summed (DDP). All weights of a model are
divided (FSDP2): each process has its part of the weights, the gradients and the optimizer's state, and
layers come together while they compute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dure.errors import UsageError
from dure.tune.data.rows import Row, batches_of
from dure.tune.loop.learner import Learner
from dure.tune.loop.losses import RowBatch, RowLoss
from dure.tune.peers.group import Peers
from dure.tune.settings import TuneMethod, TuneSettings

__all__ = ["SharedModel", "is_divided", "passes_of", "shared_model"]

_NO_ROW_TOKENS = 16


class SharedModel:
    """A model that one process has alone. learned: its weights that change, by name.

    factor: by which a loss is multiplied, since gradients become the mean over the processes.
    """

    factor = 1

    def __init__(self, learner: Learner, loss: RowLoss) -> None:
        self._model, self.loss = learner.model, loss
        self.learned: Mapping[str, nn.Parameter] = learner.learned

    def of(self, batch: RowBatch) -> Tensor:
        """Return the loss of rows, as RowLoss does."""
        return self.loss.of(batch)

    def passing(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context of one pass of a step, forward and backward."""
        del is_last
        return nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let losses be computed, and nothing be learned."""
        self._model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._model.train()

    def whole(self) -> dict[str, Tensor]:
        """Return the weights that change, whole, in the first process; every process must ask."""
        return dict(self.learned)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the weights that change. Raises KeyError if one is missing."""
        with torch.no_grad():
            for name, weight in self.learned.items():
                weight.copy_(weights[name])


class _CopiedModel(SharedModel):
    """A copy in each process; gradients are summed over all of them in the last pass of a step."""

    def __init__(self, learner: Learner, loss: RowLoss, peers: Peers) -> None:
        super().__init__(learner, loss)
        self.factor = peers.n
        _, has_inner = _layers(learner.model)
        self._module = nn.parallel.DistributedDataParallel(
            _LossModule(learner.model, loss), find_unused_parameters=has_inner
        )

    def of(self, batch: RowBatch) -> Tensor:
        found: Tensor = self._module(batch) if torch.is_grad_enabled() else self.loss.of(batch)
        return found

    def passing(self, *, is_last: bool) -> AbstractContextManager[Any]:
        no_sync: AbstractContextManager[Any] = self._module.no_sync()
        return nullcontext() if is_last else no_sync


class _DividedModel(SharedModel):
    """A part in each process. keeps: layers stay together between a pass forward and backward."""

    def __init__(self, learner: Learner, loss: RowLoss, peers: Peers, *, keeps: bool) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.factor, self._peers, self._keeps = peers.n, peers, keeps
        layers, has_inner = _layers(learner.model)
        if has_inner:
            raise UsageError(
                "this model's layers choose among modules of their own, so processes would learn others",
                "use --lora, or one GPU",
            )
        device = loss.device.type
        mesh = init_device_mesh(device, (peers.n,))
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=not keeps)
        self._module: Any = fully_shard(_LossModule(learner.model, loss), mesh=mesh)
        super().__init__(learner, loss)

    def of(self, batch: RowBatch) -> Tensor:
        found: Tensor = self._module(batch)
        return found

    @contextmanager
    def passing(self, *, is_last: bool) -> Iterator[None]:
        if (
            self._keeps
        ):  # gradients are whole until the last pass, and weights come together once a step
            self._module.set_requires_gradient_sync(is_last)
            self._module.set_reshard_after_backward(is_last)
        yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        from torch.distributed.fsdp import FSDPModule

        with super().evaluating():
            yield
        for module in self._module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole(self) -> dict[str, Tensor]:
        found = {}
        for name, weight in self.learned.items():
            tensor = weight.detach().full_tensor()
            if self._peers.is_first:
                found[name] = tensor.cpu()
        return found

    def load(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.learned.items():
                parts = weights[name].chunk(self._peers.n)
                if self._peers.number < len(parts):
                    weight.to_local().copy_(parts[self._peers.number])


class _LossModule(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The loss as a module: what wraps a model must see all of its passes as calls of one."""

    def __init__(self, model: nn.Module, loss: RowLoss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: RowBatch) -> Tensor:
        """Return the loss of rows."""
        return self._loss.of(batch)


def is_divided(settings: TuneSettings, n_processes: int) -> bool:
    """Return whether a model is divided among processes."""
    return n_processes > 1 and settings.method is not TuneMethod.LORA


def shared_model(
    learner: Learner, loss: RowLoss, peers: Peers, settings: TuneSettings
) -> SharedModel:
    """Return a model as the processes of a run share it; from here on it computes where loss says."""
    if peers.n == 1:
        return SharedModel(learner, loss)
    if is_divided(settings, peers.n):
        return _DividedModel(learner, loss, peers, keeps=not settings.checkpointing)
    return _CopiedModel(learner, loss, peers)


def passes_of(rows: Sequence[Row], size: int, peers: Peers) -> list[Sequence[Row]]:
    """Return this process's rows in the passes of a step, as many in each process.

    A process with fewer rows gets some without weight: all compute together.
    """
    n_passes = math.ceil(math.ceil(len(rows) / peers.n) / size)
    passes = list(batches_of(rows[peers.number :: peers.n], size))
    while len(passes) < n_passes:
        passes.append([_without_weight(rows[0])])
    return passes


def _without_weight(row: Row) -> Row:
    few = slice(0, _NO_ROW_TOKENS)
    return replace(
        row, ids=row.ids[few], weights=0 * row.weights[few], positions=row.positions[few]
    )


def _layers(model: nn.Module) -> tuple[list[nn.Module], bool]:
    """Return the layers of a model, and whether there are lists of modules in them too, as of experts.

    Layers lie in lists that lie in no other list.
    """
    lists = {name: one for name, one in model.named_modules() if isinstance(one, nn.ModuleList)}
    outer = [
        one
        for name, one in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    ]
    return [layer for one in outer for layer in one], len(outer) < len(lists)
