"""Machines of the planner's catalogue as a choice of types takes them: one can quantize for what one lacks.

Refuses to choose types.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.deploy.quantizing import Machines
from dure.errors import ResourceError
from dure.model.gguf import GgufFile
from dure.plan.outlook import Task, outlook_of
from dure.plan.setups import counted, setup_of

__all__ = ["machines_of_catalogue"]


def machines_of_catalogue(model: GgufFile, types: Sequence[str], nodes: str) -> Machines:
    """Return machines by their names in the catalogue, as in pi5-8gb:4, with the speeds it has of them.

    Raises UsageError if it has none of that name, and ResourceError if the model cannot be cut over them.
    """
    setup = setup_of(counted("--nodes", nodes))
    outlook = outlook_of(model, setup, Task())
    if outlook.prediction is None:
        raise ResourceError(f"{nodes}: {outlook.problem}", "name more machines, or others")
    has_experts = any("_exps." in name for name in model.tensors)
    factor = setup.engine.mixture_read.value if has_experts else 1.0
    time = outlook.prediction.generation
    return Machines(
        setup.names,
        tuple(
            {one: factor * device.processor.read_speed(one) for one in types}
            for device in setup.devices
        ),
        tuple(",".join(sorted(device.processor.features)) for device in setup.devices),
        tuple(part.share for part in outlook.parts) or (1.0,),
        time.sync_s + time.rest_s,
    )
