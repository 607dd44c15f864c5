"""AdamW's native code as it is installed, without torch: on a board, and on any other machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dure.tune.optimizer.native import (
    BLOCK,
    COLUMNS,
    SMALLEST_BASE,
    WIDE_BLOCK,
    ZERO,
    Format,
    Pass,
    Passes,
    StepStruct,
    TensorStruct,
)

N_STEPS, N = 24, 5 * WIDE_BLOCK + 200
LR, BETA1, BETA2, EPS, DECAY = 0.01, 0.9, 0.999, 1e-8, 0.1
MOVED = N_STEPS * LR  # by what a weight moves at most, roughly

Doubles = npt.NDArray[np.float64]


def as_bfloat(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def of_bfloat(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (values.astype(np.uint32) << 16).view(np.float32)


@dataclass
class Exact:
    """AdamW in float64, as its authors wrote it down."""

    weights: Doubles
    step: int = 0
    first: Doubles = field(default_factory=lambda: np.zeros(N))
    second: Doubles = field(default_factory=lambda: np.zeros(N))

    def learn(self, gradient: Doubles) -> None:
        self.step += 1
        self.first = BETA1 * self.first + (1 - BETA1) * gradient
        self.second = BETA2 * self.second + (1 - BETA2) * gradient**2
        root = np.sqrt(self.second / (1 - BETA2**self.step)) + EPS
        self.weights = self.weights * (1 - LR * DECAY)
        self.weights -= LR / (1 - BETA1**self.step) * self.first / root


class Computed:
    """The same by the native code, in one format."""

    def __init__(self, format_: Format, weights: npt.NDArray[np.float32]) -> None:
        self.is_bfloat, has_bytes = format_ >= Format.BF16_F32, format_ % 3 == Format.F32_8BIT
        blocks = -(-N // WIDE_BLOCK)
        fill = ZERO if has_bytes else 0
        self.weights = as_bfloat(weights) if self.is_bfloat else weights.copy()
        self._gradient = np.zeros_like(self.weights)
        kept: dict[str, npt.NDArray[Any]] = {
            "weights": self.weights,
            "gradient": self._gradient,
            "rest": np.full(2 * blocks * WIDE_BLOCK, fill, np.uint8),
            "first": np.full(4 * blocks * WIDE_BLOCK, fill, np.uint8),
            "second": np.zeros(4 * blocks * WIDE_BLOCK, np.uint8),
            "scales": np.zeros((blocks, COLUMNS), np.float32),
            "bases": np.full((blocks, COLUMNS), SMALLEST_BASE, np.uint16),
            "moved": np.zeros(-(-N // BLOCK), np.uint8),
        }
        self._kept, self._step = kept, 0
        self._tensor = TensorStruct(format=format_, seed=7)
        for name, values in kept.items():
            setattr(self._tensor, name, values.ctypes.data)

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """Return the weights, or what is their upper half."""
        is_bfloat = self.is_bfloat
        return of_bfloat(self.weights.view("u2")) if is_bfloat else self.weights.view("f4")

    def begin(self, gradient: npt.NDArray[np.float32]) -> None:
        self._step += 1
        self._tensor.turn = self._step
        self._gradient[:] = as_bfloat(gradient) if self.is_bfloat else gradient

    def do(self, action: Pass, scale: float = 1.0) -> Passes:
        step, before = self._step, max(1, self._step - 1)
        constants = StepStruct(
            beta1=BETA1,
            beta2=BETA2,
            rest1=1 - BETA1,
            rest2=1 - BETA2,
            step_size=LR / (1 - BETA1**step),
            root_scale=(1 - BETA2**step) ** -0.5,
            root_scale_before=(1 - BETA2**before) ** -0.5,
            eps=EPS,
            decay=1 - LR * DECAY,
            scale=scale,
        )
        passes = Passes([(self._tensor, constants, N, action)])
        passes.do()
        return passes


@pytest.mark.parametrize("format_", Format, ids=lambda one: one.name)
def test_weights_are_those_of_adamw(format_: Format) -> None:
    """In one pass, before and after the norm is known, and with a step that was taken back for clipping."""
    random = np.random.default_rng(3)
    start = random.standard_normal(N).astype(np.float32)
    if format_ >= Format.BF16_F32:
        start = of_bfloat(as_bfloat(start))
    computed, exact = Computed(format_, start), Exact(start.astype(np.float64))
    for step in range(N_STEPS):
        gradient = (random.standard_normal(N) * np.where(np.arange(N) % 5, 0.01, 1)).astype("f4")
        if computed.is_bfloat:
            gradient = of_bfloat(as_bfloat(gradient))
        scale = 0.25 if step % 4 == 2 else 1.0
        computed.begin(gradient)
        if step < N_STEPS // 2:
            computed.do(Pass.WHOLE, scale)
        else:
            squares = sum(map(sum, computed.do(Pass.EARLY).squares()))
            assert squares == pytest.approx(float((gradient.astype("f8") ** 2).sum()), rel=1e-6)
            if scale == 1.0:
                computed.do(Pass.FINISH)
            else:
                computed.do(Pass.UNDO)
                computed.do(Pass.WHOLE, scale)
        exact.learn(scale * gradient.astype(np.float64))
    difference = np.abs(computed.values - exact.weights)
    if format_ is Format.F32_F32:
        assert (difference <= 1e-6 * (1 + np.abs(exact.weights))).all()
        return
    if computed.is_bfloat:  # what is looked at are the upper halves of weights
        difference = np.maximum(0, difference - np.abs(exact.weights) / 128)
    assert difference.max() <= 0.4 * MOVED
    assert difference.mean() <= 0.03 * MOVED
