"""AdamW with torch's semantics, computed by native code on the processor, also while backward still runs.

Knows torch's contract of an optimizer and what a caller may do between a backward pass and a step; refuses
to know how anything is computed.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.optim.optimizer import Optimizer, ParamsT

from dure.errors import UsageError
from dure.hardware.probe import n_cpus
from dure.tune.optimizer.kept import Kept, refuse_parameter, sharing_groups
from dure.tune.optimizer.native import loaded
from dure.tune.optimizer.round import Round, StepOutcome, Threads
from dure.tune.state_format import StateFormat

__all__ = ["OffloadedAdamW"]

_REFUSED = ("amsgrad", "maximize", "capturable", "differentiable")
_OURS = "offloaded"


class OffloadedAdamW(Optimizer):
    """torch.optim.AdamW, computed on the processor with its moments in memory, as gradients come.

    state: "fp32" as torch has it; "bf16" and "8bit" need a half and a quarter of the memory, and with
    bfloat16 weights they keep 8 further bits of each weight. max_norm: gradients are clipped to this norm
    of all of them together. overlap: begin while the backward pass runs. Then every backward pass but the
    last before a step belongs into `accumulating()`, and gradients must not be changed between the pass and
    the step: let this clip them. release: free each gradient as soon as its parameter has moved; with
    overlap and without max_norm only. threads: all that this process may use by default. seed: of rounding,
    for the same bits again. last_norm: of all gradients of the last step, before clipping; NaN without
    max_norm. n_skipped: steps whose gradients were not finite.

    With DistributedDataParallel, which changes gradients after they have come, give overlap=False.
    With FSDP2 (`fully_shard`) each process keeps and computes its part of each parameter, and the norm is
    that of all parts: every process must call step(). `state_dict` has this process's parts, plain tensors.
    A gradient that is not finite skips the step; without max_norm it skips the 64 values around it.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        state: str = StateFormat.FP32,
        max_norm: float | None = None,
        overlap: bool = True,
        release: bool = False,
        threads: int | None = None,
        seed: int = 0,
        **refused: object,
    ) -> None:
        for name, value in refused.items():
            if name not in (*_REFUSED, "foreach", "fused"):
                raise TypeError(f"OffloadedAdamW has no argument {name!r}")
            _refuse_option(name, value)
        if state not in list(StateFormat):
            raise UsageError(f"state={state!r}", f"one of {', '.join(StateFormat)}")
        if max_norm is not None and not max_norm > 0:
            raise UsageError(f"max_norm={max_norm}", "a number above 0, or None not to clip")
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}", "1 or more")
        if release and (max_norm is not None or not overlap):
            raise UsageError(
                f"release={release} with max_norm={max_norm} and overlap={overlap}",
                "gradients can be freed early only with overlap and without max_norm",
            )
        loaded()
        self._release = release
        self.last_norm = math.nan
        self.n_skipped = 0
        self._format = StateFormat(state)
        self._max_norm, self._overlap, self._seed = max_norm, overlap, seed
        self._threads = Threads(threads or n_cpus())
        self._kept: dict[Tensor, Kept] = {}
        self._places: dict[
            Tensor, tuple[int, int, int]
        ] = {}  # a number, its group, its place there
        self._sharing: dict[tuple[Any, ...], torch.device] = {}  # groups of processes with parts
        self._round: Round | None = None
        self._is_calm = self._is_accumulating = False
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own, as torch does."""
        for name in _REFUSED:
            _refuse_option(name, param_group.get(name))
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group)
            for i, parameter in enumerate(group["params"]):
                refuse_parameter(parameter, self._name_of(len(self.param_groups) - 1, i))
        except Exception:
            self.param_groups.pop()
            raise
        for i, parameter in enumerate(group["params"]):
            self._places[parameter] = (len(self._places), len(self.param_groups) - 1, i)
            if groups := sharing_groups(parameter):
                self._sharing.setdefault(groups, parameter.device)
        if self._overlap:
            coming = weakref.WeakMethod(self._gradient_comes)
            for parameter in group["params"]:
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(_calling(coming))

    def _name_of(self, group: int, i: int) -> str:
        found = self.param_groups[group]
        name = found["param_names"][i] if "param_names" in found else f"{i} of group {group}"
        return f"parameter {name}, of shape {list(found['params'][i].shape)},"

    def _keep(self, parameter: Tensor) -> tuple[Kept, dict[str, Any]]:
        """Return what is kept of a parameter, from its first gradient on, and its group."""
        number, group, i = self._places[parameter]
        if parameter not in self._kept:
            seed = (self._seed * 0x9E3779B1 + number * 0x85EBCA6B) & 0xFFFFFFFF
            marks = self._overlap and self._max_norm is not None
            name = self._name_of(group, i)
            self._kept[parameter] = Kept(parameter, name, self._format, seed, marks)
        return self._kept[parameter], self.param_groups[group]

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Let gradients of the backward passes within only add up: all but the last before a step."""
        before, self._is_accumulating = self._is_accumulating, True
        try:
            yield
        finally:
            self._is_accumulating = before

    def _new_round(self) -> Round:
        is_calm, sharing = self._is_calm and self._overlap, list(self._sharing.items())
        return Round(self._threads, self._format, self._max_norm, is_calm, sharing)

    @torch.no_grad()
    def _gradient_comes(self, parameter: Tensor) -> None:
        """Begin with a parameter's gradient, which is complete: called by the backward pass."""
        if self._is_accumulating or parameter.grad is None:
            return
        kept, group = self._keep(parameter)
        now = self._round
        if now is None:
            now = self._round = self._new_round()
        if now.has(kept):
            raise UsageError(
                f"{kept.name} has a gradient from a second backward pass before step()",
                "run all but the last in accumulating(), or give overlap=False; after a pass that failed, "
                "call zero_grad() first",
            )
        task = torch._C._current_graph_task_id()
        if task not in now.unfinished_passes:
            now.unfinished_passes.add(task)
            engine: Any = Variable._execution_engine
            engine.queue_callback(lambda: now.unfinished_passes.discard(task))
        now.hand_over(kept, group, parameter.grad)
        if self._release:
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make the step: wait for what is being computed, and compute what is left.

        Returns the closure's result. Raises UsageError if a backward pass before has not finished, and what
        a thread has raised. Then moments are as they were; without max_norm weights may have moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        now, self._round = self._round or self._new_round(), None
        if now.unfinished_passes:
            now.abandon()
            raise UsageError(
                "the backward pass before this step did not finish",
                "call zero_grad(), and run it again",
            )
        try:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None and parameter.numel():
                        kept, _ = self._keep(parameter)
                        if not now.has(kept):
                            now.hand_over(kept, group, parameter.grad, at_once=False)
        except BaseException:
            now.give_up()
            raise
        self._note(now.finish())
        return loss

    def _note(self, outcome: StepOutcome) -> None:
        self.last_norm = outcome.norm
        self.n_skipped += outcome.is_skipped
        self._is_calm = not outcome.is_clipped and not outcome.is_skipped

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, as torch does.

        A step that has begun is undone. Raises UsageError if it cannot be, as without max_norm, where
        weights move while the backward pass runs.
        """
        now, self._round = self._round, None
        if now is not None:
            now.abandon()
            if now.has_moved_weights and not now.unfinished_passes:
                raise UsageError(
                    "the gradients of the last backward pass were applied while they came",
                    "call step() after each pass, or give max_norm or overlap=False to leave steps out",
                )
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later run needs to repeat every bit, as torch's optimizers do."""
        if self._round is not None:
            raise UsageError("a step has begun: its state is not whole", "call step() first")
        for parameter, kept in self._kept.items():
            self.state[parameter] = kept.saved()
        saved: dict[str, Any] = super().state_dict()
        saved[_OURS] = {
            "state": self._format.value,
            "seed": self._seed,
            "last_norm": self.last_norm,
            "n_skipped": self.n_skipped,
            "is_calm": self._is_calm,
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state: of this class in the same format, or for fp32 of torch.optim.AdamW.

        Raises UsageError if it is of another format or of other parameters.
        """
        ours = state_dict.get(_OURS, {"state": "fp32"})
        if ours["state"] != self._format:
            raise UsageError(
                f"the saved state is {ours['state']}, this optimizer's is {self._format}",
                f"make the optimizer with state={ours['state']!r}: states are not converted",
            )
        for group in state_dict["param_groups"]:
            for name in _REFUSED:
                _refuse_option(name, group.get(name))
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self._kept.clear()
        self._round = None
        self._seed = ours.get("seed", self._seed)
        order = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for parameter, number in zip(order, numbers, strict=True):
            if number in state_dict["state"]:
                self._keep(parameter)[0].load(state_dict["state"][number])
        self.last_norm = ours.get("last_norm", math.nan)
        self.n_skipped = ours.get("n_skipped", 0)
        self._is_calm = ours.get("is_calm", False)


def _calling(method: weakref.WeakMethod[Any]) -> Callable[[Tensor], None]:
    """Return a hook that does not keep the optimizer alive."""

    def hook(parameter: Tensor) -> None:
        bound = method()
        if bound is not None:
            bound(parameter)

    return hook


def _refuse_option(name: str, value: object) -> None:
    if value:
        raise UsageError(f"{name}={value}", "leave it out, or use torch.optim.AdamW")


def _check_group(group: dict[str, Any]) -> None:
    """Raise UsageError if a group's options make no sense."""
    lr, eps, decay = float(group["lr"]), float(group["eps"]), float(group["weight_decay"])
    for name, value in (("lr", lr), ("eps", eps), ("weight_decay", decay)):
        if not value >= 0:
            raise UsageError(f"{name}={value}", "0 or more")
    if len(group["betas"]) != 2 or not all(0 <= float(beta) < 1 for beta in group["betas"]):
        raise UsageError(f"betas={group['betas']}", "two numbers from 0 to below 1")
