"""The loss of rows: the weighted sum of the cross entropies of their tokens, in nats.

Logits are computed for tokens that count only, a few at a time, and never all at once: those of a large
vocabulary would take more memory than the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dure.tune.data.rows import Row

__all__ = ["Arith", "RowBatch", "RowLoss", "batch_of", "keeps_apart", "rounded"]

LOGITS_AT_ONCE = 1 << 24
ROUNDED_TO = 64  # tokens: libraries prepare, and keep, something for each new shape


@dataclass(frozen=True)
class Arith:
    """Where and in what a model computes."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model runs."""
        if self.dtype == torch.float32:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.autocast(self.device.type, dtype=self.dtype)
        return context


@dataclass(frozen=True)
class RowBatch:
    """Rows as tensors. ids, positions: int64 [rows, tokens]. mask: as ids, for rows alone.

    picked: int64 [counted], where in the rows, one after the other, a token is predicted that counts.
    targets: int64 [counted], these tokens. weights: float32 [counted]. Filled up with a weight of 0.
    """

    ids: Tensor
    positions: Tensor
    picked: Tensor
    targets: Tensor
    weights: Tensor
    mask: Tensor | None


def batch_of(rows: Sequence[Row], device: torch.device, *, pack: bool) -> RowBatch:
    """Return rows as tensors, filled up to a length that comes again.

    pack: examples of a row are kept apart by their positions; without it, each row is one example, and a
    mask says what is filled up.
    """
    longest = rounded(max(len(row) for row in rows))
    ids = np.zeros((len(rows), longest), np.int64)
    positions = np.zeros_like(ids)
    weights = np.zeros((len(rows), longest), np.float32)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        n = len(row)
        ids[i, :n], weights[i, :n], mask[i, :n] = row.ids, row.weights, 1
        positions[i, :n], positions[i, n:] = row.positions, np.arange(longest - n)
    counted = np.flatnonzero(weights)  # never the first of a row
    n = rounded(len(counted))
    picked, targets = np.zeros(n, np.int64), np.zeros(n, np.int64)
    weighed = np.zeros(n, np.float32)
    picked[: len(counted)] = counted - 1
    targets[: len(counted)] = ids.ravel()[counted]
    weighed[: len(counted)] = weights.ravel()[counted]

    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(values).to(device)

    return RowBatch(
        tensor(ids),
        tensor(positions),
        tensor(picked),
        tensor(targets),
        tensor(weighed),
        tensor(mask) if not pack and bool((mask == 0).any()) else None,
    )


def rounded(n: int) -> int:
    """Return the length to which rows of so many tokens are filled up."""
    return -(-n // ROUNDED_TO) * ROUNDED_TO


class RowLoss:
    """Computes losses of one model. pack: whether a row may hold several examples.

    is_plain: whether logits are a product with the output matrix and nothing more; None: it is tried.
    """

    def __init__(
        self, model: nn.Module, arithmetic: Arith, *, pack: bool, is_plain: bool | None = None
    ) -> None:
        self._arithmetic, self.pack = arithmetic, pack
        self._model: Any = model
        if is_plain is None:
            self._head = _plain_head(self._model, arithmetic)
        else:
            self._head = self._model.get_output_embeddings() if is_plain else None

    @property
    def device(self) -> torch.device:
        """Return where rows are computed."""
        return self._arithmetic.device

    @property
    def is_plain(self) -> bool:
        """Return whether logits are a product with the output matrix and nothing more."""
        return self._head is not None

    def batch(self, rows: Sequence[Row]) -> RowBatch:
        """Return rows as tensors on the model's device."""
        return batch_of(rows, self._arithmetic.device, pack=self.pack)

    def of(self, batch: RowBatch) -> Tensor:
        """Return the sum of weight times cross entropy, a scalar float32."""
        given = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}
        if batch.mask is None:
            given["position_ids"] = batch.positions
        with self._arithmetic.autocast():
            if self._head is None:
                logits = self._model(**given).logits.flatten(0, 1)[batch.picked]
                losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
                return (losses * batch.weights).sum()
            hidden = self._model.get_decoder()(**given).last_hidden_state.flatten(0, 1)
        loss: Tensor = _HeadLoss.apply(
            hidden[batch.picked].to(self._arithmetic.dtype),
            self._head.weight,
            batch.targets,
            batch.weights,
            self._arithmetic.dtype,
        )
        return loss


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """Logits and their loss, a few tokens at a time; the gradients are computed on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """hidden: [tokens, n_embd] in dtype. weight: [n_vocab, n_embd]. Returns a scalar float32."""
        needs = ctx.needs_input_grad
        table = weight.to(dtype)
        d_hidden = torch.empty_like(hidden) if needs[0] else None
        d_weight = torch.zeros_like(weight) if needs[1] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = max(16, LOGITS_AT_ONCE // weight.shape[0])
        for at in range(0, len(hidden), size):
            part = slice(at, at + size)
            x, y, w = hidden[part], targets[part], weights[part]
            logs = torch.log_softmax((x @ table.T).float(), dim=-1)
            total -= (logs.gather(1, y[:, None])[:, 0] * w).sum()
            if d_hidden is None and d_weight is None:
                continue
            slope = logs.exp_()
            slope[torch.arange(len(y), device=y.device), y] -= 1.0
            slope *= w[:, None]
            slope = slope.to(dtype)
            if d_hidden is not None:
                torch.mm(slope, table, out=d_hidden[part])
            if d_weight is not None:
                d_weight += slope.T @ x
        ctx.save_for_backward(*(one for one in (d_hidden, d_weight) if one is not None))
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        """Return the gradients, which were computed before, times the loss's own."""
        saved = list(ctx.saved_tensors)
        needs = ctx.needs_input_grad
        found = [saved.pop(0).mul_(slope) if need else None for need in needs[:2]]
        return (*found, None, None, None)


def _plain_head(model: Any, arithmetic: Arith) -> nn.Linear | None:
    """Return the output matrix if the logits are its product and nothing more; found by trying."""
    head = model.get_output_embeddings() if hasattr(model, "get_decoder") else None
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return None
    ids = torch.arange(1, 9, device=arithmetic.device)[None] % head.weight.shape[0]
    with torch.no_grad(), _evaluating(model), arithmetic.autocast():
        logits = model(input_ids=ids, use_cache=False).logits
        product = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return head if _alike(logits, product) else None


def keeps_apart(model: nn.Module, arithmetic: Arith) -> bool:
    """Return whether a model reads each example of a row as if it were alone; found by trying."""
    base: Any = model
    ids = torch.arange(1, 17, device=arithmetic.device)[None] % base.config.vocab_size
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None].to(arithmetic.device)
    with torch.no_grad(), _evaluating(base), arithmetic.autocast():
        together = base(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = [base(input_ids=one, use_cache=False).logits for one in ids.split([7, 9], dim=1)]
    return _alike(together, torch.cat(alone, dim=1))


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two results differ by rounding alone, of half as many bits as they have."""
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return bool((one - other).float().norm() <= tolerance * other.float().norm() + 1e-9)


class _evaluating:  # noqa: N801 - a context
    def __init__(self, model: nn.Module) -> None:
        self._model, self._was = model, model.training

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._was)
