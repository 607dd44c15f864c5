"""Which request runs in which slot, and what the next step computes. Pure."""

from dure.generate.scheduler.actions import (
    Action,
    DropPrefix,
    LoadPrefix,
    StorePrefix,
    adapters_of,
    prefix_key,
)
from dure.generate.scheduler.budget import PrefillLimits, PrefillSpeed
from dure.generate.scheduler.prefix_cache import MIN_COPIED
from dure.generate.scheduler.running import RunningRequest, StepTokens
from dure.generate.scheduler.scheduler import Scheduler, SchedulerLimits
from dure.generate.scheduler.slots import MIN_STORED

__all__ = [
    "MIN_COPIED",
    "MIN_STORED",
    "Action",
    "DropPrefix",
    "LoadPrefix",
    "PrefillLimits",
    "PrefillSpeed",
    "RunningRequest",
    "Scheduler",
    "SchedulerLimits",
    "StepTokens",
    "StorePrefix",
    "adapters_of",
    "prefix_key",
]
