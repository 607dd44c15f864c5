"""What is kept of one parameter: its moments in one of three formats, and a mirror of distant weights.

Knows which tensors a format needs and where they lie; refuses to know when anything is computed.

A parameter whose memory is the processor's and dense is updated in place, in the order in which it lies
there. Another, on a GPU or with gaps, has a mirror in memory: gradients come there, weights go back.
Of a parameter that several processes divide (a DTensor, as FSDP makes them) only this one's part is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dure.errors import UsageError
from dure.tune.optimizer.native import (
    BLOCK,
    COLUMNS,
    SMALLEST_BASE,
    WIDE_BLOCK,
    ZERO,
    Format,
    TensorStruct,
)
from dure.tune.state_format import StateFormat

__all__ = ["Kept", "refuse_parameter", "sharing_groups", "state_bytes"]

_MOMENTS = {StateFormat.FP32: torch.float32, StateFormat.BF16: torch.bfloat16}


def refuse_parameter(parameter: Tensor, name: str) -> None:
    """Raise UsageError if a parameter is of a kind that is not computed here."""
    if parameter.dtype not in (torch.float32, torch.bfloat16):
        raise UsageError(
            f"{name} is {parameter.dtype}: only float32 and bfloat16 are computed",
            "convert the model first: model.to(torch.bfloat16)",
        )
    if parameter.layout is not torch.strided:
        raise UsageError(
            f"{name} is a {parameter.layout}", "give the optimizer plain, dense parameters"
        )
    if any(placement.is_partial() for placement in _placements(parameter)):
        raise UsageError(
            f"{name} is a sum that its processes have not computed yet ({parameter.placements})",
            "redistribute it to Shard or Replicate first",
        )


def sharing_groups(parameter: Tensor) -> tuple[Any, ...]:
    """Return the groups of processes that hold parts of a parameter; none if this process has all of it."""
    dims = [i for i, placement in enumerate(_placements(parameter)) if placement.is_shard()]
    return tuple(parameter.device_mesh.get_group(i) for i in dims)


def _placements(tensor: Tensor) -> tuple[Any, ...]:
    """Return how a DTensor lies on its processes; nothing for a plain tensor."""
    found: tuple[Any, ...] = getattr(tensor, "placements", ())
    return found


def _own_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor: all of a plain one."""
    tensor = tensor.detach()
    return tensor.to_local() if _placements(tensor) else tensor


def _part_number(parameter: Tensor) -> int:
    """Return a number of this process's part, the same for all processes that hold it."""
    number = 0
    for i, placement in enumerate(_placements(parameter)):
        if placement.is_shard():
            mesh = parameter.device_mesh
            number = number * mesh.size(i) + mesh.get_local_rank(i)
    return number


def state_bytes(shape: torch.Size, dtype: torch.dtype, state: StateFormat) -> int:
    """Return the bytes of the state of a parameter of this shape and type."""
    like = torch.empty(shape, dtype=dtype, device="meta")
    return sum(tensor.nbytes for tensor in _new_tensors(like, state).values())


def _new_tensors(like: Tensor, state: StateFormat) -> dict[str, Tensor]:
    """Return the state of weights that have not moved yet, by the names that it has in `state_dict`."""
    if state is StateFormat.EIGHT_BIT:
        return _new_bytes(like)
    moments = _MOMENTS[state]
    found = {
        "exp_avg": torch.zeros_like(like, dtype=moments),
        "exp_avg_sq": torch.zeros_like(like, dtype=moments),
    }
    if like.dtype == torch.bfloat16:
        rest = torch.int16 if state is StateFormat.FP32 else torch.int8
        found["rest"] = torch.zeros_like(like, dtype=rest)
    return found


def _new_bytes(like: Tensor) -> dict[str, Tensor]:
    blocks = -(-like.numel() // WIDE_BLOCK)
    values = (blocks, WIDE_BLOCK)

    def full(shape: tuple[int, int], value: int, dtype: torch.dtype) -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=like.device)

    found = {
        "direction": full(values, ZERO, torch.uint8),
        "exp_avg_sq": full(values, 0, torch.uint8),
        "direction_scale": full((blocks, COLUMNS), 0, torch.float32),
        "exp_avg_sq_base": full((blocks, COLUMNS), SMALLEST_BASE, torch.uint16),
    }
    if like.dtype == torch.bfloat16:
        found["rest"] = full(values, ZERO, torch.uint8)
    return found


class Kept:
    """The state of one parameter. tensors: by the names under which `state_dict` has them."""

    def __init__(
        self, parameter: Tensor, name: str, state: StateFormat, seed: int, marks: bool
    ) -> None:
        self.parameter, self.name, self.state = parameter, name, state
        self.step = 0
        self.groups = sharing_groups(parameter)
        like = _own_part(parameter)
        self.n = like.numel()
        self.format = Format(
            3 * (parameter.dtype == torch.bfloat16) + list(StateFormat).index(state)
        )
        self._mirrored = parameter.device.type != "cpu" or not _is_dense(like)
        self._stream: Any = None
        if parameter.device.type == "cuda":
            self._stream = torch.cuda.Stream(parameter.device)
        pinned = self._stream is not None
        self.weights = like
        if self._mirrored:
            self.weights = torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)
            self._gradient = torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)
        self._seen_version = -1
        self.tensors = _new_tensors(self.weights, state)
        blocks = -(-self.n // (WIDE_BLOCK if state is StateFormat.EIGHT_BIT else BLOCK))
        self._marks = torch.zeros(blocks if marks else 0, dtype=torch.uint8)
        seed = (seed + _part_number(parameter) * 0xC2B2AE35) & 0xFFFFFFFF
        self.struct = TensorStruct(format=self.format, seed=seed)
        self._point()

    def _point(self) -> None:
        """Tell the native code where the tensors are."""
        places = {
            "weights": self.weights,
            "rest": self.tensors.get("rest"),
            "first": self.tensors.get("exp_avg", self.tensors.get("direction")),
            "second": self.tensors["exp_avg_sq"],
            "scales": self.tensors.get("direction_scale"),
            "bases": self.tensors.get("exp_avg_sq_base"),
            "moved": self._marks,
        }
        for name, tensor in places.items():
            setattr(self.struct, name, None if tensor is None else tensor.data_ptr())

    def take(self, gradient: Tensor) -> tuple[Tensor, Any]:
        """Take a gradient: point the native code to it, in memory and in the order of the weights.

        Return the tensor that must live until it is read, and an event to wait for before, or None.
        Raises UsageError if it is sparse, or divided otherwise than its parameter.
        """
        if _placements(gradient) != _placements(self.parameter):
            raise UsageError(
                f"{self.name}: its gradient lies as {_placements(gradient) or 'a whole'}, and it lies as "
                f"{_placements(self.parameter) or 'a whole'}",
                "redistribute the gradient before step()",
            )
        gradient = _own_part(gradient)
        if gradient.layout is not torch.strided:
            raise UsageError(
                f"{self.name}: its gradient is sparse ({gradient.layout})",
                "make its embedding with sparse=False",
            )
        event = None
        if self._mirrored:
            self._refresh()
            event = self._bring(gradient)
            gradient = self._gradient
        else:
            here = _own_part(self.parameter)
            if self.weights.data_ptr() != here.data_ptr():  # `parameter.data` was replaced
                self._follow(here)
            if not _lies_as(gradient, self.weights):
                gradient = torch.empty_like(self.weights).copy_(gradient)
        self.struct.gradient = gradient.data_ptr()
        return gradient, event

    def _follow(self, replaced: Tensor) -> None:
        if not (_lies_as(replaced, self.weights) and _is_dense(replaced)):
            raise UsageError(
                f"{self.name} has another shape, type, device or order in memory than it had",
                "make the optimizer after the model is as it stays",
            )
        self.weights = replaced
        self._point()

    def _refresh(self) -> None:
        """Read weights that others have written, as when a model's state is loaded."""
        there = _own_part(self.parameter)
        version = int(there._version)
        if version != self._seen_version:
            self.weights.copy_(there)
            self._seen_version = version

    def _bring(self, gradient: Tensor) -> Any:
        if self._stream is None:
            self._gradient.copy_(gradient)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(gradient.device))
        with torch.cuda.stream(self._stream):
            self._gradient.copy_(gradient, non_blocking=True)
            gradient.record_stream(self._stream)
            event = torch.cuda.Event()
            event.record(self._stream)
        return event

    def send(self) -> None:
        """Write new weights back where the model has them; what comes next there waits for it."""
        if not self._mirrored:
            return
        there = _own_part(self.parameter)
        if self._stream is None:
            there.copy_(self.weights)
        else:
            with torch.cuda.stream(self._stream):
                there.copy_(self.weights, non_blocking=True)
            torch.cuda.current_stream(self.parameter.device).wait_stream(self._stream)
        self._seen_version = int(there._version)

    def saved(self) -> dict[str, Tensor]:
        """Return the state as `state_dict` has it: the kept tensors themselves, and the steps so far."""
        return {"step": torch.tensor(float(self.step)), **self.tensors}

    def load(self, saved: dict[str, Any]) -> None:
        """Take over a saved state. Raises UsageError if it is of another format or shape."""
        saved = dict(saved)
        step = saved.pop("step", None)
        if step is None or set(saved) != set(self.tensors):
            raise UsageError(
                f"{self.name}: the saved state has {', '.join(sorted(saved))}, "
                f"state={self.state.value!r} needs {', '.join(sorted(self.tensors))}",
                "make the optimizer with the state that was saved: states are not converted",
            )
        for name, tensor in self.tensors.items():
            given = saved[name]
            if given.shape != tensor.shape or given.dtype != tensor.dtype:
                raise UsageError(
                    f"{self.name}: the saved {name} is {given.dtype} {tuple(given.shape)}, "
                    f"here it is {tensor.dtype} {tuple(tensor.shape)}",
                    "make the optimizer with the same parameters and state",
                )
        for name, tensor in self.tensors.items():
            tensor.copy_(saved[name])
        self.step = int(step)


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor's values lie in memory without gaps and each once, in any order."""
    expected = 1
    for stride, size in sorted(
        (stride, size)
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        if size > 1
    ):
        if stride != expected:
            return False
        expected *= size
    return not tensor.is_conj() and not tensor.is_neg()


def _lies_as(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors have the same type, shape, device and order in memory."""
    return (
        one.dtype == other.dtype
        and one.device == other.device
        and one.shape == other.shape
        and not one.is_neg()
        and all(
            a == b
            for a, b, size in zip(one.stride(), other.stride(), one.shape, strict=True)
            if size > 1
        )
    )
